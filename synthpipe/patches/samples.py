"""What the samples of a picture mean: RGB of an image, class indices of a mask.

Whatever else in a file changes an image is applied exactly or refused; ``docs/images-and-masks.md`` lists it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import PIL.Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from synthpipe.core.errors import CatalogError
from synthpipe.core.records import Image, Mask

SAMPLES = "samples"
"""The key of `PIL.Image.Image.info` under which an opened picture has its `Samples`."""

_STRIP = 2**20  # pixels that are converted at a time
_DARK = 2**16 // 10  # where the largest value of 16 bits is smaller, the file may well hold fewer bits
_TWELVE, _SIXTEEN = ";12", (";16", ";16B", ";16L", ";16N", ";16R")  # ends of Pillow's raw modes
_NARROW = ("1", "L;2", "L;4")  # beginnings of them
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION, _COLORMAP, _SAMPLE_FORMAT = 258, 262, 284, 320, 339
_YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 530, 532
_FULL_RANGE = (0, 255, 128, 255, 128, 255)
_SAMPLE_FORMATS = {2: "signed integers", 3: "floating-point numbers"}
_MOST_INDEX = 255
_FLATTEN = "flatten it, for example with `magick FILE -background white -alpha remove -alpha off NEW`"
_KEYED = ("1", "L", "RGB")  # raw modes whose transparent colour Pillow finds


@dataclass(frozen=True, slots=True)
class Samples:
    """How the samples of a picture are stored.

    Attributes
    ----------
    deep : bool
        Whether they have 12 or 16 bits.
    bits : int, optional
        The bits that values of deep samples have, where that is known.
    inverted : bool
        Whether 0 is white.
    narrow : bool
        Whether they are grey and have fewer than 8 bits.
    """

    deep: bool
    bits: int | None
    inverted: bool
    narrow: bool


def understood(picture: ImageFile, data: bytes, bits: int | None) -> Samples:
    """Return how the samples of a picture are stored; refuse a picture that the decoder would misread.

    Parameters
    ----------
    picture : ImageFile
        Opened, not decoded.
    data : bytes
        The file that it was opened from.
    bits : int, optional
        The bits of values in samples of 16 bits, where the file declares them.

    Raises
    ------
    CatalogError
        The decoder would misread it; the message does not name the file.
    """
    args = picture.tile[0][3]
    raw = str(args[0] if isinstance(args, tuple) else args)
    inverted = isinstance(picture, TiffImageFile) and _check_tiff(picture, raw)
    if picture.format == "BMP" and picture.mode == "1" and data[24 if data[14] == 12 else 28] != 1:
        raise CatalogError("has a palette of black and white for more than 1 bit a pixel; save it as PNG")
    if picture.format == "PNG" and picture.mode == "P" and picture.palette is None:
        raise CatalogError("has palette indices but no palette; save it again, as grey if the indices are values")
    if picture.mode in ("I", "F"):
        raise CatalogError(f"has 32-bit pixels (Pillow mode {picture.mode}), expected 8 or 16 bits")
    if picture.mode == "LAB":
        raise CatalogError("has CIELAB colours, expected grey, a palette, RGB or CMYK; convert it to RGB")
    if "transparency" in picture.info and picture.mode != "P" and raw not in _KEYED:
        raise CatalogError(f"has a transparent colour in pixels that are not of 8 bits; {_FLATTEN}")
    deep = raw.endswith((*_SIXTEEN, _TWELVE)) and picture.format != "BMP"
    return Samples(deep, 12 if raw.endswith(_TWELVE) else bits, inverted, raw.startswith(_NARROW))


def _check_tiff(picture: TiffImageFile, raw: str) -> bool:
    """Refuse a TIFF that the decoder would misread, and return whether 0 is white."""
    tags = picture.tag_v2
    if _PHOTOMETRIC not in tags:
        raise CatalogError("does not say whether 0 is black or white (tag 262); save it again")
    formats = {_SAMPLE_FORMATS[each] for each in tags.get(_SAMPLE_FORMAT, ()) if each in _SAMPLE_FORMATS}
    if formats:
        raise CatalogError(f"has {' and '.join(sorted(formats))} as pixels, expected unsigned integers; convert them")
    apart = tags.get(_PLANAR_CONFIGURATION, 1) != 1 and picture.tile[0][0] == "raw"
    if apart and tags.get(_BITS_PER_SAMPLE, (1,))[0] > 8:
        raise CatalogError("keeps channels of 16 bits apart and uncompressed; save it with interleaved channels")
    if picture.mode == "YCbCr" and tags.get(_YCBCR_SUBSAMPLING, (2, 2)) != (1, 1):
        raise CatalogError("has uncompressed YCbCr pixels with less chroma; save it as RGB")
    if raw == "YCbCr" and tuple(tags.get(_REFERENCE_BLACK_WHITE, _FULL_RANGE)) != _FULL_RANGE:
        raise CatalogError("has YCbCr pixels of a narrow range (tag 532); save it as RGB")
    if picture.mode in ("P", "PA") and max(tags[_COLORMAP]) < 256:
        raise CatalogError("has a palette of 8 bits, expected 16 bits a value (tag 320); save it again")
    return bool(tags[_PHOTOMETRIC] == 0)


def rgb(picture: PIL.Image.Image) -> tuple[Image, bool]:
    """Return the (H, W, 3) uint8 pixels of an image, and whether it is as dark as values of fewer bits are.

    Raises
    ------
    CatalogError
        Pixels are transparent, or colours in samples of 16 bits have fewer bits.
    """
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    samples: Samples = picture.info[SAMPLES]
    if picture.mode.startswith("I;16"):
        largest = max(int(np.asarray(strip).max()) for _, strip in _strips(picture))
        # the bits that a PNG declares are those of its values before they were stretched to 16, as they should be
        bits = samples.bits if samples.bits and largest < 1 << samples.bits else 16
        for rows, strip in _strips(picture):
            values = np.asarray(strip)
            values = (1 << bits) - 1 - values if samples.inverted else values
            pixels[rows] = (values >> bits - 8)[:, :, np.newaxis]
        return pixels, largest < _DARK and not samples.bits
    for rows, strip in _strips(picture):
        pixels[rows] = np.asarray(_opaque(strip))
    if not samples.deep:
        return pixels, False
    largest = int(pixels.max())  # the upper 8 bits
    if samples.bits and 0 < largest << 8 < 1 << samples.bits:
        raise CatalogError(
            f"has colours of {samples.bits} bits in samples of 16, expected values up to 65535; stretch them, for "
            f"example with `magick FILE -evaluate multiply {1 << 16 - samples.bits} NEW`"
        )
    return pixels, largest < _DARK >> 8 and not samples.bits


def indices(picture: PIL.Image.Image) -> Mask:
    """Return the (H, W) uint8 class indices of a mask, which are its stored values.

    Raises
    ------
    CatalogError
        It is no palette or grey picture, or its values are not stored as they are.
    """
    samples: Samples = picture.info[SAMPLES]
    if picture.mode not in ("P", "L") and not picture.mode.startswith("I;16"):
        raise CatalogError(
            f"is a picture of mode {picture.mode}, expected a palette or grey image whose pixel values are class "
            "indices; convert it"
        )
    if samples.inverted or samples.narrow:
        what = "where 0 is white" if samples.inverted else "of fewer than 8 bits"
        raise CatalogError(f"has grey values {what}, not class indices; save it with 8 bits, where 0 is black")
    pixels = np.empty((picture.height, picture.width), np.uint8)
    for rows, strip in _strips(picture):
        values = np.asarray(strip)
        if (largest := int(values.max())) > _MOST_INDEX:
            raise CatalogError(f"holds {largest}, expected class indices of at most {_MOST_INDEX}; write class indices")
        pixels[rows] = values
    return pixels


def _strips(picture: PIL.Image.Image) -> Iterator[tuple[slice, PIL.Image.Image]]:
    """Yield a picture some rows at a time: what is converted on the way stays small."""
    picture.load()
    rows = max(1, _STRIP // picture.width)
    for start in range(0, picture.height, rows):
        end = min(picture.height, start + rows)
        whole = end - start == picture.height
        yield slice(start, end), picture if whole else picture.crop((0, start, picture.width, end))


def _opaque(strip: PIL.Image.Image) -> PIL.Image.Image:
    """Return a strip in RGB."""
    if "transparency" in strip.info:
        strip = strip.convert("RGBA")
    last = strip.getbands()[-1]
    if last in ("A", "a"):
        if np.asarray(strip.getchannel(last)).min() < 255:
            raise CatalogError(f"has transparent pixels, expected opaque ones; {_FLATTEN}")
        if strip.mode == "La":  # Pillow does not convert it
            strip = strip.getchannel("L")
    return strip.convert("RGB")
