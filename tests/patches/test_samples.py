"""Every row of the table in docs/images-and-masks.md: properties of files that change a picture."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile
from numpy.typing import NDArray

from synthpipe.core.errors import CatalogError
from synthpipe.core.records import PatchRef
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.export.form import from_png
from synthpipe.patches.pixels import decode, decode_mask, read_pixels
from synthpipe.segment.masks import MaskedImage

TAXONOMY = Taxonomy((TissueClass("tumour", (0, 64, 128)), TissueClass("stroma", (64, 128, 0))))
HEIGHT, WIDTH = 16, 24
RNG = np.random.default_rng(3)
COLOR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY, OPAQUE = COLOR[..., 0].copy(), np.full((HEIGHT, WIDTH), 255, np.uint8)
SMALL = GREY % 3  # class indices
DEEP = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
DEEP[0, 0] = 65535
TWELVE = DEEP[..., 0] >> 4
RAMP = np.tile(np.arange(256, dtype=np.uint16), (3, 1))

Array = NDArray[Any]


def three(grey: Array) -> Array:
    return np.repeat(grey[..., None], 3, 2)


def png(pixels: Array, *more: tuple[bytes, bytes], kind: int = 0, depth: int = 0, width: int = WIDTH) -> bytes:
    """Return a PNG of the given rows, with chunks `more` before them."""
    header = struct.pack(">IIBBBBB", width, len(pixels), depth or 8 * pixels.dtype.itemsize, kind, 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), *more, (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def tiff(pixels: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def saved(picture: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def bmp(bits: int, rows: Array, palette: bytes = b"", masks: bytes = b"") -> bytes:
    data = b"".join(row.tobytes() + bytes(-row.nbytes % 4) for row in rows[::-1])
    info = struct.pack(
        "<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, 3 * bool(masks), len(data), 0, 0, len(palette) // 4, 0
    )
    if masks:
        info = struct.pack("<I", 108) + info[4:] + masks + bytes(52)
    offset = 14 + len(info) + len(palette)
    return struct.pack("<2sIII", b"BM", offset + len(data), 0, offset) + info + palette + data


def twelve(values: Array, compression: int) -> bytes:
    """Return a grey TIFF with 12 bits per sample: two samples in three bytes."""
    left, right = values[:, 0::2], values[:, 1::2]
    data = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], 2).astype(np.uint8).tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tags = {256: WIDTH, 257: HEIGHT, 258: 12, 259: compression, 262: 1, 273: 200, 277: 1, 278: HEIGHT, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries).ljust(200, b"\0") + data


def without(data: bytes, tag: int) -> bytes:
    """Return a TIFF of tifffile with an unknown tag instead of `tag`."""
    (start,) = struct.unpack("<I", data[4:8])
    at = next(at for at in range(start + 2, len(data), 12) if struct.unpack("<H", data[at : at + 2])[0] == tag)
    return data[:at] + struct.pack("<H", 60000) + data[at + 2 :]


LAST_CLEAR = np.where(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) > 9, OPAQUE, 0)
ALPHA, COLORS, DECODES = "has transparent pixels", "has colours of 12 bits in 16-bit samples", "cannot be decoded"
PALETTE = bytes(RNG.integers(0, 256, 9, dtype=np.uint8).tolist())
PALETTE_RGB = np.frombuffer(PALETTE, np.uint8).reshape(3, 3)[SMALL]
BITS = b"\x0c"
PAGES = "has several pages, expected one picture"
TOO_LARGE = "has the value 65535"
NO_IMAGE = "is not an image, expected PNG"
MODE = "has pixels of Pillow's mode"
TWO = bytes((0, 0, 0, 0, 255, 255, 255, 0))
V4 = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
SIGNED, CHANNELS = "has signed integers as pixels", "has separate, uncompressed channels of 16 bits"
CMYK = np.dstack([COLOR, GREY])
INKS = ((255 - CMYK[..., :3].astype(float)) * (255 - CMYK[..., 3:].astype(float)) / 255).round()

Wanted = Array | str
CASES: Mapping[str, tuple[bytes, Wanted, Wanted]] = {
    # grey and palettes
    "png 8": (png(SMALL), three(SMALL), SMALL),
    "png 4": (
        png(GREY[:, : WIDTH // 2], depth=4),
        three((GREY[:, : WIDTH // 2, None] >> [4, 0] & 15).reshape(HEIGHT, WIDTH) * 17),
        "of fewer than 8 bits",
    ),
    "png 2": (
        png(GREY[:, : WIDTH // 4], depth=2),
        three((GREY[:, : WIDTH // 4, None] >> [6, 4, 2, 0] & 3).reshape(HEIGHT, WIDTH) * 85),
        "of fewer than 8 bits",
    ),
    "png 1": (
        png(GREY[:, : WIDTH // 8], depth=1),
        three(np.unpackbits(GREY[:, : WIDTH // 8], axis=1) * np.uint8(255)),
        MODE,
    ),
    "png palette": (png(SMALL, (b"PLTE", PALETTE), kind=3), PALETTE_RGB, SMALL),
    "png palette 2": (
        png(
            np.packbits(np.unpackbits(SMALL[..., None], axis=2)[..., 6:].reshape(HEIGHT, -1), axis=1),
            (b"PLTE", PALETTE),
            kind=3,
            depth=2,
        ),
        PALETTE_RGB,
        SMALL,
    ),
    "png no palette": (png(SMALL, kind=3), "has palette indices but no palette", "has palette indices but no palette"),
    "tiff white is 0": (tiff(SMALL, photometric="miniswhite"), three(255 - SMALL), "in which 0 is white"),
    "tiff white is 0, 1 bit": (tiff(GREY > 99, photometric="miniswhite"), three(np.where(GREY > 99, 0, 255)), MODE),
    "tiff white is 0, 16 bits": (
        tiff(DEEP[..., 0], photometric="miniswhite"),
        three(65535 - DEEP[..., 0] >> 8),
        "in which 0 is white",
    ),
    "tiff white is 0, deflate": (
        tiff(DEEP[..., 0], photometric="miniswhite", compression="zlib"),
        three(65535 - DEEP[..., 0] >> 8),
        "in which 0 is white",
    ),
    "tiff nothing is white": (
        without(tiff(SMALL, photometric="minisblack"), 262),
        "does not say whether 0 is black",
        "does not say whether 0 is black",
    ),
    "tiff palette": (tiff(SMALL, photometric="palette", colormap=RAMP * 257), three(SMALL), SMALL),
    "tiff palette 8": (
        tiff(SMALL, photometric="palette", colormap=RAMP),
        "has palette values of 8 bits",
        "has palette values of 8 bits",
    ),
    "bmp 8, two colours": (
        bmp(8, SMALL // 2, TWO),
        "has a black and white palette",
        "has a black and white palette",
    ),
    "bmp 4, two colours": (
        bmp(4, SMALL[:, ::2] // 2, TWO),
        "has a black and white palette",
        "has a black and white palette",
    ),
    "bmp 1, two colours": (bmp(1, np.packbits(GREY > 99, axis=1), TWO), three(np.where(GREY > 99, 255, 0)), MODE),
    "bmp 8, palette": (
        bmp(8, SMALL, bytes((1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0))),
        np.array([[3, 2, 1], [6, 5, 4], [9, 8, 7]])[SMALL],
        SMALL,
    ),
    # depth
    "png 16": (png(DEEP[..., 0]), three(DEEP[..., 0] >> 8), "has the value 65535, expected class indices up to 255"),
    "png 16 small": (png(SMALL.astype(np.uint16), (b"sBIT", BITS)), three(SMALL >> 4), SMALL),
    "png 16 of 12": (png(TWELVE, (b"sBIT", BITS)), three(TWELVE >> 4), "has the value 4095"),
    "png 16 stretched from 12": (
        png(TWELVE << 4 | TWELVE >> 8, (b"sBIT", BITS)),
        three(TWELVE >> 4),
        "has the value 65535",
    ),
    "png 16 with alpha": (
        png(np.dstack([DEEP[..., 0], DEEP[..., 0] | 65535]), (b"sBIT", b"\x10\x10"), kind=4),
        three(DEEP[..., 0] >> 8),
        MODE,
    ),
    "png 16 colour": (png(DEEP, (b"sBIT", BITS * 3), kind=2), DEEP >> 8, MODE),
    "png 16 colour of 12": (png(DEEP >> 4, (b"sBIT", BITS * 3), kind=2), COLORS, MODE),
    "tiff 16": (tiff(DEEP[..., 0]), three(DEEP[..., 0] >> 8), TOO_LARGE),
    "tiff 16 big end": (tiff(DEEP[..., 0], byteorder=">"), three(DEEP[..., 0] >> 8), TOO_LARGE),
    "tiff 16 small": (tiff(SMALL.astype(np.uint16)), three(SMALL * 0), SMALL),
    "tiff 16 of 12": (tiff(TWELVE, extratags=[(281, 3, 1, 4095, True)]), three(TWELVE >> 4), "has the value 4095"),
    "tiff 16 up to 40000": (
        tiff(DEEP[..., 0] // 2, extratags=[(281, 3, 1, 32766, True)]),
        three(DEEP[..., 0] // 2 >> 8),
        "has the value 32767",
    ),
    "tiff 16 white is 0, of 12": (
        tiff(TWELVE, photometric="miniswhite", extratags=[(281, 3, 1, 4095, True)]),
        three(4095 - TWELVE >> 4),
        "in which 0 is white",
    ),
    "tiff 16 colour": (tiff(DEEP, photometric="rgb"), DEEP >> 8, MODE),
    "tiff 16 colour of 12": (
        tiff(DEEP >> 4, photometric="rgb", extratags=[(281, 3, 3, (4095,) * 3, True)]),
        COLORS,
        MODE,
    ),
    "tiff 12": (twelve(TWELVE, 1), three(TWELVE >> 4), "has the value 4095"),
    "tiff 12 deflate": (twelve(TWELVE, 8), three(TWELVE >> 4), "has the value 4095"),
    "tiff int8": (tiff(SMALL.view(np.int8)), SIGNED, SIGNED),
    "tiff int16": (tiff(SMALL.astype(np.int16)), SIGNED, SIGNED),
    "tiff uint32": (tiff(SMALL.astype(np.uint32)), "has 32-bit pixels", "has 32-bit pixels"),
    "tiff float32": (tiff(SMALL.astype(np.float32)), "has floating-point numbers", "has floating-point numbers"),
    # alpha
    "png rgba": (png(np.dstack([COLOR, OPAQUE]), kind=6), COLOR, MODE),
    "png rgba clear": (png(np.dstack([COLOR, LAST_CLEAR]), kind=6), ALPHA, MODE),
    "png grey clear": (png(np.dstack([GREY, LAST_CLEAR]), kind=4), ALPHA, MODE),
    "png palette alpha": (png(SMALL, (b"PLTE", PALETTE), (b"tRNS", b"\xff\xff\x07"), kind=3), ALPHA, SMALL),
    "png palette alpha unused": (
        png(SMALL, (b"PLTE", PALETTE + b"ab0"), (b"tRNS", b"\xff\xff\xff\0"), kind=3),
        PALETTE_RGB,
        SMALL,
    ),
    "png grey key": (png(SMALL, (b"tRNS", b"\0\2")), ALPHA, SMALL),
    "png grey key unused": (png(SMALL, (b"tRNS", b"\0\3")), three(SMALL), SMALL),
    "png colour key": (png(COLOR, (b"tRNS", b"\0%c\0%c\0%c" % tuple(COLOR[3, 4])), kind=2), ALPHA, MODE),
    "png 16 key": (png(DEEP[..., 0], (b"tRNS", b"\0\3")), "has a transparent colour", "has a transparent colour"),
    "tiff rgba": (tiff(np.dstack([COLOR, OPAQUE]), photometric="rgb", extrasamples=["unassalpha"]), COLOR, MODE),
    "tiff rgba clear": (
        tiff(np.dstack([COLOR, LAST_CLEAR]), photometric="rgb", extrasamples=["unassalpha"]),
        ALPHA,
        MODE,
    ),
    "tiff premultiplied": (
        tiff(np.dstack([COLOR, LAST_CLEAR]), photometric="rgb", extrasamples=["assocalpha"]),
        ALPHA,
        MODE,
    ),
    "tiff grey premultiplied": (
        tiff(np.dstack([GREY, OPAQUE]), photometric="minisblack", planarconfig="contig", extrasamples=["assocalpha"]),
        three(GREY),
        MODE,
    ),
    "tiff fourth channel": (
        tiff(np.dstack([COLOR, GREY]), photometric="rgb", extrasamples=["unspecified"]),
        COLOR,
        MODE,
    ),
    "bmp alpha": (bmp(32, np.dstack([COLOR[..., ::-1], LAST_CLEAR]), masks=V4), ALPHA, MODE),
    "bmp opaque": (bmp(32, np.dstack([COLOR[..., ::-1], OPAQUE]), masks=V4), COLOR, MODE),
    "bmp fourth byte": (bmp(32, np.dstack([COLOR[..., ::-1], GREY])), COLOR, MODE),
    # pages and frames
    "png animation": (
        png(SMALL, (b"acTL", struct.pack(">II", 2, 0))),
        "is an animation of 2 frames",
        "is an animation of 2 frames",
    ),
    "png one frame": (png(SMALL, (b"acTL", struct.pack(">II", 1, 0))), three(SMALL), SMALL),
    "tiff stack": (tiff(np.stack([SMALL, SMALL, GREY]), photometric="minisblack"), PAGES, PAGES),
    # colour
    "tiff cmyk": (tiff(CMYK, photometric="separated"), INKS, MODE),
    "tiff lab": (tiff(COLOR, photometric="cielab"), "has CIELAB colours", "has CIELAB colours"),
    "tiff planes": (tiff(np.moveaxis(COLOR, 2, 0), photometric="rgb", planarconfig="separate"), COLOR, MODE),
    "tiff planes of 16": (
        tiff(np.moveaxis(DEEP, 2, 0), photometric="rgb", planarconfig="separate"),
        CHANNELS,
        CHANNELS,
    ),
    "tiff planes of 16, deflate": (
        tiff(np.moveaxis(DEEP, 2, 0), photometric="rgb", planarconfig="separate", compression="zlib"),
        DEEP >> 8,
        MODE,
    ),
    "tiff ycbcr half": (
        without(tiff(COLOR, photometric="ycbcr", subsampling=(1, 1)), 530),
        "has uncompressed YCbCr pixels",
        "has uncompressed YCbCr",
    ),
    "tiff ycbcr narrow": (
        tiff(
            COLOR,
            photometric="ycbcr",
            subsampling=(1, 1),
            extratags=[(532, 5, 6, (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1), True)],
        ),
        "has YCbCr pixels that do not use the full range",
        "has YCbCr pixels that do not use the full range",
    ),
    "jpeg of several": (
        saved(PIL.Image.fromarray(SMALL * 0), "MPO", save_all=True, append_images=[PIL.Image.fromarray(SMALL)]),
        three(SMALL * 0),
        "is compressed as JPEG",
    ),
    "png gamma": (png(COLOR, (b"gAMA", struct.pack(">I", 100000)), (b"cHRM", bytes(32)), kind=2), COLOR, MODE),
    "png profile": (png(COLOR, (b"iCCP", b"name\0\0" + zlib.compress(bytes(200))), kind=2), COLOR, MODE),
    "gif": (saved(PIL.Image.fromarray(SMALL), "GIF"), NO_IMAGE, NO_IMAGE),
    "webp": (
        saved(PIL.Image.fromarray(COLOR), "WEBP"),
        "is not an image, expected PNG",
        "is not an image, expected PNG",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_reader_applies_or_refuses_what_changes_a_picture(tmp_path: Path, name: str) -> None:
    data, image, mask = CASES[name]
    path, other = tmp_path / "picture.png", tmp_path / "mask.png"  # the suffix says nothing
    path.write_bytes(data)
    other.write_bytes(png(SMALL))
    patch = PatchRef("a", str(path), hashlib.sha256(data).hexdigest(), (0,), HEIGHT, WIDTH, "a")
    readers: Mapping[str, tuple[Callable[[], Array], Wanted]] = {
        "predict": (lambda: decode(path), image),
        "patch": (lambda: read_pixels(patch), image),
        "image": (lambda: MaskedImage("a", path, other).read(TAXONOMY)[0], image),
        "mask": (lambda: decode_mask(path), mask),
    }
    for reader, (read, wanted) in readers.items():
        if isinstance(wanted, str):
            with pytest.raises(CatalogError, match=rf"picture\.png: .*{wanted}"):
                read()
        else:
            found = read()
            assert found.dtype == np.uint8 and np.array_equal(found, wanted), reader


SIDEWAYS: Mapping[str, Callable[[Array, PIL.Image.Exif], bytes]] = {
    "png": lambda pixels, exif: saved(PIL.Image.fromarray(pixels), "PNG", exif=exif),
    "jpeg": lambda pixels, exif: saved(PIL.Image.fromarray(pixels), "JPEG", exif=exif),
    "tiff": lambda pixels, exif: tiff(pixels, extratags=[(274, 3, 1, exif[0x0112], True)]),
    "tiff big end": lambda pixels, exif: tiff(pixels, byteorder=">", extratags=[(274, 3, 1, exif[0x0112], True)]),
    "tiff deflate": lambda pixels, exif: tiff(pixels, compression="zlib", extratags=[(274, 3, 1, exif[0x0112], True)]),
}


TURNED: Mapping[int, Callable[[Array], Array]] = {
    2: np.fliplr,
    3: lambda each: np.rot90(each, 2),
    4: np.flipud,
    5: lambda each: each.swapaxes(0, 1),
    6: lambda each: np.rot90(each, 3),
    7: lambda each: np.rot90(each, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("kind", SIDEWAYS)
def test_pictures_are_upright_in_all_formats(tmp_path: Path, kind: str) -> None:
    exif = PIL.Image.Exif()
    for pixels in (COLOR, GREY, DEEP[..., 0])[: 2 if kind == "jpeg" else 3]:
        for orientation in range(10):  # of which 0 and 9 say nothing
            exif[0x0112] = 1
            stored = decode(write(tmp_path / "stored", SIDEWAYS[kind](pixels, exif)))
            exif[0x0112] = orientation
            found = decode(write(tmp_path / "turned", SIDEWAYS[kind](pixels, exif)))
            assert np.array_equal(found, TURNED.get(orientation, np.asarray)(stored)), orientation
            if kind in ("png", "jpeg") and pixels.dtype == np.uint8:
                assert np.array_equal(found, opencv(tmp_path / "turned"))


def opencv(path: Path) -> Array:
    return np.asarray(cv2.imread(str(path)))[..., ::-1]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_has_the_orientation_of_its_image(tmp_path: Path, orientation: int) -> None:
    side = min(HEIGHT, WIDTH)
    indices = SMALL[:side, :side]
    shown = PIL.Image.fromarray(indices * np.uint8(80))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    palette = PIL.Image.fromarray(indices)
    palette.putpalette(TAXONOMY.palette())
    image = write(tmp_path / "a.png", saved(shown, "PNG", exif=exif))
    for name, mask in {
        "palette": saved(palette, "PNG", exif=exif),
        "deep": tiff(indices.astype(np.uint16), extratags=[(274, 3, 1, orientation, True)]),
        "upright": png(np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(image))) // 80, width=side),
    }.items():
        pixels, found = MaskedImage("a", image, write(tmp_path / name, mask)).read(TAXONOMY)
        assert np.array_equal(pixels[..., 0], found * 80), name
    assert np.array_equal(from_png(image.read_bytes(), (side, side)), pixels[..., 0])


def exif_data(*tags: tuple[int, int, int, int], order: str = "<", at: int = 8) -> bytes:
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, at)
    return head + struct.pack(order + "H", len(tags)) + b"".join(struct.pack(order + "HHII", *tag) for tag in tags)


def test_hostile_exif_is_harmless(tmp_path: Path) -> None:
    turn = (274, 3, 1, 6)
    upright = {
        "empty": b"",
        "cut": exif_data(turn)[:13],
        "other": b"JUNK" + exif_data(turn),
        "away": exif_data(turn, at=2**32 - 1),
        "itself": exif_data((34665, 4, 1, 8), at=0),
        "beyond": exif_data((274, 3, 2**31, 2**31)),
        "many": exif_data(*[(34665, 4, 2**31, 8)] * 5000),
        "unknown": exif_data((274, 3, 1, 77)),
        "text": exif_data((274, 99, 1, 6)),
    }
    turned = {
        "sound": exif_data(turn),
        "prefix": b"Exif\0\0" + exif_data(turn),
        "others": exif_data((258, 3, 99, 2**32 - 1), turn),
    }
    for name, data in {**upright, **turned}.items():
        found = decode(write(tmp_path / f"{name}.png", png(GREY, (b"eXIf", data))))
        assert np.array_equal(found[..., 0], np.rot90(GREY, 3) if name in turned else GREY), name


def test_damaged_facts_of_a_png_are_found(tmp_path: Path) -> None:
    for name, body in {b"eXIf": exif_data((274, 3, 1, 6)), b"sBIT": BITS, b"tRNS": b"\0\3", b"acTL": bytes(8)}.items():
        data = bytearray(png(GREY, (name, body)))
        data[data.index(name) + 4] ^= 1
        with pytest.raises(CatalogError, match=f"the checksum of a chunk {name.decode()} is wrong"):
            decode(write(tmp_path / "a.png", bytes(data)))


def test_smaller_copies_of_a_tiff_are_no_pages(tmp_path: Path) -> None:
    half: dict[str, Any] = {"data": COLOR[::2], "subfiletype": 1}
    mask: dict[str, Any] = {"data": GREY > 99, "subfiletype": 4, "photometric": "mask"}
    for options in (half, mask):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(COLOR, photometric="rgb")
            writer.write(**options)
        assert np.array_equal(decode(write(tmp_path / "a.tif", buffer.getvalue())), COLOR)
    assert np.array_equal(decode(write(tmp_path / "a.tif", tiff(COLOR, photometric="rgb", subfiletype=1))), COLOR)
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        for _ in range(2):
            writer.write(COLOR, photometric="rgb", subfiletype=1)
    with pytest.raises(CatalogError, match=PAGES):
        decode(tmp_path / "b.tif")
    pages = tiff(SMALL, photometric="minisblack")
    (first,) = struct.unpack("<I", pages[4:8])
    end = first + 2 + 12 * struct.unpack("<H", pages[first : first + 2])[0]
    with pytest.raises(CatalogError, match=PAGES):  # a page that follows itself
        decode(write(tmp_path / "a.tif", pages[:end] + pages[4:8] + pages[end + 4 :]))
    away = pages[:end] + struct.pack("<I", 2**31) + pages[end + 4 :]
    assert np.array_equal(decode(write(tmp_path / "a.tif", away)), three(SMALL))


@pytest.mark.parametrize("adobe", [0, 2], ids=["cmyk", "ycck"])
def test_inks_of_a_jpeg_are_what_opencv_reads(tmp_path: Path, adobe: int) -> None:
    smooth = PIL.Image.fromarray(COLOR).resize((64, 64), PIL.Image.Resampling.BICUBIC).convert("CMYK")
    data = bytearray(saved(smooth, "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = adobe
    found = decode(write(tmp_path / "a.jpg", bytes(data))).astype(int)
    assert np.abs(found - opencv(tmp_path / "a.jpg")).max() <= 1


def test_dark_values_of_16_bits_are_reported(tmp_path: Path) -> None:
    for largest, dark in ((4095, True), (6399, True), (6912, False)):
        values = np.full((HEIGHT, WIDTH), largest, np.uint16)
        for data in (png(values), png(np.dstack([values] * 3), kind=2), tiff(values)):
            told: list[int] = []
            found = decode(write(tmp_path / "a", data), on_dark=partial(told.append, largest))
            assert (found == largest >> 8).all() and bool(told) == dark, largest
    decode(write(tmp_path / "a", png(TWELVE, (b"sBIT", BITS))), on_dark=partial(pytest.fail, "declares its depth"))
