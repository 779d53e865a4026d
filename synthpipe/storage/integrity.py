"""Check stored objects: every byte of a shard, and every field of a ``zarr.json``.

The expected shape and codecs come from an array in memory, never from metadata on the disk, which may be damaged. So
shards can be checked and read even if their ``zarr.json`` is damaged.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ShardingCodec
from zarr.core.buffer import default_buffer_prototype

from synthpipe.core.errors import StoreError
from synthpipe.core.strict_json import parse_json
from synthpipe.files.locations import Location, translate_access_errors
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import Buffer
from synthpipe.storage.chunks import CHECKSUM_BYTES, ChunkCodec, split_checksum
from synthpipe.storage.nodes import COPIES, METADATA
from synthpipe.storage.shards import shard_key, shard_numbers, shard_size


class DamageError(StoreError):
    """A stored object differs from the expected object.

    Attributes
    ----------
    found, expected : str
        The actual and the expected content.
    """

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"{found}; expected {expected}")
        self.found, self.expected = found, expected


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """An array with its expected metadata, and the folder that stores the array's objects.

    Attributes
    ----------
    path : Path or UPath
        The folder.
    array : zarr.Array
        An array with the expected metadata, in memory.
    """

    path: Location
    array: zarr.Array[Any]

    def object(self, shard: int) -> Location:
        """Return the path of a shard."""
        return self.path / shard_key(self.array, shard)

    def shards(self) -> frozenset[int]:
        """Return the numbers of the stored shards."""
        return shard_numbers(self.array, self.names())

    def decode(self, data: bytes) -> NDArray[Any]:
        """Check every byte of a shard and return its samples; see `decode_shard`."""
        return decode_shard(self.array, data)

    def names(self) -> list[str]:
        """Return the names of all entries in the folder."""
        with translate_access_errors(self.path):
            return [file.name for file in self.path.iterdir()] if self.path.is_dir() else []

    def read(self, shard: int) -> bytes:
        """Return the bytes of a shard's object.

        Raises
        ------
        OSError
            The object does not exist, is a link, is too large for a shard of the array, or cannot be read.
        """
        path, codec, size = self.object(shard), ChunkCodec.of(self.array), shard_size(self.array)
        if isinstance(path, Path) and path.is_symlink() and path.exists():
            raise OSError(errno.EINVAL, "is a link, expected a file")
        sample, dtype = self.array.shape[1:], self.array.dtype
        sharded = isinstance(self.array.metadata.codecs[0], ShardingCodec)  # type: ignore[union-attr]
        most = size * (codec.most_bytes(sample, dtype) + 16) if sharded else codec.most_bytes((size, *sample), dtype)
        return read_regular(path, most + CHECKSUM_BYTES)


def decode_shard(array: zarr.Array[Any], data: bytes) -> NDArray[Any]:
    """Check every byte of a shard and return all its samples, (N, ...), even those beyond the array's length.

    Parameters
    ----------
    array : zarr.Array
        An array with the expected metadata.
    data : bytes
        The whole object.

    Raises
    ------
    DamageError
        A checksum is wrong, bytes are missing or left over, or the bytes cannot be decoded.
    """
    codec, size, stored = ChunkCodec.of(array), shard_size(array), np.frombuffer(data, np.uint8)
    if not isinstance(array.metadata.codecs[0], ShardingCodec):  # type: ignore[union-attr]
        return _decode(codec, _checked(stored, "the checksum"), (size, *array.shape[1:]), array.dtype)
    chunks = list(_chunks(stored, size))
    samples = np.empty((size, *array.shape[1:]), array.dtype)
    for number, chunk in enumerate(chunks):
        payload = _checked(chunk, f"the checksum of sample {number}")
        samples[number] = _decode(codec, payload, array.shape[1:], array.dtype)
    return samples


def metadata_of(node: zarr.Array[Any] | zarr.Group) -> bytes:
    """Return the bytes of the ``zarr.json`` of an array or group."""
    found: bytes = node.metadata.to_buffer_dict(default_buffer_prototype())[METADATA].to_bytes()
    return found


def check_metadata(data: bytes, expected: bytes) -> None:
    """Check that a ``zarr.json`` has the expected fields and values. Its formatting does not matter.

    Consolidated metadata is ignored, because a user may add it, and the next build removes it.

    Raises
    ------
    DamageError
        A value differs, or the data is not JSON.
    """
    try:
        found, wanted = parse_json(data), json.loads(expected)
    except ValueError as error:
        raise DamageError(f"text that is not JSON: {error}", "the JSON that this version writes") from error
    for fields in (found, wanted):
        if isinstance(fields, dict):
            fields.pop(COPIES, None)
    for key, left, right in _unequal(found, wanted):
        raise DamageError(f"{key} is {_short(left)}", _short(right))


def _chunks(data: Buffer, count: int) -> Iterator[Buffer]:
    """Yield the chunks of a shard, which must follow one another without gaps up to the index at the end.

    Raises
    ------
    DamageError
        The index is wrong, or there is a gap.
    """
    start_of_index = len(data) - 16 * count - CHECKSUM_BYTES
    if start_of_index < 0:
        raise DamageError(f"{len(data)} bytes", f"at least {16 * count + CHECKSUM_BYTES}, the size of the index")
    index = np.frombuffer(_checked(data[start_of_index:], "the checksum of the index"), "<u8").reshape(-1, 2)
    end = 0
    for number, (offset, length) in enumerate(index.tolist()):
        if offset != end or end + length > start_of_index:
            raise DamageError(
                f"sample {number} at byte {offset} with {length} bytes",
                f"byte {end}, and at most {start_of_index - end} bytes",
            )
        end = offset + length
        yield data[offset:end]
    if end != start_of_index:
        raise DamageError(f"{start_of_index} bytes of samples", f"{end}, according to the index")


def _checked(data: Buffer, what: str) -> Buffer:
    """Return a chunk without its checksum. If the checksum is wrong, raise an error; `what` names the checksum."""
    try:
        return split_checksum(data)
    except ValueError as error:
        raise DamageError(f"{len(data)} bytes, and {what} is wrong", "bytes that match the checksum") from error


def _decode(codec: ChunkCodec, payload: Buffer, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        return codec.read(payload, shape, dtype)
    except (ValueError, RuntimeError) as error:
        raise DamageError(
            f"{len(payload)} bytes that cannot be decoded: {error}", f"samples of shape {shape}"
        ) from error


def _unequal(found: Any, wanted: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield each key at which two JSON values differ, with both values. Types differ too: ``true`` is not 1."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for field in sorted(found.keys() | wanted.keys()):
            yield from _unequal(found.get(field, ...), wanted.get(field, ...), f"{key}.{field}" if key else field)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (left, right) in enumerate(zip(found, wanted, strict=True)):
            yield from _unequal(left, right, f"{key}[{number}]")
    elif type(found) is not type(wanted) or found != wanted:
        yield key or "the content", found, wanted


def _short(value: Any) -> str:
    try:
        text = "nothing" if value is ... else json.dumps(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 80 else f"{text[:77]}..."
