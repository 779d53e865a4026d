"""Pictures from strangers: sizes are checked before decoding, and only pixels are decoded."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import PIL.ImageOps
import pytest

from synthpipe.config.pipeline import MAX_PIXELS
from synthpipe.core.errors import CatalogError
from synthpipe.core.records import Image, PatchRef
from synthpipe.export.form import from_png
from synthpipe.patches import samples
from synthpipe.patches.pixels import decode, decode_bytes, decode_mask, read_palette, read_pixels
from tests.fuzz.images import sound_images


def saved(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, *more: tuple[bytes, bytes], data: bytes = b"\0" * 100) -> bytes:
    """Return a grey PNG that declares a size, with chunks `more`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), *more, (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def tiff(*tags: tuple[int, int, int, int], size: tuple[int, int] = (64, 64), room: int = 8192) -> bytes:
    """Return a grey TIFF, uncompressed unless `tags` say otherwise; a tag is (tag, type, count, value or offset)."""
    own = {256: (4, 1, size[0]), 257: (4, 1, size[1]), 258: (3, 1, 8), 262: (3, 1, 1)}
    own |= {tag: rest for tag, *rest in tags}  # type: ignore[misc]
    entries = b"".join(struct.pack("<HHII", tag, *rest) for tag, rest in sorted(own.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(own)) + entries + bytes(4) + bytes(room)


RUNS = struct.pack("<2sIII", b"BM", 7000, 0, 118) + struct.pack(
    "<IiiHHIIiiII", 40, 40000, 30000, 1, 8, 1, 0, 0, 0, 16, 0
)
STRIPS = (273, 4, 400, 100), (278, 4, 1, 32)
HARMFUL = {
    "large.png": (
        png(60000, 60000),
        r"has 60000 x 60000 pixels, expected at most 67108864; raise patches\.max_pixels or --max",
    ),
    "large.bmp": (RUNS + bytes(7000), "has 40000 x 30000 pixels, expected at most 67108864"),
    "narrow.png": (png(1, MAX_PIXELS), "has 1 x 67108864 pixels, expected sides of at most 1048576"),
    "empty.png": (png(8000, 8000), r"has 8000 x 8000 pixels but only \d+ bytes"),
    "empty.tif": (tiff((273, 4, 1, 100), size=(8000, 8000)), "has 8000 x 8000 pixels but only 8336 bytes"),
    "tags.tif": (tiff((258, 5, 2**20, 100)), "has tags of 8388616 bytes, expected at most 2097152"),
    "beyond.tif": (tiff((273, 4, 40, 9000)), "is truncated: its tag 273 is after the end of the file"),
    "cut.tif": (tiff()[:40], "is truncated: its tags are after the end of the file"),
    "strips.tif": (tiff(*STRIPS), r"has 64 x 64 pixels, but \d+ strips or tiles with \d+ pixels; the file is damaged"),
    "tile.tif": (
        tiff((259, 3, 1, 8), (322, 4, 1, 60000), (323, 4, 1, 60000)),
        "has 64 x 64 pixels in tiles of 3600000000",
    ),
    "postscript.png": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "is not an image, expected PNG",
    ),
    "nothing.png": (b"", "is empty, expected PNG"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_pictures_are_refused_by_every_reader(tmp_path: Path, name: str) -> None:
    data, message = HARMFUL[name]
    (tmp_path / name).write_bytes(data)
    for read in (decode, decode_mask, read_palette):
        with pytest.raises(CatalogError, match=rf"{name}: {message}"):
            read(tmp_path / name)
    with pytest.raises(CatalogError):
        from_png(data, (64, 64))


def test_scans_of_a_jpeg_are_bounded() -> None:
    data = sound_images()["jpeg-grey-progressive"]
    scan = data.rindex(b"\xff\xda")
    decode_bytes(data, 40 * 50)
    with pytest.raises(CatalogError, match=r"has 50 x 40 pixels in 7\d scans, expected at most 64"):
        decode_bytes(data[:-2] + data[scan:-2] * 70 + data[-2:], 40 * 50)


def test_a_bound_may_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own, which would be in the way
    data = sound_images()["tiff-rgb-tiff_lzw"]
    with pytest.raises(CatalogError, match="has 50 x 40 pixels, expected at most 1999"):
        decode_bytes(data, 1999)
    assert decode_bytes(data, 2000).shape == (40, 50, 3)
    (tmp_path / "patch.tif").write_bytes(data)
    with pytest.raises(CatalogError, match="has 50 x 40 pixels, expected at most 1000"):  # the catalog says so
        read_pixels(
            PatchRef("patch.tif", str(tmp_path / "patch.tif"), hashlib.sha256(data).hexdigest(), (0,), 20, 50, "a")
        )


@pytest.mark.parametrize("name", sorted(sound_images().keys() - {"png-transparent", "png-animated", "tiff-pages"}))
def test_sound_pictures_are_what_pillow_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sound_images()[name]
    with PIL.Image.open(io.BytesIO(data)) as stored:
        picture = PIL.ImageOps.exif_transpose(stored)
        deep = picture.mode.startswith("I;16")
        eight = PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)) if deep else picture.convert("RGBA")
        expected: Image = np.array((picture if picture.mode == "CMYK" else eight).convert("RGB"))
    assert np.array_equal(decode_bytes(data), expected)
    monkeypatch.setattr(samples, "_STRIP", 7 * 50)
    assert np.array_equal(decode_bytes(data), expected)


def test_masks_keep_their_indices(tmp_path: Path) -> None:
    for name in ("png-palette", "png-transparent", "tiff-palette-tiff_lzw", "bmp-rle"):
        (tmp_path / "mask.png").write_bytes(sound_images()[name])
        with PIL.Image.open(tmp_path / "mask.png") as stored:
            picture = PIL.ImageOps.exif_transpose(stored)
            assert np.array_equal(decode_mask(tmp_path / "mask.png"), np.asarray(picture)), name
            assert read_palette(tmp_path / "mask.png") == tuple(picture.getpalette("RGB") or ()), name


def test_metadata_is_not_decoded() -> None:
    """Each of these files makes Pillow warn, fail or take much memory; tests turn warnings into errors."""
    rgb = PIL.Image.fromarray(decode_bytes(sound_images()["png-rgb"]))
    bomb = zlib.compress(bytes(3 << 20))
    plain = png(10, 10, data=bytes(110))
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x1a\x01\x05\0\xff\xff\xff\xff"
    pages = saved(rgb, "MPO", save_all=True, append_images=[rgb])
    jpeg = saved(rgb, "JPEG")
    cases = {
        png(10, 10, (b"zTXt", b"note\0\0" + bomb), data=bytes(110)): plain,
        png(10, 10, (b"iCCP", b"name\0\0" + bomb), data=bytes(110)): plain,
        png(10, 10, (b"acTL", bytes(8)), (b"fcTL", b"\1" * 26), data=bytes(110)): plain,
        saved(rgb, "JPEG", exif=broken): jpeg,
        pages.replace(b"MPF\0II*\0\x08\0\0\0", b"MPF\0II*\0\x08\xff\0\0"): jpeg,
        tiff((273, 4, 1, 150), (274, 3, 2, 1), (37500, 7, 2**31, 0)): tiff((273, 4, 1, 150)),
        tiff((273, 4, 1, 150), (34665, 4, 1, 2**31), (330, 4, 2**20, 0)): tiff((273, 4, 1, 150)),
    }
    for harmful, sound in cases.items():
        assert np.array_equal(decode_bytes(harmful), decode_bytes(sound)), harmful[:200]


def test_masks_are_lossless_whatever_their_names(tmp_path: Path) -> None:
    images = sound_images()
    lossy = [name for name in images if name.startswith("jpeg-grey") or name == "tiff-grey-jpeg"]
    assert len(lossy) == 3
    for name in lossy:
        (tmp_path / "mask.png").write_bytes(images[name])
        with pytest.raises(CatalogError, match=r"mask\.png: is compressed as JPEG, which changes class indices; save"):
            decode_mask(tmp_path / "mask.png")
    (tmp_path / "mask.jpg").write_bytes(images["png-grey"])
    assert decode_mask(tmp_path / "mask.jpg").shape == decode(tmp_path / "mask.jpg").shape[:2]


def test_a_picture_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, script = tmp_path / "started", tmp_path / "bin" / "gs"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\ntouch '{started}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    monkeypatch.setattr(PIL.EpsImagePlugin, "gs_binary", None)  # so that Pillow looks for it again
    path = tmp_path / "mask.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with PIL.Image.open(path) as picture, suppress(OSError):  # of the program's, which draws nothing
        picture.load()
    assert started.exists()  # by Pillow alone
    started.unlink()
    for read in (decode, decode_mask, read_palette):
        with pytest.raises(CatalogError, match=r"mask\.png: is not an image, expected PNG"):
            read(path)
    assert not started.exists()


def test_decoders_write_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    data = sound_images()["tiff-rgb-tiff_lzw"]
    for harmful in (data[:20] + b"\xff" * 300 + data[320:], tiff((273, 4, 1, 150), (277, 4, 1, 9))):
        with pytest.raises(CatalogError):
            decode_bytes(harmful)
    assert capfd.readouterr() == ("", "")


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**30 + 1)
    found = {"pipe": "a named pipe", "folder": "a folder", "zero": "a device"}
    messages = {name: f"is {kind}, expected a file" for name, kind in found.items()}
    messages |= {"large": "has 1073741825 bytes, expected at most 1073741824", "gone": "No such file"}
    for name, message in messages.items():
        with pytest.raises(CatalogError, match=rf"{name}\.png: cannot be read: {message}"):
            decode(tmp_path / f"{name}.png")
        with pytest.raises(CatalogError, match=rf"{name}\.png: cannot be read: {message}"):
            decode_mask(tmp_path / f"{name}.png")


def test_decoding_takes_little_more_memory_than_what_it_returns(tmp_path: Path) -> None:
    side = 4096
    PIL.Image.new("L", (side, side)).save(tmp_path / "large.png")
    PIL.Image.new("L", (9, 9)).save(tmp_path / "small.png")
    script = (
        "import sys; from synthpipe.patches.pixels import decode; from tests.fuzz.images import peak\n"
        "def after(name): decode(name); return peak()\n"
        "print(-after(sys.argv[1]) + after(sys.argv[2]))"
    )
    names = [str(tmp_path / name) for name in ("small.png", "large.png")]
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * side * side * 3 >> 20


def test_damaged_pictures_do_no_harm() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.fuzz.images", "1000", "1"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    (peak,) = done.stdout.splitlines()  # and no picture that did
    assert int(peak.split()[1]) < 1024


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(3).integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    sound = buffer.getvalue()
    start = sound.index(b"IDAT") + 4
    for position in range(
        start, start + int.from_bytes(sound[start - 8 : start - 4]) + 4
    ):  # pixels, and their checksum
        damaged = bytearray(sound)
        damaged[position] ^= 1
        with pytest.raises(CatalogError, match="the checksum of a chunk IDAT is wrong"):
            decode_bytes(bytes(damaged))
    with pytest.raises(CatalogError, match="its chunk IDAT ends after the end of the file"):
        decode_bytes(sound[: start - 8] + (10**6).to_bytes(4) + sound[start - 4 :])
    assert decode_bytes(sound).shape == (8, 9, 3)
