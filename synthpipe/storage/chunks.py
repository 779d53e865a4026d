"""Chunks: how the samples of an array become bytes, and bytes samples.

The codecs are Zarr's own: little-endian bytes or vlen-utf8, then maybe zstd or Blosc, then CRC-32C. Whatever reads Zarr
v3 reads them; what is here does it without copies, and one chunk at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.abc.codec import Codec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, VLenUTF8Codec, ZstdCodec

from synthpipe.errors import StoreError

Samples = NDArray[Any] | Sequence[str]
Bytes = bytes | NDArray[np.uint8]
CHECKSUM_BYTES = 4

blosc.use_threads = False  # a worker has one core


@dataclass(frozen=True, slots=True)
class ChunkCodec:
    """The codecs of one array's chunks.

    Attributes
    ----------
    text : bool
        Whether samples are strings.
    compressor : numcodecs codec or None
        zstd, Blosc, or nothing.
    """

    text: bool
    compressor: Any

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> ChunkCodec:
        """Return the codec of an array's chunks: of the inner ones where it is sharded.

        Raises
        ------
        StoreError
            The array has codecs that synthpipe never writes.
        """
        codecs: Sequence[Codec] = array.metadata.codecs  # type: ignore[union-attr]
        if isinstance(codecs[0], ShardingCodec):
            codecs = codecs[0].codecs
        first, *others = codecs
        middle = [codec for codec in others if isinstance(codec, ZstdCodec | BloscCodec)]
        known = isinstance(first, BytesCodec | VLenUTF8Codec) and len(middle) == len(others) - 1 <= 1
        if not (known and isinstance(others[-1], Crc32cCodec)):
            names = ", ".join(type(codec).__name__ for codec in codecs)
            raise StoreError(f"{array.store_path}: has codecs {names}; expected what `synthpipe build` writes")
        return cls(isinstance(first, VLenUTF8Codec), _compressor(middle[0]) if middle else None)

    @property
    def stored_as_is(self) -> bool:
        """Whether a chunk is the array's own bytes, and their checksum."""
        return self.compressor is None and not self.text

    def encode(self, samples: Samples) -> list[Bytes]:
        """Return a chunk as pieces of bytes, to be stored one after the other; arrays are not copied."""
        if self.text:
            payload: Bytes = bytes(VLenUTF8().encode(np.asarray(samples, dtype=object)))
        else:
            numbers = np.asarray(samples)
            payload = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        if self.compressor:
            payload = bytes(self.compressor.encode(payload))
        return [payload, checksum(payload)]

    def decode(self, payload: Bytes, out: NDArray[Any]) -> None:
        """Decode a numeric chunk, without its checksum, into `out`: C-contiguous, of the chunk's shape and dtype.

        Raises
        ------
        ValueError, RuntimeError
            The bytes are no such chunk.
        """
        if self.compressor:
            self.compressor.decode(payload, out)
        else:
            out.reshape(-1).view(np.uint8)[:] = np.frombuffer(payload, np.uint8)


def checksum(data: Bytes) -> bytes:
    """Return the CRC-32C of `data` as it is stored: four bytes, little-endian."""
    value: int = google_crc32c.value(data)
    return value.to_bytes(CHECKSUM_BYTES, "little")


def _compressor(codec: Codec) -> Any:
    if isinstance(codec, BloscCodec):
        return blosc.Blosc(codec.cname.value, codec.clevel, _SHUFFLES[codec.shuffle.value], codec.blocksize)
    assert isinstance(codec, ZstdCodec)  # nosec B101 # for mypy: `of` admits no other
    return Zstd(codec.level)


_SHUFFLES = {"noshuffle": blosc.NOSHUFFLE, "shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}
