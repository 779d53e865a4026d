"""Read single samples fast, with one small read and one decode per sample. The index of a shard is read once.

zarr-python reads the index again for every sample, which takes milliseconds. `SampleReader` returns the same arrays as
zarr-python. A reader opens objects when they are first used, so a reader can be pickled, forked and spawned.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ShardingCodec

from synthpipe.core.errors import StoreError
from synthpipe.files.locations import Location, address, exists, parse_location, translate_errors
from synthpipe.files.reading import open_regular
from synthpipe.files.writing import Buffer
from synthpipe.storage.chunks import CHECKSUM_BYTES, ChunkCodec, checksum
from synthpipe.storage.nodes import HOW_TO_MEND, damaged
from synthpipe.storage.shards import object_path, shard_size

_OPEN_FILES = 256  # of all readers of a process; the usual limit is 1024
_REQUESTS = 16  # at once, for objects behind a URL
_MISSING = 2**64 - 1  # in a shard's index: a chunk that was never written


class _Object(Protocol):
    """An open object: a local file, or an object at a URL."""

    def read(self, offset: int, *buffers: Buffer) -> int:
        """Fill the buffers with the bytes from `offset` on. Return the number of bytes that were read."""

    def end(self, size: int) -> bytes:
        """Return the last `size` bytes, or all bytes of a smaller object."""


class _File:
    """An open local file, which is closed when nothing refers to it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = open_regular(path)

    def read(self, offset: int, *buffers: Buffer) -> int:
        return os.preadv(self._descriptor, buffers, offset)  # type: ignore[arg-type]  # arrays are buffers

    def end(self, size: int) -> bytes:
        length = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, min(size, length), max(0, length - size))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # bound now: `os` may be gone when Python ends
        if hasattr(self, "_descriptor"):
            close(self._descriptor)


class _Remote:
    """An object at a URL, which is read by byte ranges."""

    def __init__(self, path: Location) -> None:
        self._url = address(path)
        if not exists(path):
            raise FileNotFoundError(str(path))

    def read(self, offset: int, *buffers: Buffer) -> int:
        found = self._range(offset, offset + sum(map(len, buffers)))
        start = 0
        for buffer in buffers:
            part = found[start : start + len(buffer)]
            buffer[: len(part)] = np.frombuffer(part, np.uint8)
            start += len(buffer)
        return len(found)

    def end(self, size: int) -> bytes:
        return self._range(-size, None)

    def _range(self, start: int, stop: int | None) -> bytes:
        path = parse_location(self._url)  # a new client each time: a connection hangs after a fork
        assert not isinstance(path, Path)  # nosec B101 # for mypy: it is a URL
        with translate_errors(path, "cannot be read"):
            data: bytes = path.fs.cat_file(path.path, start=start, end=stop)
        return data


class _Recent:
    """The open files of all readers of this process. The least recently used files are closed first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], weakref.ref[SampleReader]] = OrderedDict()

    def touch(self, reader: SampleReader, shard: int) -> None:
        """Record that a reader uses a shard's file. If too many files are open, close the oldest."""
        with self._lock:
            self._held[id(reader), shard] = weakref.ref(reader)
            self._held.move_to_end((id(reader), shard))
            self._shrink(_OPEN_FILES)

    def clear(self) -> None:
        """Release all files."""
        with self._lock:
            self._shrink(0)

    def _shrink(self, most: int) -> None:
        while len(self._held) > most:
            (_, shard), held = self._held.popitem(last=False)
            if reader := held():
                reader.forget(shard)


_RECENT = _Recent()
os.register_at_fork(after_in_child=lambda: _RECENT.__init__())  # type: ignore[misc]  # another thread may hold the lock


class SampleReader:
    """Read the samples of a sharded array in any order. Each chunk of the array has one sample.

    Parameters
    ----------
    array : zarr.Array
        Images or masks that `synthpipe build` wrote.

    Attributes
    ----------
    shape : tuple of int
        The shape of the array.
    dtype : dtype
        The dtype of the array.

    Raises
    ------
    StoreError
        The array has other chunks or codecs.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        if not isinstance(array.metadata.codecs[0], ShardingCodec) or array.chunks[0] != 1:  # type: ignore[union-attr]
            raise StoreError(f"{array.store_path}: expected a sharded array with one sample per chunk")
        self._local = isinstance(object_path(array, 0), Path)
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        self._array = array
        self._codec = ChunkCodec.of(array)
        self._shard_size = shard_size(array)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[int, _Object] = {}
        self._indices: dict[int, NDArray[np.uint64]] = {}

    def forget(self, shard: int) -> None:
        """Release a shard's file. A read that has already started still completes."""
        self._files.pop(shard, None)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without open files, since each process opens its own files."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_files", "_indices")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, sample: int) -> NDArray[Any]:
        """Return one sample, as zarr-python returns it."""
        out = np.empty(self.shape[1:], self.dtype)
        self.read(sample, out)
        return out

    def read_many(self, samples: Sequence[int], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return samples in the given order, (n, ...), C-contiguous. If `out` is given, write the samples into it."""
        out = np.empty((len(samples), *self.shape[1:]), self.dtype) if out is None else out
        if self._local:
            for number, sample in enumerate(samples):
                self.read(sample, out[number])
        else:
            with ThreadPoolExecutor(_REQUESTS) as pool:
                list(pool.map(self.read, samples, out))
        return out

    def read(self, sample: int, out: NDArray[Any]) -> None:
        """Read one sample into `out`, a C-contiguous array of a sample's shape and dtype.

        Raises
        ------
        IndexError
            The array has no sample with this index.
        StoreError
            The chunk of the sample is damaged or missing; the message names the object.
        """
        if not -len(self) <= sample < len(self):
            raise IndexError(f"{self._array.store_path}: no sample {sample}; there are {len(self)}")
        shard, number = divmod(sample % len(self), self._shard_size)
        file, index = self._open(shard)
        offset, length = index[number].tolist()
        try:
            if offset == length == _MISSING:
                raise ValueError("the sample was never written")
            self._read_chunk(file, offset, length, out)
        except StoreError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(
                f"{object_path(self._array, shard)}: sample {sample} is damaged: {error}; {HOW_TO_MEND}"
            ) from error

    def _read_chunk(self, file: _Object, offset: int, length: int, out: NDArray[Any]) -> None:
        stored = np.empty(CHECKSUM_BYTES, np.uint8)
        if self._codec.stored_as_is:
            payload = out.reshape(-1).view(np.uint8)
        else:
            payload = np.empty(length - CHECKSUM_BYTES, np.uint8)
        found = file.read(offset, payload, stored)
        if found != length or found != payload.size + CHECKSUM_BYTES:
            raise ValueError(f"the chunk has {found} bytes, expected {payload.size + CHECKSUM_BYTES}")
        if checksum(payload) != stored.tobytes():
            raise ValueError("the checksum is wrong")
        if not self._codec.stored_as_is:
            self._codec.decode(payload, out)

    def _open(self, shard: int) -> tuple[_Object, NDArray[np.uint64]]:
        """Return a shard's file and index. Recently used files stay open."""
        with self._lock:
            file = self._files.get(shard)
            if file is None:
                path = object_path(self._array, shard)
                with translate_errors(path, "cannot be read"):
                    try:
                        file = _opened(path)
                    except FileNotFoundError as error:
                        raise StoreError(f"{path}: the file is missing; {HOW_TO_MEND}") from error
                    if shard not in self._indices:
                        self._indices[shard] = self._read_index(file, path)
                self._files[shard] = file
            _RECENT.touch(self, shard)
            return file, self._indices[shard]

    def _read_index(self, file: _Object, path: Location) -> NDArray[np.uint64]:
        size = 16 * self._shard_size
        data = file.end(size + CHECKSUM_BYTES)
        if len(data) < size + CHECKSUM_BYTES or checksum(data[:size]) != data[size:]:
            raise damaged(path, "the index of the shard is incomplete, or its checksum is wrong")
        index = np.frombuffer(data[:size], "<u8").reshape(-1, 2)
        most = self._codec.most_bytes(self.shape[1:], self.dtype)
        forged = ((index[:, 0] > most * self._shard_size) | (index[:, 1] > most)) & (index != _MISSING).any(axis=1)
        for number in np.flatnonzero(forged)[:1]:
            offset, length = index[number].tolist()
            raise damaged(path, f"sample {number} has {length} bytes at byte {offset}, expected at most {most} bytes")
        return index


def _opened(path: Location) -> _Object:
    """Open an object. If this process has too many open files, first release the files of all readers."""
    try:
        return _File(path) if isinstance(path, Path) else _Remote(path)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        _RECENT.clear()
        return _File(path) if isinstance(path, Path) else _Remote(path)
