"""Write whole objects in a thread, with direct I/O on a disk; an object appears when it is complete.

Direct I/O bypasses the system's page cache. Copying into the cache takes longer than rendering the pixels, and a shard
is read again only when its pages would have left the cache. Object stores take their objects in parts.
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

_PAGE = mmap.PAGESIZE  # direct I/O begins and ends with a page, in memory and in the file
_SMALLEST = 4 << 20  # bytes of a buffer
_DIRECT: int = getattr(os, "O_DIRECT", 0)
_unused: defaultdict[int, list[Buffer]] = defaultdict(list)  # by size: the first use of memory is slow


class Target(Protocol):
    """A destination for the bytes of one object."""

    def write(self, data: Buffer) -> None:
        """Add whole pages."""

    def finish(self, data: Buffer) -> None:
        """Add the last bytes, and make all bytes durable."""

    def appear(self) -> None:
        """Give the finished object its name."""

    def close(self) -> None:
        """Release the destination; an object that has not appeared leaves nothing behind."""


class ObjectWriter:
    """Write a new object once, from its first byte to its last.

    The caller fills one buffer while a thread writes another.

    Parameters
    ----------
    path : Path or UPath
        The object's path. An existing object is replaced when the new one appears.

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
        """Return the object's next `size` bytes, (size,) uint8, to be filled before any other method is called."""
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
        """Begin to write the remaining bytes and to make all bytes durable."""
        self.wait()
        self._writing = self._background.submit(self._target.finish, self._buffer[: self._filled])

    def wait(self) -> None:
        """Wait until the thread has written everything it was given."""
        if self._writing:
            self._writing.result()

    def appear(self) -> None:
        """Give the finished object its name."""
        self._target.appear()

    def close(self) -> None:
        """Release the object; if it has not appeared, nothing is left behind."""
        self._background.shutdown()
        self._target.close()
        _unused[self._buffer.size].append(self._buffer)

    def _write(self, buffer: Buffer, size: int) -> None:
        self._target.write(buffer[:size])
        _unused[buffer.size].append(buffer)


class LocalFile:
    """A file under a temporary name, written with direct I/O where the file system supports it."""

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
            os.fsync(self._descriptor)  # so that the disk works meanwhile here too

    def finish(self, data: Buffer) -> None:
        whole = data.size // _PAGE * _PAGE
        self._write(data[:whole])
        self._use_cache()
        self._write(data[whole:])
        os.fsync(self._descriptor)  # or a power cut could leave the name, and not the bytes

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
                self._use_cache()  # the file system asks for more than pages, or has taken a part of one

    def _use_cache(self, wanted: bool = True) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & ~_DIRECT
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags if wanted else flags | _DIRECT)
            self._cached = wanted
        except OSError:  # the file system always uses it
            self._cached = True


def _buffer(size: int) -> Buffer:
    """Return at least `size` bytes of memory, aligned to a page."""
    size = max(_SMALLEST, 1 << (size - 1).bit_length())
    try:
        return _unused[size].pop()
    except IndexError:
        memory = np.empty(size + _PAGE, np.uint8)  # NumPy asks the system for huge pages
        return memory[(start := -memory.ctypes.data % _PAGE) : start + size]
