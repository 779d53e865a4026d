"""Parse paths and URLs of all kinds that fsspec supports, and explain errors about access to them."""

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
"""Names for entries that are not regular files, by the type bits of their mode. All other types are devices."""

_HTTP = ("http", "https")
_NO_PASSWORDS = ("s3", "s3a", "gs", "gcs")  # in these URLs, the text before @ is part of the bucket's name


def parse_location(text: str | Location) -> Location:
    """Parse a path or a URL that a user wrote, such as ``runs/demo``, ``file:///data`` or ``s3://bucket/run``.

    The user name and password of an HTTP URL become options of the HTTP client, so the text of the returned URL does
    not contain them. `address` adds them again.

    Raises
    ------
    StoreError
        The kind of URL is unknown, or it needs a package that is not installed.
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
            f"{text}: contains credentials, but {protocol} URLs cannot hold credentials; set them in the environment "
            "or in the profile of the storage client"
        )
    if "@" in host and protocol in _HTTP:
        user, _, host = host.rpartition("@")
        options["headers"] = {"Authorization": f"Basic {b64encode(unquote_to_bytes(user)).decode()}"}
    try:
        fsspec.get_filesystem_class(protocol)
        found: UPath = UPath(f"{scheme.lower()}://{host}{slash}{path}", **options)
        _ = found.path  # some file systems refuse a URL only here
        return found
    except ImportError as error:
        name = getattr(error.__cause__, "name", None)  # fsspec's own message names packages in another way
        raise StoreError(needs(text, [name]) if name else f"{text}: {error}") from error
    except Exception as error:  # from file systems that need more than a URL
        raise StoreError(f"{text}: {error}; expected a path, or a URL such as s3://bucket/run") from error


def address(path: Location) -> str:
    """Return the text of a location with its credentials, as the user wrote it. Keep this text only in memory."""
    text = str(path)
    if isinstance(path, Path) or "headers" not in path.storage_options:
        return text
    user, _, password = b64decode(path.storage_options["headers"]["Authorization"].split()[1]).partition(b":")
    return text.replace("://", f"://{quote(user, safe='')}:{quote(password, safe='')}@", 1)


def in_memory(*locations: str | Location) -> bool:
    """Return whether one of the locations is a ``memory://`` URL, which other processes cannot read."""
    return any(get_protocol(str(each)) == "memory" for each in locations)


@contextmanager
def translate_errors(
    path: Location, what: str, cure: str = "check the disk, then run the command again"
) -> Iterator[None]:
    """Turn errors of reading or writing a file into a `StoreError` that names the file.

    Clients of object stores raise their own exceptions besides `OSError`.

    Parameters
    ----------
    path : Path or UPath
        The file.
    what : str
        The problem, such as ``cannot be written``.
    cure : str
        Advice for errors without specific advice.

    Raises
    ------
    StoreError
        The message has the path, the problem, the cause and advice. If permissions, limits or the network are the
        cause, the error is an `AccessError`.
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
    """Return the detailed error of an object store.

    A HEAD request gives only a status, so this function sends other requests.
    """
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
    """Turn errors about access into an `AccessError` that names `path`. Other errors pass, such as a missing file.

    Raises
    ------
    AccessError
        Permissions, limits of this process or the network prevent reading.
    """
    try:
        yield
    except Exception as error:
        if is_of_access(error):
            with translate_errors(path, "cannot be read"):
                raise
        raise


def exists(path: Location) -> bool:
    """Return whether a path exists.

    Raises
    ------
    AccessError
        An object store refuses the request. fsspec's own `isfile` would return False instead.
    """
    with translate_access_errors(path):
        if isinstance(path, Path):
            return path.exists()
        try:
            path.fs.info(path.path)
        except FileNotFoundError:
            return False
        return True
