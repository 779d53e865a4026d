"""Writing whole shards, and listing which are there.

One task encodes all samples of a shard and stores it as one object, atomically and durably; nobody else touches it, and
nothing is ever rewritten. A shard is always full: samples that lie beyond the array's length wait there until it is
lengthened. So the objects themselves are the ledger of a run.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from synthpipe.errors import StoreError
from synthpipe.storage.chunks import Bytes, ChunkCodec, Samples, checksum

_AT_ONCE = 64  # samples that one call of the system takes
_SYNC_BYTES = 4 << 20  # no fewer are sent to the disk at once


class ShardWriter:
    """Writes one shard of an array, some samples at a time, as one object that appears when it is complete.

    A context manager: what was not committed leaves nothing behind. On a local disk the object is written as samples
    come, is on the disk before it appears, and needs no memory of its own.

    Parameters
    ----------
    array : zarr.Array
        Where the shard belongs.
    shard : int
        Its number.
    """

    def __init__(self, array: zarr.Array[Any], shard: int) -> None:
        self._name = f"{array.store_path}: shard {shard}"
        self._target = array.store_path / _key(array, shard)
        self._codec = ChunkCodec.of(array)
        self._sharded = isinstance(array.metadata.codecs[0], ShardingCodec)  # type: ignore[union-attr]
        self._size = shard_size(array)
        self._lengths: list[int] = []
        self._path = local_path(array, shard)
        self._temporary = self._path and self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}.partial")
        self._descriptor = -1
        self._memory: list[bytes] = []
        self._background = ThreadPoolExecutor(1)
        self._syncing: Future[None] | None = None
        self._unsynced = 0

    def __enter__(self) -> ShardWriter:
        if self._temporary:
            try:
                self._temporary.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise self._unwritable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.shutdown()
        if self._temporary:
            os.close(self._descriptor)
            self._temporary.unlink(missing_ok=True)

    def write(self, samples: Samples) -> None:
        """Add samples, in their order; an array that is not sharded takes all at once.

        Raises
        ------
        StoreError
            There is no room, or the place cannot be written.
        """
        parts = [samples[number : number + 1] for number in range(len(samples))] if self._sharded else [samples]
        try:
            for start in range(0, len(parts), _AT_ONCE):
                chunks = [self._codec.encode(part) for part in parts[start : start + _AT_ONCE]]
                lengths = [sum(map(len, pieces)) for pieces in chunks]
                self._put([piece for pieces in chunks for piece in pieces], sum(lengths))
                self._lengths += lengths
                self._sync_meanwhile()
        except OSError as error:
            raise self._unwritable(error) from error

    def commit(self) -> None:
        """Store the shard: from here on it counts as done.

        Raises
        ------
        StoreError
            It has not as many samples as a shard, or cannot be stored.
        """
        if self._sharded and len(self._lengths) != self._size:
            raise StoreError(f"{self._name} takes {self._size} samples, got {len(self._lengths)}")
        try:
            if self._sharded:
                index = _index(self._lengths)
                self._put([index], len(index))
            if self._temporary and self._path:
                if self._syncing:
                    self._syncing.result()
                os.fsync(self._descriptor)  # or a power cut could leave the name of a shard, and not its bytes
                self._temporary.replace(self._path)
            else:
                sync(self._target.set(default_buffer_prototype().buffer.from_bytes(b"".join(self._memory))))
        except OSError as error:
            raise self._unwritable(error) from error

    def _put(self, pieces: Sequence[Bytes], size: int) -> None:
        self._unsynced += size
        written = os.writev(self._descriptor, pieces) if self._temporary else 0  # type: ignore[arg-type]
        if written < size:  # the system took a part, or this is no file
            rest = b"".join(map(bytes, pieces))[written:]
            if not self._temporary:
                self._memory.append(rest)
                return
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def _sync_meanwhile(self) -> None:
        """Have the disk write while the next samples are made: a thread that only waits for it costs no time."""
        if self._temporary and self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            if self._syncing:
                self._syncing.result()
            self._unsynced = 0
            self._syncing = self._background.submit(os.fsync, self._descriptor)

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(f"{self._target}: cannot be written: {error}; make room or mend it, then build again")


def write_shard(array: zarr.Array[Any], shard: int, samples: Samples) -> None:
    """Store shard number `shard` of `array`: as many samples as a shard holds, as one atomic object.

    Raises
    ------
    StoreError
        `samples` is not a whole shard, or the object cannot be stored.
    """
    if len(samples) != shard_size(array):
        raise StoreError(f"{array.store_path}: shard {shard} takes {shard_size(array)} samples, got {len(samples)}")
    with ShardWriter(array, shard) as writer:
        writer.write(samples)
        writer.commit()


def read_range(array: zarr.Array[Any], start: int, stop: int) -> NDArray[Any]:
    """Return the samples from `start` to `stop`.

    Raises
    ------
    StoreError
        A shard is damaged; the message names its object.
    """
    try:
        return np.asarray(array[start:stop])
    except (ValueError, RuntimeError, OSError) as error:
        size = shard_size(array)
        shards = range(start // size, -(-stop // size))
        if len(shards) > 1:  # find the one
            for shard in shards:
                read_range(array, shard * size, (shard + 1) * size)
        raise StoreError(
            f"{array.store_path / _key(array, shards[0])}: damaged: {error}; remove this object and build again: only "
            "its shard is made anew"
        ) from error


def read_small(array: zarr.Array[Any], indices: Sequence[int]) -> NDArray[Any]:
    """Return the samples at `indices` of an array that holds a shard's worth in a chunk: each chunk is read once."""
    size = shard_size(array)
    chunks = {chunk: read_range(array, chunk * size, (chunk + 1) * size) for chunk in {i // size for i in indices}}
    return np.stack([chunks[index // size][index % size] for index in indices])


def shard_size(array: zarr.Array[Any]) -> int:
    """Return how many samples a shard of `array` holds; where it is not sharded, a chunk."""
    return int((array.shards or array.chunks)[0])


def complete_shards(array: zarr.Array[Any]) -> frozenset[int]:
    """Return the numbers of the shards of `array` that are stored."""
    pattern = re.compile(r"c\.(\d+)" + r"\.0" * (array.ndim - 1))

    async def names() -> list[str]:
        return [name async for name in array.store_path.store.list_dir(array.store_path.path)]

    return frozenset(int(match[1]) for match in map(pattern.fullmatch, sync(names())) if match)


def shards_of(length: int, size: int) -> range:
    """Return the numbers of the shards that hold the first `length` samples."""
    return range(-(-length // size))


def local_path(array: zarr.Array[Any], shard: int) -> Path | None:
    """Return the file of a shard, or None where the store is not on a local disk."""
    store = array.store_path.store
    return Path(store.root, array.store_path.path, _key(array, shard)) if isinstance(store, LocalStore) else None


def _index(lengths: Sequence[int]) -> bytes:
    """Return the index that ends a shard: (offset, length) of each chunk, checksummed."""
    ends = np.cumsum(lengths, dtype="<u8")
    index = np.stack([ends - np.array(lengths, "<u8"), np.array(lengths, "<u8")], axis=1).astype("<u8").tobytes()
    return index + checksum(index)


def _key(array: zarr.Array[Any], shard: int) -> str:
    key: str = array.metadata.encode_chunk_key((shard,) + (0,) * (array.ndim - 1))
    return key
