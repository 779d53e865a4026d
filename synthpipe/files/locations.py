"""Paths on disks, URLs of any kind that fsspec supports, and errors about access to them."""

from __future__ import annotations

import stat
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import fsspec
from fsspec.utils import get_protocol
from upath import UPath

from synthpipe.core.errors import AccessError, StoreError, SynthpipeError, cause_of, code_of, cure_of, is_of_access
from synthpipe.core.packages import needs

Location = Path | UPath
"""A path on this machine's file systems, or a URL."""

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFLNK: "a link", stat.S_IFSOCK: "a socket"}
"""What is no file, by the type bits of its mode; all else is a device."""

_HTTP = ("http", "https")
_NO_PASSWORDS = ("s3", "s3a", "gs", "gcs")  # to them what stands before @ is a part of the bucket's name


def parse_location(text: str | Location) -> Location:
    """Return the path or the URL that a user wrote: ``runs/demo``, ``file:///data``, ``s3://bucket/run``.

    User name and password of an HTTP URL become options of its client, so the text of what is returned lacks them.
    `address` puts them back.

    Raises
    ------
    StoreError
        There is no such kind of URL, or a package that it needs is not installed.
    """
    if not isinstance(text, str):
        return text
    protocol = get_protocol(text).lower() if "://" in text else "file"  # to fsspec, a::b is a URL too
    if protocol in ("file", "local"):
        return Path(text.split("://", 1)[-1])
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    options: dict[str, Any] = {"use_listings_cache": False}  # other processes write there too
    if "@" in host and protocol in _NO_PASSWORDS:
        raise StoreError(
            f"{text}: holds credentials, which {protocol} does not take from a URL; give them to its client"
        )
    if "@" in host and protocol in _HTTP:
        user, _, host = host.rpartition("@")
        options["headers"] = {"Authorization": f"Basic {b64encode(unquote_to_bytes(user)).decode()}"}
    try:
        fsspec.get_filesystem_class(protocol)
        found: UPath = UPath(f"{scheme.lower()}://{host}{slash}{path}", **options)
        _ = found.path  # some refuse a URL only now
        return found
    except ImportError as error:
        name = getattr(error.__cause__, "name", None)  # fsspec names packages in words of its own
        raise StoreError(needs(text, [name]) if name else f"{text}: {error}") from error
    except Exception as error:  # of file systems that need more than a URL
        raise StoreError(f"{text}: {error}; expected a path, or a URL such as s3://bucket/run") from error


def address(path: Location) -> str:
    """Return the text that `parse_location` was given, with its credentials: to keep in memory only."""
    text = str(path)
    if isinstance(path, Path) or "headers" not in path.storage_options:
        return text
    user, _, password = b64decode(path.storage_options["headers"]["Authorization"].split()[1]).partition(b":")
    return text.replace("://", f"://{quote(user, safe='')}:{quote(password, safe='')}@", 1)


def in_memory(*locations: str | Location) -> bool:
    """Whether any of the locations is in the memory of this process, where other processes cannot see it."""
    return any(get_protocol(str(each)) == "memory" for each in locations)


@contextmanager
def translate_errors(
    path: Location, what: str, cure: str = "check the disk, then give the command again"
) -> Iterator[None]:
    """Turn what goes wrong while a file is read or written into an error that names it.

    Clients of object stores raise exceptions of their own besides `OSError`.

    Raises
    ------
    StoreError
        Says that `path` `what`, why, and what to do: `cure`, where the kind of error does not tell. An `AccessError`
        where rights, limits or the network are at fault.
    """
    try:
        yield
    except SynthpipeError:
        raise
    except Exception as error:
        if isinstance(path, Path) and not isinstance(error, OSError):
            raise
        kind = AccessError if is_of_access(error) else StoreError
        reason = _in_full(path, error)
        raise kind(f"{path}: {what}: {cause_of(reason)}; {cure_of(reason) or cure}") from error


def _in_full(path: Location, error: Exception) -> Exception:
    """Return why a store refuses; of a HEAD request it tells only the status, so it is asked again in other ways."""
    if not isinstance(path, Path) and code_of(error) in ("400", "403"):
        for ask in (path.fs.isdir, partial(path.fs.cat_file, start=0, end=1)):
            try:
                ask(path.path)
            except Exception as fuller:
                if (code_of(fuller) or "").isalpha() and is_of_access(fuller):
                    return fuller
    return error


@contextmanager
def translate_access_errors(path: Location) -> Iterator[None]:
    """Name `path` in what keeps it out of reach; other errors pass, such as that of a file that is not there.

    Raises
    ------
    AccessError
        Rights, limits of this process or the network do not let it be read.
    """
    try:
        yield
    except Exception as error:
        if is_of_access(error):
            with translate_errors(path, "cannot be read"):
                raise
        raise


def exists(path: Location) -> bool:
    """Whether there is something at a path.

    Raises
    ------
    AccessError
        A store refuses to tell; fsspec's own `isfile` takes that for no.
    """
    with translate_access_errors(path):
        if isinstance(path, Path):
            return path.exists()
        try:
            path.fs.info(path.path)
        except FileNotFoundError:
            return False
        return True
