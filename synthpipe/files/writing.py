"""Write a file or an object completely or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from synthpipe.core.errors import StoreError
from synthpipe.files.locations import KINDS, Location, translate_errors

Buffer = NDArray[np.uint8]
"""(n,) uint8: bytes to write or to read."""

PARTIAL = ".partial"
"""End of the names of half-written files. A killed process leaves such files behind."""

_PART = 16 << 20  # bytes in each part of an upload


def write_atomically(path: Location, data: bytes | str, durable: bool = False) -> None:
    """Write a file so that readers see either the whole new file or the old file. Text is encoded as UTF-8.

    With `durable`, wait until the bytes are on the disk, so that a power cut cannot leave an empty file.

    Raises
    ------
    StoreError
        The file cannot be written; nothing is left behind.
    """
    content = data.encode() if isinstance(data, str) else data
    if isinstance(path, Path):
        stream_atomically(path, [content], durable)
        return
    with translate_errors(path, "cannot be written"):
        path.fs.pipe_file(path.path, content)


def stream_atomically(path: Location, chunks: Iterable[bytes], durable: bool = False) -> None:
    """Write a file from many chunks, like `write_atomically`. A file behind a URL is uploaded in parts.

    Raises
    ------
    StoreError
        The file cannot be written; nothing is left behind.
    """
    with translate_errors(path, "cannot be written"):
        if not isinstance(path, Path):
            with closing(upload(path)) as target:
                for chunk in chunks:
                    target.write(chunk)
                target.finish(b"")
                target.appear()
            return
        with replacing(path, durable) as file:
            file.writelines(chunks)


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` when the block ends without an error. After an error, nothing is left.

    Parameters
    ----------
    path : Path
        A file, or a name that does not exist yet.
    durable : bool
        Whether to wait until the bytes are on the disk.

    Raises
    ------
    StoreError
        `path` is a link, a folder, a pipe or a device.
    OSError
        The file cannot be written.
    """
    refuse_irregular(path)
    part = path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def first_bytes(path: Location, most: int) -> bytes | None:
    """Return the first bytes of a file that will be replaced, or None if there is no file.

    Raises
    ------
    StoreError
        The location is not a file, or cannot be read.
    """
    with translate_errors(path, "cannot be read"), suppress(FileNotFoundError):
        if isinstance(path, Path):
            refuse_irregular(path)
        with path.open("rb") as file:
            return bytes(file.read(most))
    return None


def refuse_irregular(path: Path) -> None:
    """Check that a path is missing or a regular file, so that it may be replaced. Links are not followed.

    Raises
    ------
    StoreError
        The path is a link, a folder, a pipe or a device.
    """
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            kind = KINDS.get(stat.S_IFMT(mode), "a device")
            raise StoreError(f"{path}: is {kind}, expected a file or a new name; remove it, or choose another name")


class Upload:
    """A new object that is uploaded in parts, and gets its name only at the end (`appear`)."""

    def __init__(self, path: UPath) -> None:
        self._file = path.fs.open(path.path, "wb", autocommit=False, block_size=_PART)
        self._appeared = False

    def write(self, data: Buffer | bytes) -> None:
        """Add bytes."""
        self._file.write(data)

    def finish(self, data: Buffer | bytes) -> None:
        """Add the last bytes, and end the upload."""
        self._file.write(data)
        self._file.close()

    def appear(self) -> None:
        """Give the finished object its name."""
        self._file.commit()
        self._appeared = True

    def close(self) -> None:
        """Release the upload. If `appear` was not called, nothing is left behind."""
        if not self._appeared:
            self._file.discard()
            self._file.closed = True  # otherwise garbage collection would upload the rest


class Collected:
    """A new object behind a URL without uploads in parts. Its bytes stay in memory until the end (`appear`)."""

    def __init__(self, path: UPath) -> None:
        self._path, self._data = path, bytearray()

    def write(self, data: Buffer | bytes) -> None:
        self._data += data.data if isinstance(data, np.ndarray) else data

    def finish(self, data: Buffer | bytes) -> None:
        self.write(data)

    def appear(self) -> None:
        self._path.fs.pipe_file(self._path.path, bytes(self._data))

    def close(self) -> None:
        self._data.clear()


def upload(path: UPath) -> Upload | Collected:
    """Begin a new object behind a URL. An existing object is replaced at the end."""
    return Upload(path) if path.fs.async_impl else Collected(path)
