"""Encode the samples of an array as chunks, and decode chunks.

The codecs are Zarr's own: little-endian bytes or vlen-utf8, then optionally zstd or Blosc, then CRC-32C. Any reader of
Zarr v3 can decode the chunks. This module encodes and decodes one chunk at a time, without copies.

A manipulated chunk can have a correct checksum. Decoders written in C trust the sizes in a chunk, so `decode` first
compares these sizes with the sizes of the payload and of the samples.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.abc.codec import Codec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, VLenUTF8Codec, ZstdCodec

from synthpipe.core.errors import StoreError

Samples = NDArray[Any] | Sequence[str]
Bytes = bytes | NDArray[np.uint8]
Stored = TypeVar("Stored", bytes, NDArray[np.uint8])
CHECKSUM_BYTES = 4
MOST_TEXT = 1 << 28
"""The largest size in bytes of a chunk of strings."""

_BLOSC_HEADER = struct.Struct("<4B3I")  # version, version of LZ4, flags, type size; samples, block, chunk in bytes
_BLOSC_VERSION = 2
_COPIED = 2  # a flag: the samples are not compressed
_LZ4 = 1  # the flags' upper three bits
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

blosc.use_threads = False  # a worker has one core


@dataclass(frozen=True, slots=True)
class ChunkCodec:
    """Encoder and decoder for the chunks of one array.

    Attributes
    ----------
    text : bool
        Whether the samples are strings.
    compressor : numcodecs codec or None
        The codec of zstd or Blosc; None without compression.
    """

    text: bool
    compressor: Any

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> ChunkCodec:
        """Return the codec of an array's chunks, or of the inner chunks if the array is sharded.

        Raises
        ------
        StoreError
            The array has codecs that synthpipe never writes.
        """
        codecs: Sequence[Codec] = array.metadata.codecs  # type: ignore[union-attr]
        known = True
        if isinstance(codecs[0], ShardingCodec):
            ends, index = settings(codecs[0])["index_location"] == "end", codecs[0].index_codecs
            known = ends and list(map(type, index)) == [BytesCodec, Crc32cCodec] and _little(index[0])
            codecs = codecs[0].codecs
        first, *others = codecs
        middle = [codec for codec in others if isinstance(codec, ZstdCodec) or _is_lz4(codec)]
        known &= (isinstance(first, VLenUTF8Codec) or _little(first)) and len(middle) == len(others) - 1 <= 1
        if not (known and isinstance(others[-1], Crc32cCodec)):
            names = ", ".join(type(codec).__name__ for codec in codecs)
            raise StoreError(
                f"{array.store_path}: unexpected codecs {names}; expected those that `synthpipe build` uses"
            )
        return cls(isinstance(first, VLenUTF8Codec), _compressor(middle[0]) if middle else None)

    @property
    def stored_as_is(self) -> bool:
        """Whether chunks are not compressed. Such a chunk has the bytes of its samples, then a checksum."""
        return self.compressor is None and not self.text

    def encode(self, samples: Samples) -> list[Bytes]:
        """Encode samples as a chunk. Return pieces of bytes to store one after the other; arrays are not copied.

        Raises
        ------
        StoreError
            The strings are too large to be read back.
        """
        if self.text:
            payload: Bytes = bytes(VLenUTF8().encode(np.asarray(samples, dtype=object)))
            if len(payload) > MOST_TEXT:
                raise StoreError(
                    f"the strings of a shard have {len(payload)} bytes, expected at most {MOST_TEXT}; lower store.shard"
                )
        else:
            numbers = np.asarray(samples)
            payload = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        if self.compressor:
            payload = bytes(self.compressor.encode(payload))
        return [payload, checksum(payload)]

    def decode(self, payload: Bytes, out: NDArray[Any]) -> None:
        """Decode a numeric chunk without its checksum into `out`, a C-contiguous array of the chunk's shape and dtype.

        Raises
        ------
        ValueError, RuntimeError
            The bytes cannot be decoded to this shape and dtype.
        """
        if self.compressor is None:
            _expect("bytes", len(payload), out.nbytes)
            out.reshape(-1).view(np.uint8)[:] = np.frombuffer(payload, np.uint8)
            return
        if isinstance(self.compressor, blosc.Blosc):
            _check_blosc(memoryview(payload), out.nbytes)  # type: ignore[arg-type]  # arrays are buffers
        else:
            _expect("bytes after unpacking", _unpacked_size(payload), out.nbytes)
        self.compressor.decode(payload, out)

    def read(self, payload: Bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode a chunk without its checksum. Return an array of `shape`.

        Strings are returned as objects; the dtype of other samples is `dtype`.

        Raises
        ------
        ValueError, RuntimeError
            The bytes cannot be decoded to this shape and dtype.
        """
        if self.text:
            return np.array(_strings(self._unpacked_text(payload), math.prod(shape)), dtype=object).reshape(shape)
        samples = np.empty(shape, dtype.newbyteorder("<"))
        self.decode(payload, samples)
        return samples

    def most_bytes(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
        """Return the largest possible size of a chunk with its checksum, in bytes."""
        size = MOST_TEXT if self.text else math.prod(shape) * dtype.itemsize
        return size + size // 128 + 1024

    def _unpacked_text(self, payload: Bytes) -> bytes:
        if self.compressor is None:
            return bytes(payload)
        size = _unpacked_size(payload)
        if size > MOST_TEXT:
            raise ValueError(f"the chunk has {size} bytes after unpacking, expected at most {MOST_TEXT}")
        out = np.empty(size, np.uint8)
        self.compressor.decode(payload, out)
        return out.tobytes()


def split_checksum(data: Stored) -> Stored:
    """Return a stored chunk without its checksum.

    Raises
    ------
    ValueError
        The checksum is wrong, or missing.
    """
    payload = data[:-CHECKSUM_BYTES]
    if len(data) < CHECKSUM_BYTES or checksum(payload) != bytes(data[-CHECKSUM_BYTES:]):
        raise ValueError("the checksum is wrong")
    return payload


def checksum(data: Bytes) -> bytes:
    """Return the CRC-32C of `data` as it is stored: four bytes, little-endian."""
    value: int = google_crc32c.value(data)
    return value.to_bytes(CHECKSUM_BYTES, "little")


def _expect(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{what}: {found}, expected {expected}")


def _check_blosc(payload: memoryview, size: int) -> None:
    """Refuse a Blosc chunk whose decoder would read beyond the payload, or would not write exactly `size` bytes.

    With a type size of one byte, each block is one LZ4 stream. A block has the length of the stream in four bytes, then
    the stream. After the header, the chunk lists the byte at which each block starts.
    """
    if len(payload) < _BLOSC_HEADER.size:
        raise ValueError(f"{len(payload)} bytes are too few for a Blosc chunk")
    version, _, flags, type_size, unpacked, block, stored = _BLOSC_HEADER.unpack_from(payload)
    _expect("version of Blosc", version, _BLOSC_VERSION)
    _expect("compressor of Blosc", flags >> 5, _LZ4)
    _expect("type size of Blosc", type_size, 1)
    _expect("bytes after unpacking", unpacked, size)
    _expect("bytes of the Blosc chunk", stored, len(payload))
    if not 0 < block <= size:
        raise ValueError(f"the blocks have {block} bytes, expected 1 to {size}")
    if flags & _COPIED:
        _expect("bytes of the samples", stored - _BLOSC_HEADER.size, size)
        return
    blocks = -(-size // block)
    first = _BLOSC_HEADER.size + 4 * blocks
    if first > stored:
        raise ValueError(f"the index of {blocks} blocks does not fit into {stored} bytes")
    for start in struct.unpack_from(f"<{blocks}I", payload, _BLOSC_HEADER.size):
        if not first <= start <= stored - 4:
            raise ValueError(f"a block starts at byte {start}, expected {first} to {stored - 4}")
        (length,) = struct.unpack_from("<I", payload, start)
        if length > stored - 4 - start:
            raise ValueError(f"the block at byte {start} has {length} bytes, expected at most {stored - 4 - start}")


def _unpacked_size(payload: Bytes) -> int:
    """Return the content size in the header of a zstd frame. Every frame that synthpipe writes has this size."""
    start = bytes(payload[:18])
    if len(start) < 5 or start[:4] != _ZSTD_MAGIC:
        raise ValueError("the chunk does not begin with a zstd frame")
    flags = start[4]
    single = bool(flags & 32)
    bytes_of_size = {0: int(single), 1: 2, 2: 4, 3: 8}[flags >> 6]
    position = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    if not bytes_of_size or len(start) < position + bytes_of_size:
        raise ValueError("the header of the zstd frame has no content size")
    return int.from_bytes(start[position : position + bytes_of_size], "little") + (256 if bytes_of_size == 2 else 0)


def _strings(data: bytes, count: int) -> list[str]:
    """Decode vlen-utf8: the number of strings, then the length and the bytes of each string."""
    found, position = [], 4
    _expect("strings", int.from_bytes(data[:4], "little"), count)
    for _ in range(count):
        start = position + 4
        position = start + int.from_bytes(data[start - 4 : start], "little")
        if position > len(data):
            raise ValueError(f"a string ends at byte {position}, but there are {len(data)} bytes")
        found.append(data[start:position].decode())
    _expect("bytes of strings", len(data), position)
    return found


def settings(codec: Codec) -> Mapping[str, Any]:
    """Return the settings of a codec as ``zarr.json`` stores them.

    In older versions of Zarr, the codec's attributes are enums.
    """
    found: Mapping[str, Any] = codec.to_dict().get("configuration", {})  # type: ignore[assignment]
    return found


def _little(codec: Codec) -> bool:
    return isinstance(codec, BytesCodec) and settings(codec).get("endian") in (None, "little")


def _is_lz4(codec: Codec) -> bool:
    return isinstance(codec, BloscCodec) and settings(codec)["cname"] in ("lz4", "lz4hc") and codec.typesize == 1


def _compressor(codec: Codec) -> Any:
    if isinstance(codec, BloscCodec):
        found = settings(codec)
        return blosc.Blosc(found["cname"], codec.clevel, _SHUFFLES[found["shuffle"]], codec.blocksize)
    assert isinstance(codec, ZstdCodec)  # nosec B101 # for mypy: `of` allows no other codec
    return Zstd(codec.level)


_SHUFFLES = {"noshuffle": blosc.NOSHUFFLE, "shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}
