"""Write whole shards. Each shard is one object, which gets its name when it is complete."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ShardingCodec

from synthpipe.core.errors import StoreError
from synthpipe.files.locations import translate_errors
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.storage.chunks import CHECKSUM_BYTES, Bytes, ChunkCodec, Samples, checksum
from synthpipe.storage.direct_io import ObjectWriter
from synthpipe.storage.shards import object_path, shard_size


class ShardWriter:
    """Write one shard of an array, some samples at a time. The shard appears when it is complete.

    The writer is a context manager; a shard that is not committed leaves nothing behind. A background thread writes
    samples while the caller makes further samples.

    Parameters
    ----------
    array : zarr.Array
        The array of the shard.
    shard : int
        The number of the shard.
    """

    def __init__(self, array: zarr.Array[Any], shard: int) -> None:
        self._path = object_path(array, shard)
        self._name = f"{array.store_path}: shard {shard}"
        self._codec = ChunkCodec.of(array)
        self._sharded = isinstance(array.metadata.codecs[0], ShardingCodec)  # type: ignore[union-attr]
        self._size = shard_size(array)
        self._shape, self._dtype = array.shape[1:], array.dtype
        self._samples: NDArray[Any] = np.empty((0, *self._shape), self._dtype)
        self._lengths: list[int] = []
        self._is_finished = False

    def __enter__(self) -> ShardWriter:
        with self._translated():
            self._object = ObjectWriter(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._object.close()

    @contextmanager
    def block(self, count: int) -> Iterator[NDArray[Any]]:
        """Yield an array (count, ...) for the next samples of a sharded numeric array. Add them when the block ends.

        Each sample is C-contiguous and has arbitrary values at first. Chunks without compression go to the disk from
        this memory, without a copy.

        Raises
        ------
        StoreError
            As for `write`.
        """
        if not (self._sharded and self._codec.stored_as_is):
            if len(self._samples) < count:
                self._samples = np.empty((count, *self._shape), self._dtype)
            yield self._samples[:count]
            self.write(self._samples[:count])
            return
        dtype = self._dtype.newbyteorder("<")
        size = math.prod(self._shape) * dtype.itemsize
        with self._translated():
            chunks = self._object.reserve(count * (size + CHECKSUM_BYTES)).reshape(count, -1)
        yield chunks[:, :size].view(dtype).reshape(count, *self._shape)
        for chunk in chunks:
            chunk[size:] = np.frombuffer(checksum(chunk[:size]), np.uint8)
        self._lengths += [chunks.shape[1]] * count

    def write(self, samples: Samples) -> None:
        """Add samples in order. For an array without shards, add all samples in one call.

        Raises
        ------
        StoreError
            The disk is full, or the path cannot be written.
        """
        parts = [samples[number : number + 1] for number in range(len(samples))] if self._sharded else [samples]
        with self._translated():
            for part in parts:
                self._lengths.append(self._put(*self._codec.encode(part)))

    def finish(self) -> None:
        """Begin to store the shard durably, after all samples were added.

        Raises
        ------
        StoreError
            The shard has too few or too many samples, or cannot be stored.
        """
        if self._sharded and len(self._lengths) != self._size:
            raise StoreError(f"{self._name}: got {len(self._lengths)} samples, expected {self._size}")
        with self._translated():
            if self._sharded:
                self._put(_index(self._lengths))
            self._object.finish()
        self._is_finished = True

    def wait(self) -> None:
        """Wait until the finished shard is on the disk.

        Raises
        ------
        RuntimeError
            The shard is not finished, so an incomplete shard would replace a complete shard.
        StoreError
            The shard cannot be stored.
        """
        if not self._is_finished:
            raise RuntimeError(f"{self._name} is not finished")
        with self._translated():
            self._object.wait()

    def appear(self) -> None:
        """Give the shard its name. The shard is complete from then on.

        Raises
        ------
        StoreError
            The shard cannot be stored.
        """
        with self._translated():
            self._object.appear()

    def _put(self, *pieces: Bytes) -> int:
        for piece in pieces:
            self._object.reserve(len(piece))[:] = np.frombuffer(piece, np.uint8)
        return sum(map(len, pieces))

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._path, "cannot be written")


def commit(*writers: ShardWriter) -> None:
    """Wait until all finished shards are on the disk, and then give them their names.

    Raises
    ------
    StoreError
        A shard cannot be stored.
    """
    for writer in writers:
        writer.wait()  # otherwise a power cut could leave the name of a shard without its bytes
    for writer in writers:
        writer.appear()


def write_shard(array: zarr.Array[Any], shard: int, samples: Samples) -> None:
    """Store shard number `shard` of `array` as one object, atomically.

    Raises
    ------
    StoreError
        `samples` is not a whole shard, or the object cannot be stored.
    """
    if len(samples) != shard_size(array):
        raise StoreError(f"{array.store_path}: shard {shard}: got {len(samples)} samples, expected {shard_size(array)}")
    if array.shards is None:  # too small for a background thread
        write_atomically(object_path(array, shard), _chunk(array, samples), durable=True)
        return
    with ShardWriter(array, shard) as writer:
        writer.write(samples)
        writer.finish()
        commit(writer)


def holds(array: zarr.Array[Any], shard: int, samples: Samples) -> bool:
    """Return whether a shard of a small array is stored exactly as `write_shard` would store these samples."""
    path = object_path(array, shard)
    with suppress(StoreError), translate_errors(path, "cannot be read"):
        expected = _chunk(array, samples)
        return read_regular(path, len(expected)) == expected
    return False


def _chunk(array: zarr.Array[Any], samples: Samples) -> bytes:
    return b"".join(map(bytes, ChunkCodec.of(array).encode(samples)))


def _index(lengths: Sequence[int]) -> bytes:
    """Return the index at the end of a shard: (offset, length) of each chunk, and then a checksum."""
    ends = np.cumsum(lengths, dtype="<u8")
    index = np.stack([ends - np.array(lengths, "<u8"), np.array(lengths, "<u8")], axis=1).astype("<u8").tobytes()
    return index + checksum(index)
