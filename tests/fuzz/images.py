"""Damaged pictures: small sound ones of every kind that synthpipe reads, with a few bytes changed.

``python -m tests.fuzz.images COUNT SEED`` decodes COUNT of them with at most 1.5 GiB of memory. It prints those that
take long, raise something else than a `CatalogError`, or warn.
"""

from __future__ import annotations

import io
import resource
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from synthpipe.core.errors import CatalogError
from synthpipe.patches.pixels import decode_bytes

_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_MEMORY = 3 << 29
_SLOW = 5.0  # seconds


def damaged_image(rng: np.random.Generator) -> tuple[str, bytes]:
    """Return the name of a kind of picture, and a file of it that is damaged in one to eight places."""
    kinds = sound_images()
    name = str(rng.choice(sorted(kinds)))
    data = bytearray(kinds[name])
    for _ in range(rng.integers(1, 9)):
        data = _DAMAGES[rng.integers(len(_DAMAGES))](data, rng)
    return name, _mended(bytes(data)) if rng.random() < 0.5 else bytes(data)


@cache
def sound_images() -> Mapping[str, bytes]:
    """Return a small sound file of each kind, with metadata."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(40), np.arange(50))[..., None] * [2, 1, 3] % 256
    rgb = Pillow.fromarray((smooth + rng.integers(0, 9, (40, 50, 3))).clip(0, 255).astype(np.uint8))
    grey, palette, deep = (
        rgb.convert("L"),
        rgb.quantize(16),
        Pillow.fromarray(np.asarray(rgb.convert("L")) * np.uint16(257)),
    )
    modes = {"rgb": rgb, "grey": grey, "palette": palette, "bit": rgb.convert("1"), "deep": deep}
    exif = Pillow.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, "a note", {0x9286: "another"}
    metadata: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": bytes(300)}
    found = {}
    for name, picture in {**modes, "rgba": rgb.convert("RGBA"), "grey-alpha": rgb.convert("LA")}.items():
        found[f"png-{name}"] = _saved(picture, "PNG", **metadata)
    found["png-transparent"] = _saved(palette, "PNG", transparency=bytes(16))
    found["png-animated"] = _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)])
    found["png-interlaced"] = _interlaced()
    for name, picture in {"rgb": rgb, "grey": grey, "cmyk": rgb.convert("CMYK")}.items():
        found[f"jpeg-{name}"] = _saved(picture, "JPEG", **metadata)
        found[f"jpeg-{name}-progressive"] = _saved(picture, "JPEG", progressive=True)
    found["jpeg-pages"] = _saved(rgb, "MPO", save_all=True, append_images=[rgb])
    tiffs = {**modes, "rgba": rgb.convert("RGBA"), "cmyk": rgb.convert("CMYK"), "ycbcr": rgb.convert("YCbCr")}
    for name, picture in tiffs.items():
        found[f"tiff-{name}-raw"] = _saved(picture, "TIFF", **metadata)
        own = {"bit": ("group3", "group4"), "palette": (), "deep": ()}.get(name, ("jpeg",))
        for codec in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma", *own):
            found[f"tiff-{name}-{codec}"] = _saved(picture, "TIFF", compression=codec)
    found["tiff-big"] = _saved(rgb, "TIFF", big_tiff=True)
    found["tiff-strips"] = _saved(rgb, "TIFF", compression="tiff_lzw", strip_size=300)
    found["tiff-tiled"] = _tiled(np.asarray(grey))
    found["tiff-pages"] = _saved(rgb, "TIFF", save_all=True, append_images=[grey, palette])
    for name, picture in modes.items():
        if name != "deep":
            found[f"bmp-{name}"] = _saved(picture, "BMP")
    found["bmp-rle"] = _run_lengths(np.asarray(palette), palette.getpalette() or [])
    return found


def _saved(picture: Pillow.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _interlaced() -> bytes:
    """Return an interlaced grey PNG of 8 x 8 pixels, and with text that is compressed."""
    passes = b"".join(
        (b"\0" + bytes(range(width))) * height
        for width, height in ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    )
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    text = b"note\0\0" + zlib.compress(bytes(5000))
    chunks = (b"IHDR", header), (b"zTXt", text), (b"IDAT", zlib.compress(passes)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _tiled(grey: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Return a grey TIFF in deflated tiles of 16 x 16."""
    height, width = grey.shape
    padded = np.pad(grey, [(0, -height % 16), (0, -width % 16)])
    tiles = [
        zlib.compress(padded[y : y + 16, x : x + 16].tobytes())
        for y in range(0, height, 16)
        for x in range(0, width, 16)
    ]
    offsets = (8 + np.cumsum([0, *map(len, tiles)])).tolist()
    tables = struct.pack(f"<{len(tiles)}I", *offsets[:-1]) + struct.pack(f"<{len(tiles)}I", *map(len, tiles))
    at = offsets[-1]
    tags = [(256, width), (257, height), (258, 8), (259, 8), (262, 1), (277, 1), (322, 16), (323, 16)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries += [struct.pack("<HHII", tag, 4, len(tiles), at + 4 * len(tiles) * n) for n, tag in enumerate((324, 325))]
    head = struct.pack("<2sHI", b"II", 42, at + len(tables))
    return head + b"".join(tiles) + tables + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def _run_lengths(indices: np.ndarray[Any, np.dtype[np.uint8]], palette: list[int]) -> bytes:
    """Return a palette BMP in run lengths."""
    height, width = indices.shape
    rows = [b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in indices[::-1]]
    colors = b"".join(bytes((*palette[3 * n : 3 * n + 3][::-1], 0)).ljust(4, b"\0") for n in range(16))
    data = b"".join(rows) + b"\0\1"
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 16, 0)
    offset = 14 + len(info) + len(colors)
    return struct.pack("<2sIII", b"BM", offset + len(data), 0, offset) + info + colors + data


Damage = Callable[[bytearray, np.random.Generator], bytearray]


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """Return an index, more often in the first or the last bytes, where headers and directories are."""
    size = max(1, len(data))
    near = min(size, 200)
    return int((rng.integers(size), rng.integers(near), size - 1 - rng.integers(near))[rng.integers(3)])


def _flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    if data:
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def _number(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Replace a number by one at the edge of what it may be."""
    at, size = _place(data, rng), int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice(_EDGES)) % 256**size
    data[at : at + size] = value.to_bytes(size, "little" if rng.random() < 0.5 else "big")
    return data


def _cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: _place(data, rng)] if rng.random() < 0.3 else data


def _insert(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = _place(data, rng)
    data[at:at] = rng.bytes(int(rng.integers(1, 20)))
    return data


def _remove(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = _place(data, rng)
    del data[at : at + int(rng.integers(1, 20))]
    return data


def _repeat(data: bytearray, rng: np.random.Generator) -> bytearray:
    at, size = _place(data, rng), int(rng.integers(1, 200))
    data[at:at] = data[at : at + size] * int(rng.integers(1, 50))
    return data


_DAMAGES: tuple[Damage, ...] = (_flip, _flip, _number, _number, _cut, _insert, _remove, _repeat)


def _mended(data: bytes) -> bytes:
    """Return a PNG with the checksums of its chunks made right, so that damage reaches what reads them."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    return data[:8] + b"".join(_mended_chunks(data))


def _mended_chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        body = data[at + 4 : at + 8 + size]
        yield data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    yield data[at:]


def harm(count: int, seed: int) -> Iterator[str]:
    """Decode damaged pictures in this process, and bound its memory; yield a line for each that does harm."""
    sound_images()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("always")
    for number in range(seed, seed + count):
        name, data = damaged_image(np.random.default_rng(number))
        start, fault = time.perf_counter(), ""
        with warnings.catch_warnings(record=True) as told:
            try:
                decode_bytes(data)
            except CatalogError as error:
                fault = "out of memory" if isinstance(error.__cause__, MemoryError) else ""
            except Exception as error:
                fault = repr(error)
        taken = time.perf_counter() - start
        fault = fault or "; ".join(str(each.message) for each in told)
        if fault or taken > _SLOW:
            yield f"seed {number}: {name}: {taken:.1f} s {fault}\n"


def peak() -> int:
    """Return the most memory that this process has had, in MiB; `resource` counts its parent's too."""
    (line,) = (line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


if __name__ == "__main__":
    sys.stdout.writelines(harm(int(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.write(f"peak {peak()} MiB\n")
