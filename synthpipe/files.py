"""Where things lie, on a disk or at any URL that fsspec knows, and how a file is written as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import fsspec
from fsspec.utils import get_protocol
from upath import UPath

from synthpipe.errors import StoreError, SynthpipeError

Location = Path | UPath
"""A path on this machine's file systems, or a URL."""

PARTIAL = ".partial"
"""What the names of files end in that are being written; a process that was killed leaves them behind."""


def located(text: str | Location) -> Location:
    """Return the path or the URL that a user wrote: ``runs/demo``, ``file:///data``, ``s3://bucket/run``.

    Raises
    ------
    StoreError
        There is no such kind of URL, or a package that it needs is not installed.
    """
    if not isinstance(text, str):
        return text
    protocol = get_protocol(text)
    if protocol in ("file", "local"):
        return Path(text.split("://", 1)[-1])
    try:
        fsspec.get_filesystem_class(protocol)
        # other processes write there too: what was listed a second ago may be old
        return UPath(text, use_listings_cache=False)
    except ImportError as error:
        raise StoreError(f"{text}: {error}") from error
    except ValueError as error:
        raise StoreError(f"{text}: {error}; expected a path, or a URL such as s3://bucket/run") from error


def in_memory(*places: str | Location) -> bool:
    """Whether any of some places is in the memory of this process, where other processes cannot see it."""
    return any(get_protocol(str(place)) == "memory" for place in places)


@contextmanager
def told(path: Location, what: str, cure: str = "make room or mend it, then give the command again") -> Iterator[None]:
    """Turn what goes wrong while a file is read or written into an error that names it.

    Clients of object stores raise exceptions of their own besides `OSError`.

    Raises
    ------
    StoreError
        Says that `path` `what`, why, and the `cure`.
    """
    try:
        yield
    except SynthpipeError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: {what}: {error.strerror or error}; {cure}") from error
    except Exception as error:
        if isinstance(path, Path):
            raise
        raise StoreError(f"{path}: {what}: {error}; check the address, rights and network, then try again") from error


def write_atomically(path: Location, data: bytes | str, durable: bool = False) -> None:
    """Write a file, text in UTF-8: whoever looks sees all of it, or what was there before.

    `durable` waits until the bytes are on the disk, so that no power cut leaves an empty file under the name.

    Raises
    ------
    StoreError
        It cannot be written; nothing is left behind.
    """
    stream_atomically(path, [data.encode() if isinstance(data, str) else data], durable)


def stream_atomically(path: Location, chunks: Iterable[bytes], durable: bool = False) -> None:
    """Write a file of many chunks as `write_atomically` does; behind a URL they are gathered in memory first.

    Raises
    ------
    StoreError
        It cannot be written; nothing is left behind.
    """
    with told(path, "cannot be written"):
        if not isinstance(path, Path):
            path.fs.pipe_file(path.path, b"".join(chunks))
            return
        part = path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.writelines(chunks)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def sweep(folder: Location) -> None:
    """Remove what processes that were killed were writing below a folder; nobody else may be writing there."""
    if isinstance(folder, Path):  # what was uploaded in part, a store removes by its own rules
        for left in folder.rglob(f"*{PARTIAL}"):
            left.unlink(missing_ok=True)
