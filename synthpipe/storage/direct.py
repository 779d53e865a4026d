"""Files that are written past the system's page cache, by a thread, while their next bytes are made.

Copying into the cache and finding it memory takes longer than rendering what is copied, and a shard is read again when
its pages would be long gone.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Buffer = NDArray[np.uint8]

_PAGE = mmap.PAGESIZE  # what goes past the cache begins and ends with a page, in memory and in the file
_SMALLEST = 4 << 20  # bytes of a buffer
_DIRECT: int = getattr(os, "O_DIRECT", 0)
_unused: defaultdict[int, list[Buffer]] = defaultdict(list)  # by size: memory is dear when it is first used


class DirectFile:
    """A new file that is written once, from its beginning to its end.

    One buffer is filled while another is written. A file system that cannot go past its cache uses it.

    Parameters
    ----------
    path : Path
        Of the file, which must not exist.

    Raises
    ------
    OSError
        The file cannot be made; from the methods: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._cached = False
        self._use_cache(not _DIRECT)
        self._buffer, self._filled = _buffer(_SMALLEST), 0
        self._background = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def room(self, size: int) -> Buffer:
        """Return the file's next `size` bytes, (size,) uint8, to be filled before any other method is called."""
        if self._filled + size > self._buffer.size:
            self.wait()
            whole = self._filled // _PAGE * _PAGE
            rest = self._buffer[whole : self._filled]
            following = _buffer(rest.size + size)
            following[: rest.size] = rest
            self._writing = self._background.submit(self._write_pages, self._buffer, whole)
            self._buffer, self._filled = following, rest.size
        start, self._filled = self._filled, self._filled + size
        return self._buffer[start : self._filled]

    def finish(self) -> None:
        """Begin to write what remains, and to force the file to the disk."""
        self.wait()
        self._writing = self._background.submit(self._write_rest)

    def wait(self) -> None:
        """Wait until what was begun is done."""
        if self._writing:
            self._writing.result()

    def close(self) -> None:
        """Close the file, finished or not."""
        self._background.shutdown()
        os.close(self._descriptor)
        _unused[self._buffer.size].append(self._buffer)

    def _write_pages(self, buffer: Buffer, size: int) -> None:
        self._write(buffer[:size])
        if self._cached:
            os.fsync(self._descriptor)  # so that the disk works meanwhile here too
        _unused[buffer.size].append(buffer)

    def _write_rest(self) -> None:
        whole = self._filled // _PAGE * _PAGE
        self._write(self._buffer[:whole])
        self._use_cache()
        self._write(self._buffer[whole : self._filled])
        os.fsync(self._descriptor)

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
    """Return at least `size` bytes of memory that begin with a page."""
    size = max(_SMALLEST, 1 << (size - 1).bit_length())
    try:
        return _unused[size].pop()
    except IndexError:
        memory = np.empty(size + _PAGE, np.uint8)  # NumPy asks the system for huge pages
        return memory[(start := -memory.ctypes.data % _PAGE) : start + size]
