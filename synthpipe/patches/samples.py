"""Convert the channel values of a picture file to the RGB of an image, or to the class indices of a mask.

A property of a file that changes the image is applied exactly, or the file is refused. ``docs/images-and-masks.md``
lists these properties.
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
"""Key of the `Samples` in `PIL.Image.Image.info` of an opened picture."""

_STRIP = 2**20  # pixels that are converted at a time
_DARK = 2**16 // 10  # if the largest 16-bit value is smaller, the values probably have fewer bits
_TWELVE, _SIXTEEN = ";12", (";16", ";16B", ";16L", ";16N", ";16R")  # ends of Pillow's raw modes
_NARROW = ("1", "L;2", "L;4")  # beginnings of Pillow's raw modes
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION, _COLORMAP, _SAMPLE_FORMAT = 258, 262, 284, 320, 339
_YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 530, 532
_FULL_RANGE = (0, 255, 128, 255, 128, 255)
_SAMPLE_FORMATS = {2: "signed integers", 3: "floating-point numbers"}
_MOST_INDEX = 255
_FLATTEN = "flatten it, for example with `magick FILE -background white -alpha remove -alpha off NEW`"
_KEYED = ("1", "L", "RGB")  # raw modes whose transparent colour Pillow finds


@dataclass(frozen=True, slots=True)
class Samples:
    """How a picture's channel values are encoded.

    Attributes
    ----------
    deep : bool
        Whether values are stored in 12 or 16 bits.
    bits : int, optional
        Number of bits that deep values use, if known.
    inverted : bool
        Whether 0 is white.
    narrow : bool
        Whether values are grey levels with fewer than 8 bits.
    """

    deep: bool
    bits: int | None
    inverted: bool
    narrow: bool


def samples_of(picture: ImageFile, data: bytes, bits: int | None) -> Samples:
    """Return how a picture's channel values are encoded.

    Parameters
    ----------
    picture : ImageFile
        A picture that is opened, but not decoded.
    data : bytes
        The file of the picture.
    bits : int, optional
        Number of bits that 16-bit values use, if the file declares it.

    Raises
    ------
    CatalogError
        The decoder would misread the picture. The message does not name the file.
    """
    args = picture.tile[0][3]
    raw = str(args[0] if isinstance(args, tuple) else args)
    inverted = isinstance(picture, TiffImageFile) and _check_tiff(picture, raw)
    if picture.format == "BMP" and picture.mode == "1" and data[24 if data[14] == 12 else 28] != 1:
        raise CatalogError("has a black and white palette, but more than 1 bit per pixel; save it as PNG")
    if picture.format == "PNG" and picture.mode == "P" and picture.palette is None:
        raise CatalogError("has palette indices but no palette; save it again, as grey if the indices are values")
    if picture.mode in ("I", "F"):
        raise CatalogError(f"has 32-bit pixels (Pillow mode {picture.mode}), expected 8 or 16 bits")
    if picture.mode == "LAB":
        raise CatalogError("has CIELAB colours, expected grey, a palette, RGB or CMYK; convert it to RGB")
    if "transparency" in picture.info and picture.mode != "P" and raw not in _KEYED:
        raise CatalogError(f"has a transparent colour, and its pixels do not have 8 bits; {_FLATTEN}")
    deep = raw.endswith((*_SIXTEEN, _TWELVE)) and picture.format != "BMP"
    return Samples(deep, 12 if raw.endswith(_TWELVE) else bits, inverted, raw.startswith(_NARROW))


def _check_tiff(picture: TiffImageFile, raw: str) -> bool:
    """Return whether 0 is white in a TIFF. Raise a `CatalogError` if the decoder would misread the TIFF."""
    tags = picture.tag_v2
    if _PHOTOMETRIC not in tags:
        raise CatalogError("does not say whether 0 is black or white (tag 262); save it again")
    formats = {_SAMPLE_FORMATS[each] for each in tags.get(_SAMPLE_FORMAT, ()) if each in _SAMPLE_FORMATS}
    if formats:
        raise CatalogError(f"has {' and '.join(sorted(formats))} as pixels, expected unsigned integers; convert them")
    apart = tags.get(_PLANAR_CONFIGURATION, 1) != 1 and picture.tile[0][0] == "raw"
    if apart and tags.get(_BITS_PER_SAMPLE, (1,))[0] > 8:
        raise CatalogError("has separate, uncompressed channels of 16 bits; save it with interleaved channels")
    if picture.mode == "YCbCr" and tags.get(_YCBCR_SUBSAMPLING, (2, 2)) != (1, 1):
        raise CatalogError("has uncompressed YCbCr pixels with subsampled chroma (tag 530); save it as RGB")
    if raw == "YCbCr" and tuple(tags.get(_REFERENCE_BLACK_WHITE, _FULL_RANGE)) != _FULL_RANGE:
        raise CatalogError("has YCbCr pixels that do not use the full range (tag 532); save it as RGB")
    if picture.mode in ("P", "PA") and max(tags[_COLORMAP]) < 256:
        raise CatalogError("has palette values of 8 bits, expected 16 bits (tag 320); save it again")
    return bool(tags[_PHOTOMETRIC] == 0)


def rgb(picture: PIL.Image.Image) -> tuple[Image, bool]:
    """Return the (H, W, 3) uint8 pixels of an image, and True if its 16-bit values are all dark (`dark_remark`).

    Raises
    ------
    CatalogError
        Pixels are transparent, or colours are stored in 16 bits but use fewer bits.
    """
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    samples: Samples = picture.info[SAMPLES]
    if picture.mode.startswith("I;16"):
        largest = max(int(np.asarray(strip).max()) for _, strip in _strips(picture))
        # a PNG that declares fewer bits normally has its values stretched to 16 bits; others have the declared bits
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
            f"has colours of {samples.bits} bits in 16-bit samples, expected values up to 65535; stretch them, for "
            f"example with `magick FILE -evaluate multiply {1 << 16 - samples.bits} NEW`"
        )
    return pixels, largest < _DARK >> 8 and not samples.bits


def indices(picture: PIL.Image.Image) -> Mask:
    """Return the stored values of a mask: (H, W) uint8 class indices.

    Raises
    ------
    CatalogError
        The mask is not a palette or grey picture, or the decoder would change its stored values.
    """
    samples: Samples = picture.info[SAMPLES]
    if picture.mode not in ("P", "L") and not picture.mode.startswith("I;16"):
        raise CatalogError(
            f"has pixels of Pillow's mode {picture.mode}, expected a palette or grey image whose pixel values are "
            "class indices; convert it"
        )
    if samples.inverted or samples.narrow:
        what = "in which 0 is white" if samples.inverted else "of fewer than 8 bits"
        raise CatalogError(f"has grey values {what}, not class indices; save it with 8 bits, and 0 as black")
    pixels = np.empty((picture.height, picture.width), np.uint8)
    for rows, strip in _strips(picture):
        values = np.asarray(strip)
        if (largest := int(values.max())) > _MOST_INDEX:
            raise CatalogError(
                f"has the value {largest}, expected class indices up to {_MOST_INDEX}; write class indices"
            )
        pixels[rows] = values
    return pixels


def _strips(picture: PIL.Image.Image) -> Iterator[tuple[slice, PIL.Image.Image]]:
    """Yield a picture in strips of some rows. Converting a strip takes little memory."""
    picture.load()
    rows = max(1, _STRIP // picture.width)
    for start in range(0, picture.height, rows):
        end = min(picture.height, start + rows)
        whole = end - start == picture.height
        yield slice(start, end), picture if whole else picture.crop((0, start, picture.width, end))


def _opaque(strip: PIL.Image.Image) -> PIL.Image.Image:
    """Return a strip in RGB. Raise a `CatalogError` if a pixel is transparent."""
    if "transparency" in strip.info:
        strip = strip.convert("RGBA")
    last = strip.getbands()[-1]
    if last in ("A", "a"):
        if np.asarray(strip.getchannel(last)).min() < 255:
            raise CatalogError(f"has transparent pixels, expected opaque pixels; {_FLATTEN}")
        if strip.mode == "La":  # Pillow cannot convert this mode to RGB
            strip = strip.getchannel("L")
    return strip.convert("RGB")
