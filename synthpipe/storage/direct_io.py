"""Write an object in a background thread, and give the object its name when it is complete.

Local files are written with direct I/O, which bypasses the system's page cache. Copying into the cache takes longer
than rendering the pixels. Also, a shard is read again so late that its pages would have left the cache by then. Objects
in object stores are uploaded in parts.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from synthpipe.files.locations import Location
from synthpipe.files.writing import PARTIAL, Buffer, refuse_irregular, upload

_PAGE = mmap.PAGESIZE  # direct I/O reads and writes whole pages, in memory and in the file
_SMALLEST = 4 << 20  # bytes of a buffer
_DIRECT: int = getattr(os, "O_DIRECT", 0)
_unused: defaultdict[int, list[Buffer]] = defaultdict(list)  # free buffers by size; the first use of new memory is slow


class Target(Protocol):
    """Destination of the bytes of one object: a local file or an upload."""

    def write(self, data: Buffer) -> None:
        """Write bytes. The size of `data` is a multiple of the page size."""

    def finish(self, data: Buffer) -> None:
        """Write the last bytes, and make all bytes durable."""

    def appear(self) -> None:
        """Give the finished object its name."""

    def close(self) -> None:
        """Close the destination. If `appear` was not called, remove the object."""


class ObjectWriter:
    """Write a new object from its first byte to its last, without seeking.

    The caller fills one buffer while a background thread writes another.

    Parameters
    ----------
    path : Path or UPath
        The object's path. An existing object is replaced when the new one gets its name.

    Raises
    ------
    OSError
        The object cannot be created or written. Clients of object stores raise their own errors.
    """

    def __init__(self, path: Location) -> None:
        self._target: Target = LocalFile(path) if isinstance(path, Path) else upload(path)
        self._buffer, self._filled = _buffer(_SMALLEST), 0
        self._background = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def reserve(self, size: int) -> Buffer:
        """Return a buffer, (size,) uint8, for the next bytes. The caller must fill it before calling other methods."""
        if self._filled + size > self._buffer.size:
            self.wait()
            whole = self._filled // _PAGE * _PAGE
            rest = self._buffer[whole : self._filled]
            following = _buffer(rest.size + size)
            following[: rest.size] = rest
            self._writing = self._background.submit(self._write, self._buffer, whole)
            self._buffer, self._filled = following, rest.size
        start, self._filled = self._filled, self._filled + size
        return self._buffer[start : self._filled]

    def finish(self) -> None:
        """Start to write the remaining bytes, and to make all bytes durable, in the background."""
        self.wait()
        self._writing = self._background.submit(self._target.finish, self._buffer[: self._filled])

    def wait(self) -> None:
        """Wait until the background thread has written all bytes that were submitted."""
        if self._writing:
            self._writing.result()

    def appear(self) -> None:
        """Give the finished object its name."""
        self._target.appear()

    def close(self) -> None:
        """Close the object. If `appear` was not called, remove the object."""
        self._background.shutdown()
        self._target.close()
        _unused[self._buffer.size].append(self._buffer)

    def _write(self, buffer: Buffer, size: int) -> None:
        self._target.write(buffer[:size])
        _unused[buffer.size].append(buffer)


class LocalFile:
    """A file that is written under a temporary name, with direct I/O where the file system supports direct I/O."""

    def __init__(self, path: Path) -> None:
        refuse_irregular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._temporary = path, path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        self._descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._file = os.fdopen(self._descriptor, "wb", buffering=0)
        self._cached = False
        self._use_cache(not _DIRECT)

    def write(self, data: Buffer) -> None:
        self._write(data)
        if self._cached:
            os.fsync(self._descriptor)  # so the disk writes while the next samples are rendered

    def finish(self, data: Buffer) -> None:
        whole = data.size // _PAGE * _PAGE
        self._write(data[:whole])
        self._use_cache()
        self._write(data[whole:])
        os.fsync(self._descriptor)  # otherwise a power cut could leave the name without the bytes

    def appear(self) -> None:
        self._file.close()  # some file systems refuse to rename a file that is open
        self._temporary.replace(self._path)

    def close(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self, data: Buffer) -> None:
        while data.size:
            try:
                data = data[os.write(self._descriptor, data) :]  # type: ignore[arg-type]
            except OSError as error:
                if self._cached or error.errno != errno.EINVAL:
                    raise
                self._use_cache()  # the file system needs more alignment than a page, or wrote only a part of a page

    def _use_cache(self, wanted: bool = True) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & ~_DIRECT
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags if wanted else flags | _DIRECT)
            self._cached = wanted
        except OSError:  # the file system always uses the cache
            self._cached = True


def _buffer(size: int) -> Buffer:
    """Return at least `size` bytes of memory, aligned to a page."""
    size = max(_SMALLEST, 1 << (size - 1).bit_length())
    try:
        return _unused[size].pop()
    except IndexError:
        memory = np.empty(size + _PAGE, np.uint8)  # NumPy asks the system for huge pages
        return memory[(start := -memory.ctypes.data % _PAGE) : start + size]
