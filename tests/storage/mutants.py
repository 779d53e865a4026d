"""Chunks that are changed and still have right checksums, for decoders that must neither crash nor invent samples.

As a program, decodes many of them: in a process of its own, whose end tells whether one crashed. Payload and samples
lie just before memory that nobody may touch, so that one byte beyond either ends the process.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator

import numpy as np
from numcodecs import blosc
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from synthpipe.storage.chunks import ChunkCodec

_INTERESTING = (0, 1, 2, 4, 15, 16, 17, 127, 128, 255, 1 << 15, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
CODECS = {
    "lz4": ChunkCodec(False, blosc.Blosc("lz4", 5, blosc.NOSHUFFLE)),
    "lz4-bits": ChunkCodec(False, blosc.Blosc("lz4", 5, blosc.BITSHUFFLE)),
    "zstd": ChunkCodec(False, Zstd(1)),
    "text": ChunkCodec(True, Zstd(1)),
    "plain-text": ChunkCodec(True, None),
}
SIZES = (1, 100, 1000, 70_000, 400_000)


def mutants(payload: bytes, rng: np.random.Generator, header: int = 40) -> Iterator[bytes]:
    """Yield changed payloads without end: bytes and words, most of them in the header, cuts, and more bytes."""
    while True:
        data = bytearray(payload)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(min(header, len(data)) if rng.random() < 0.7 else len(data)))
            kind = rng.integers(4)
            if kind == 0:
                data[place] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                data[place] = int(rng.integers(256))
            else:
                near = int(rng.choice(_INTERESTING)) if kind == 2 else len(data) + int(rng.integers(-20, 21))
                word = (near & 0xFFFFFFFF).to_bytes(4, "little")
                data[place : place + 4] = word[: len(data) - place]
        if rng.random() < 0.2:
            data = data[: rng.integers(1, len(data) + 1)]
        yield bytes(data)


def samples(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return (size,) uint8 in runs, as masks have, with some noise."""
    values = np.repeat(rng.integers(0, 5, size // 50 + 1, np.uint8), 50)[:size]
    noisy = slice(size // 2, size // 2 + size // 10)
    values[noisy] = rng.integers(0, 256, len(values[noisy]))
    return values


class _Edge:
    """Memory that ends where nobody may touch it."""

    def __init__(self, size: int) -> None:
        self._pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, self._pages + mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if ctypes.CDLL(None, use_errno=True).mprotect(
            ctypes.c_void_p(address + self._pages), ctypes.c_size_t(mmap.PAGESIZE), 0
        ):
            raise OSError(ctypes.get_errno(), "mprotect")
        self._view = np.frombuffer(self._map, np.uint8)

    def end(self, size: int) -> NDArray[np.uint8]:
        return self._view[self._pages - size : self._pages]


def _decoded(codec: ChunkCodec, stored: NDArray[np.uint8], out: NDArray[np.uint8], fill: int) -> bytes:
    out[:] = fill
    codec.decode(stored, out)
    return out.tobytes()


def main(name: str, count: int, seed: int) -> None:
    """Decode mutants of one codec; print how many decoded and how many were refused."""
    rng, codec = np.random.default_rng(seed), CODECS[name]
    edges = _Edge(1 << 20), _Edge(1 << 20)
    decoded = refused = 0
    for size in SIZES:
        text = np.array(["é" * (number % 7) for number in range(size // 100 + 1)], object)
        plain: bytes = bytes(VLenUTF8().encode(text)) if codec.text else samples(size, rng).tobytes()
        payload = bytes(codec.compressor.encode(plain)) if codec.compressor else plain
        for mutant, _ in zip(mutants(payload, rng), range(count // len(SIZES)), strict=False):
            stored = edges[0].end(len(mutant))
            stored[:] = np.frombuffer(mutant, np.uint8)
            try:
                if codec.text:
                    codec.read(stored, text.shape, np.dtype("T"))
                else:
                    out = edges[1].end(size)
                    found = [_decoded(codec, stored, out, fill) for fill in (0, 255)]
                    assert found[0] == found[1], "samples are what the memory held before"
                decoded += 1
            except (ValueError, RuntimeError):
                refused += 1
    sys.stdout.write(f"{decoded} {refused}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
