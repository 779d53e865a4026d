"""Damaged PNG, JPEG, TIFF and BMP files through every reader of images."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from synthpipe.core.errors import SynthpipeError
from synthpipe.core.progress import Silent
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.export.form import from_png
from synthpipe.patches.pixels import decode, decode_bytes
from synthpipe.segment.mask_check import check_masks
from synthpipe.segment.masks import masked_images
from tests.fuzz import images
from tests.fuzz.target import Place, Step, WrongError, command, damaged_bytes, is_of_memory, pick
from tests.fuzz.targets.fixtures import small_checkpoint

TAXONOMY = Taxonomy(
    (TissueClass("tumour", (0, 64, 128)), TissueClass("stroma", (64, 128, 0)), TissueClass("normal", (243, 152, 0)))
)
COMMANDS = 100
"""One in so many cases goes through the commands."""

_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".png", "EPS": ".png", "PPM": ".png"}
_MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "TIFF": ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "F", "YCbCr", "LAB"),
    "BMP": ("RGB", "L", "P", "1", "RGBA"),
    "GIF": ("P",),
    "EPS": ("RGB",),
    "PPM": ("RGB",),
}
_COMPRESSIONS = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4", "zstd", "lzma")


@dataclass(frozen=True)
class File:
    """A file: what it was made from, and whether its format must tell that it is damaged."""

    suffix: str
    data: bytes
    sound: bytes
    told: bool
    commands: bool


def damaged_image(rng: np.random.Generator) -> tuple[str, bytes, bytes, bool]:
    """Return a suffix, the damaged bytes, the sound ones, and whether checksums of the format cover the damage."""
    form = pick(rng, ("PNG", "PNG", "PNG", "JPEG", "TIFF", "TIFF", "BMP", "GIF", "EPS", "PPM"))
    sound = _sound(form, int(rng.integers(64)))
    action = int(rng.integers(10))
    if form == "PNG" and action <= 4:
        return ".png", _other_chunks(rng, sound), sound, False
    if form == "TIFF" and action <= 4:
        return ".tif", _other_tags(rng, sound), sound, False
    if form == "BMP" and action <= 4:
        return ".bmp", _other_header(rng, sound), sound, False
    data = sound if action == 5 else damaged_bytes(rng, sound)
    suffix = _SUFFIXES[form] if rng.random() < 0.95 else pick(rng, list(_SUFFIXES.values()))
    return suffix, data, sound, form == "PNG"


@cache
def _sound(form: str, number: int) -> bytes:
    """Return one of some sound files of a form."""
    rng = np.random.default_rng([7, number])
    mode = pick(rng, _MODES[form])
    height, width = rng.integers(1, 80, 2).tolist()
    if mode in ("P", "L", "1") and number % 2:
        picture = PIL.Image.fromarray(rng.integers(0, 4, (height, width), dtype=np.uint8))
        if mode == "P":
            picture.putpalette(TAXONOMY.palette())
    else:
        picture = PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "I;16":
        picture = PIL.Image.fromarray(rng.integers(0, 1 << 16, (height, width), dtype=np.uint16))
    elif mode != picture.mode:
        picture = picture.convert(mode)
    options: dict[str, object] = {}
    if form == "PNG" and number % 5 == 0:
        options = {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0", "icc_profile": bytes(500), "dpi": (72, 72)}
    if form == "PNG" and mode in ("P", "L", "RGB") and number % 7 == 0:
        options["transparency"] = (1, 2, 3) if mode == "RGB" else 1
    if form == "JPEG":
        options = {
            "quality": int(rng.integers(5, 100)),
            "progressive": bool(number % 2),
            "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0",
        }
    if form == "TIFF":
        options = {"compression": pick(rng, _COMPRESSIONS)}
        if number % 6 == 0:
            options |= {"save_all": True, "append_images": [picture] * 3}
    target = io.BytesIO()
    try:
        picture.save(target, format=form, **options)
    except (OSError, ValueError, RuntimeError, KeyError):  # a compression that does not take the mode
        target = io.BytesIO()
        picture.save(target, format=form)
    return target.getvalue()


def _other_chunks(rng: np.random.Generator, data: bytes) -> bytes:
    """Return a PNG with other chunks, whose checksums are right."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    for _ in range(int(rng.integers(1, 3))):
        number, action = int(rng.integers(len(chunks))), int(rng.integers(8))
        kind, body = chunks[number]
        if action == 0:
            sizes = pick(rng, ((60_000, 60_000), (2**31 - 1, 1), (0, 10), (1, 2**31 - 1), (9000, 9000), (2**31, 2**31)))
            chunks[0] = chunks[0][0], struct.pack(">II", *sizes) + chunks[0][1][8:]
        elif action == 1:
            header = bytearray(chunks[0][1].ljust(13, b"\0"))  # the first may be another one by now
            header[int(rng.integers(8, 13))] = int(pick(rng, (0, 1, 2, 3, 4, 6, 7, 8, 16, 255)))
            chunks[0] = chunks[0][0], bytes(header)
        elif action == 2:
            bomb = zlib.compress(bytes(int(pick(rng, (1 << 20, 80 << 20)))))
            name = pick(rng, (b"zTXt", b"iTXt", b"iCCP"))
            head = b"a\0\1\0\0\0" if name == b"iTXt" else b"a\0\0"
            chunks.insert(1, (name, head + bomb))
        elif action == 3:
            chunks.insert(
                number,
                (pick(rng, (b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"cHRM", b"XXXX")), rng.bytes(20)),
            )
        elif action == 4 and kind == b"IDAT":
            chunks[number] = kind, zlib.compress(bytes(int(pick(rng, (0, 10, 100_000)))))
        elif action == 5:
            del chunks[number]
        elif action == 6:
            chunks.insert(number, chunks[number])
        else:
            chunks[number] = kind, damaged_bytes(rng, body)
        if not chunks:
            break
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return data[:8] + b"".join(parts)


def _other_tags(rng: np.random.Generator, data: bytes) -> bytes:
    """Return a TIFF with other values in its first directory."""
    order = "<" if data[:2] == b"II" else ">"
    found = bytearray(data)
    (start,) = struct.unpack(order + "I", data[4:8])
    count = min(struct.unpack(order + "H", data[start : start + 2])[0], (len(data) - start - 2) // 12)
    for _ in range(int(rng.integers(1, 4))):
        entry = start + 2 + 12 * int(rng.integers(max(count, 1)))
        place, form = pick(
            rng, ((entry, "H"), (entry + 2, "H"), (entry + 4, "I"), (entry + 8, "I"), (start, "H"), (4, "I"))
        )
        numbers = (
            (0, 1, 2, 3, 255, 256, 257, 273, 65535) if form == "H" else (0, 1, 8, 60_000, 2**24, 2**31 - 1, 2**32 - 1)
        )
        if place + 4 <= len(found):
            struct.pack_into(order + form, found, place, int(pick(rng, numbers)))
    return bytes(found)


def _other_header(rng: np.random.Generator, data: bytes) -> bytes:
    """Return a BMP with other values in its header."""
    found = bytearray(data)
    for _ in range(int(rng.integers(1, 3))):
        place = pick(rng, (2, 10, 14, 18, 22, 28, 30, 34, 46, 50))
        form = "<H" if place == 28 else "<i"
        numbers = (
            (0, 1, 4, 8, 16, 24, 32)
            if place == 28
            else (0, 1, 2, 3, -1, 40, 108, 124, 50_000, 2**20, 2**31 - 1, -(2**31))
        )
        struct.pack_into(form, found, place, int(pick(rng, numbers)))
    return bytes(found)


class Images:
    """See the module."""

    def __init__(self, cache: Path, place: Place, step: Step) -> None:
        self._place, self._step = place, step
        self._checkpoint = small_checkpoint(cache)
        self._commands(_sound("PNG", 1), ".png")  # loads what they need

    def make(self, rng: np.random.Generator) -> File:
        commands = int(rng.integers(COMMANDS)) == 0
        if rng.random() < 0.5:
            return File(".png", images.damaged_image(rng)[1], b"", False, commands)
        return File(*damaged_image(rng), commands)

    def show(self, case: File, folder: Path) -> str:
        path = folder / f"fuzz-images{case.suffix}"
        path.write_bytes(case.data)
        return f"{path}: {len(case.data)} bytes" + ", through the commands" * case.commands

    def run(self, case: File) -> bool:
        if case.commands:
            return self._commands(case.data, case.suffix)
        accepted = False
        for name, reader in (("patch", self._patch), ("image", self._image), ("mask", self._mask)):
            self._step(name)
            try:
                accepted |= reader(case)
            except SynthpipeError as error:
                if is_of_memory(error):
                    raise
        if case.data == case.sound and case.suffix == ".png" and case.data[:4] == b"\x89PNG":
            self._step("export")
            from_png(case.data, (1024, 1024))
        return accepted

    def _patch(self, case: File) -> bool:
        path = self._place.case / f"patch{case.suffix}"
        path.write_bytes(case.data)
        found = decode(path)
        if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3 or not found.size:
            raise WrongError(f"decode gives {found.dtype} of shape {found.shape}")
        if not np.array_equal(found, decode_bytes(case.data)):
            raise WrongError("decode gives other pixels the second time")
        if case.told and case.data != case.sound and not np.array_equal(found, decode_bytes(case.sound)):
            raise WrongError("a PNG whose checksums are wrong gives other pixels")
        return True

    def _image(self, case: File) -> bool:
        self._pair(case.suffix, case.data, ".png", _sound("PNG", 1))
        return self._checked()

    def _mask(self, case: File) -> bool:
        self._pair(".png", _sound("PNG", 1), case.suffix, case.data)
        return self._checked()

    def _pair(self, image_suffix: str, image: bytes, mask_suffix: str, mask: bytes) -> None:
        for name, suffix, data in (("img", image_suffix, image), ("mask", mask_suffix, mask)):
            shutil.rmtree(self._place.case / name, ignore_errors=True)
            (self._place.case / name).mkdir()
            (self._place.case / name / f"a{suffix}").write_bytes(data)

    def _checked(self) -> bool:
        check_masks(masked_images(self._place.case), TAXONOMY, Silent())
        return True

    def _commands(self, data: bytes, suffix: str) -> bool:
        folder = self._place.case
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "patches").mkdir(parents=True)
        (folder / "patches" / f"a-1-[1, 0, 0]{suffix}").write_bytes(data)
        self._step("index")
        accepted = command("index", folder / "patches", "--layout", "wsss4luad") is not None
        self._step("predict", 3)
        image = folder / f"image{suffix}"
        image.write_bytes(data)
        accepted |= command("predict", self._checkpoint, image, "-o", folder / "out", "--device", "cpu") is not None
        for number in range(2):
            self._step("evaluate", 3)
            sound = _sound("PNG", 1)
            self._pair(suffix, data, ".png", sound) if number else self._pair(".png", sound, suffix, data)
            options = ("--replicates", "1", "--pictures", "1", "--device", "cpu")
            output = folder / f"evaluated-{number}"
            accepted |= command("evaluate", self._checkpoint, "--data", folder, "-o", output, *options) is not None
        return accepted
