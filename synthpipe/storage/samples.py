"""Reading single samples fast: one small read and one decode each, from a shard's index that is read once.

zarr-python reads the index again for every sample, and takes milliseconds in all. `SampleReader` gives the same arrays
of stores on a local disk. It opens files when they are first asked for: so it may be pickled, forked and spawned.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ShardingCodec

from synthpipe.errors import StoreError
from synthpipe.storage.chunks import CHECKSUM_BYTES, Bytes, ChunkCodec, checksum
from synthpipe.storage.shards import local_path, shard_size

_OPEN_FILES = 32
_MISSING = 2**64 - 1  # in a shard's index: a chunk that was never written


class _OpenFile:
    """A file to read from, closed when the last who uses it lets go of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class SampleReader:
    """Random access to the samples of an array that holds one sample a chunk, in shards, on a local disk.

    Parameters
    ----------
    array : zarr.Array
        As `synthpipe build` writes images and masks.

    Attributes
    ----------
    shape : tuple of int
        The array's.
    dtype : dtype
        The array's.

    Raises
    ------
    StoreError
        The array is cut or encoded in another way, or lies elsewhere.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        if not isinstance(array.metadata.codecs[0], ShardingCodec) or array.chunks[0] != 1:  # type: ignore[union-attr]
            raise StoreError(f"{array.store_path}: is not cut into shards with one sample a chunk")
        if local_path(array, 0) is None:
            raise StoreError(f"{array.store_path}: is not on a local disk; copy it there to train from it")
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        self._array = array
        self._codec = ChunkCodec.of(array)
        self._shard_size = shard_size(array)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._indices: dict[int, NDArray[np.uint64] | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What a process that unpickles it needs: it opens its own files."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_files", "_indices")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, sample: int) -> NDArray[Any]:
        """Return one sample, equal to what zarr-python reads."""
        out = np.empty(self.shape[1:], self.dtype)
        self.read(sample, out)
        return out

    def read_many(self, samples: Sequence[int], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return samples in the order asked for, in `out` where it is given: (n, ...), C-contiguous."""
        out = np.empty((len(samples), *self.shape[1:]), self.dtype) if out is None else out
        for place, sample in enumerate(samples):
            self.read(sample, out[place])
        return out

    def read(self, sample: int, out: NDArray[Any]) -> None:
        """Read one sample into `out`: C-contiguous, of a sample's shape and the array's dtype.

        Raises
        ------
        IndexError
            There is no such sample.
        StoreError
            Its chunk is damaged; the message names the object.
        """
        if not -len(self) <= sample < len(self):
            raise IndexError(f"{self._array.store_path}: no sample {sample}; there are {len(self)}")
        shard, number = divmod(sample % len(self), self._shard_size)
        file, index = self._open(shard)
        if file is None or index is None:
            out[...] = self._array.fill_value
            return
        offset, length = index[number].tolist()
        if offset == length == _MISSING:
            out[...] = self._array.fill_value
            return
        try:
            self._read_chunk(file, offset, length, out)
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(
                f"{local_path(self._array, shard)}: sample {sample} is damaged: {error}; remove this object and build "
                "again: only its shard is made anew"
            ) from error

    def _read_chunk(self, file: _OpenFile, offset: int, length: int, out: NDArray[Any]) -> None:
        stored = bytearray(CHECKSUM_BYTES)
        if self._codec.stored_as_is:
            payload = out.reshape(-1).view(np.uint8)
        else:
            payload = np.empty(length - CHECKSUM_BYTES, np.uint8)
        found = os.preadv(file.descriptor, [payload, stored], offset)  # type: ignore[list-item]  # arrays are buffers
        if found != length or found != payload.size + CHECKSUM_BYTES:
            raise ValueError(f"has {found} bytes, expected {payload.size + CHECKSUM_BYTES}")
        if checksum(payload) != stored:
            raise ValueError("its checksum is wrong")
        if not self._codec.stored_as_is:
            self._codec.decode(payload, out)

    def _open(self, shard: int) -> tuple[_OpenFile | None, NDArray[np.uint64] | None]:
        """Return a shard's file and index, both None where it is not stored; the last few files stay open."""
        with self._lock:
            file = self._files.get(shard)
            if file is not None:
                self._files.move_to_end(shard)
                return file, self._indices[shard]
            if shard in self._indices and self._indices[shard] is None:
                return None, None
            path = local_path(self._array, shard)
            assert path
            try:
                file = _OpenFile(path)
            except FileNotFoundError:
                self._indices[shard] = None
                return None, None
            if shard not in self._indices:
                self._indices[shard] = self._read_index(file, path)
            self._files[shard] = file
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
            return file, self._indices[shard]

    def _read_index(self, file: _OpenFile, path: Path) -> NDArray[np.uint64]:
        size = 16 * self._shard_size
        start = os.fstat(file.descriptor).st_size - size - CHECKSUM_BYTES
        data: Bytes = os.pread(file.descriptor, size + CHECKSUM_BYTES, max(start, 0))
        if start < 0 or checksum(data[:size]) != data[size:]:
            raise StoreError(f"{path}: damaged: its index is; remove this object and build again")
        return np.frombuffer(data[:size], "<u8").reshape(-1, 2)
