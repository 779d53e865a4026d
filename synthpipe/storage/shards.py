"""Writing whole shards, and listing which are there.

One task encodes all samples of a shard and stores it as one object, atomically; nobody else touches it, and nothing is
ever rewritten. A shard is always full: samples that lie beyond the array's length wait there until it is lengthened.
So the objects themselves are the ledger of a run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.abc.codec import Codec
from zarr.codecs import ShardingCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from synthpipe.errors import StoreError

Samples = NDArray[Any] | Sequence[str]


def write_shard(array: zarr.Array[Any], shard: int, samples: Samples) -> None:
    """Store shard number `shard` of `array`: as many samples as a shard holds, as one atomic object.

    Raises
    ------
    StoreError
        `samples` is not a whole shard, or the object cannot be stored.
    """
    size = shard_size(array)
    if len(samples) != size:
        raise StoreError(f"{array.store_path}: shard {shard} takes {size} samples, got {len(samples)}")
    codecs: Sequence[Codec] = array.metadata.codecs  # type: ignore[union-attr]
    if isinstance(codecs[0], ShardingCodec):
        level = _zstd_level(codecs[0].codecs)
        payload = _join([_encode(samples[number : number + 1], level) for number in range(size)])
    else:
        payload = _encode(samples, _zstd_level(codecs))
    _put(array, shard, payload)


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


def read_samples(array: zarr.Array[Any], indices: Sequence[int]) -> NDArray[Any]:
    """Return the samples at `indices`, in their order.

    One read a sample: zarr's orthogonal selection takes twenty times as long on sharded arrays.
    """
    return np.concatenate([read_range(array, index, index + 1) for index in indices])


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


def _encode(samples: Samples, zstd_level: int) -> bytes:
    """Encode samples as the codecs of `schema` do: little-endian bytes or vlen-utf8, zstd, CRC-32C."""
    if isinstance(samples, np.ndarray):
        raw = np.ascontiguousarray(samples, samples.dtype.newbyteorder("<"))
    else:
        raw = VLenUTF8().encode(np.array(samples, dtype=object))
    return _checksummed(bytes(Zstd(zstd_level).encode(raw)))


def _join(chunks: Sequence[bytes]) -> bytes:
    """Lay encoded chunks one after the other, and behind them the index: (offset, length) of each, checksummed."""
    lengths = np.array([len(chunk) for chunk in chunks], "<u8")
    offsets = np.concatenate([np.zeros(1, "<u8"), np.cumsum(lengths[:-1], dtype="<u8")])
    index = np.stack([offsets, lengths], axis=1).astype("<u8")
    return b"".join([*chunks, _checksummed(index.tobytes())])


def _checksummed(data: bytes) -> bytes:
    checksum: int = google_crc32c.value(data)
    return data + checksum.to_bytes(4, "little")


def _zstd_level(codecs: Sequence[Codec]) -> int:
    return next(codec.level for codec in codecs if isinstance(codec, ZstdCodec))


def _key(array: zarr.Array[Any], shard: int) -> str:
    key: str = array.metadata.encode_chunk_key((shard,) + (0,) * (array.ndim - 1))
    return key


def _put(array: zarr.Array[Any], shard: int, payload: bytes) -> None:
    target = array.store_path / _key(array, shard)
    try:
        sync(target.set(default_buffer_prototype().buffer.from_bytes(payload)))
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error}; make room or mend it, then build again") from error
