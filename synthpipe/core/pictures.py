"""Draw masks over images, and encode images and masks as PNG or JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from synthpipe.core.records import Image, Mask
from synthpipe.core.taxonomy import Taxonomy

_STRIP = 256  # rows


def overlay(image: Image, mask: Mask, taxonomy: Taxonomy, opacity: float = 0.45) -> Image:
    """Return the image with the classes' colours blended over it, and contours in the full colour.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    mask : (H, W) uint8
        Class indices. Background and lost pixels of the image do not change.
    taxonomy : Taxonomy
        Classes and their colours.
    opacity : float
        Opacity of the colours, 0-1.

    Returns
    -------
    (H, W, 3) uint8
        RGB. Contours are one pixel wide. They are inside their class, where it meets another value of the mask.

    Raises
    ------
    ValueError
        Image and mask differ in size.
    """
    check_sizes(image, mask)
    blended = np.empty_like(image)
    for strip in strips(len(mask)):
        colors, below = colors_of(taxonomy)[mask[strip]], image[strip]
        found = np.rint(below * (1 - opacity) + colors * opacity).astype(np.uint8)
        halo = slice(max(0, strip.start - 1), strip.stop + 1)
        edge = edges(mask[halo])[strip.start - halo.start :][: len(colors)]
        found[edge] = colors[edge]
        ignored = mask[strip] >= len(taxonomy)
        found[ignored] = below[ignored]
        blended[strip] = found
    return blended


def strips(height: int) -> Iterator[slice]:
    """Yield slices of some rows. Computing slice by slice needs little memory, even for high pictures."""
    for start in range(0, height, _STRIP):
        yield slice(start, min(height, start + _STRIP))


def png(image: Image) -> bytes:
    """Return an RGB picture, (H, W, 3) uint8, as PNG. Equal pictures give equal bytes."""
    return _encoded(Pillow.fromarray(image))


def palette_png(mask: Mask, taxonomy: Taxonomy) -> bytes:
    """Return a mask as PNG. Pixel values are class indices, and the palette has the colours of the taxonomy."""
    picture = Pillow.fromarray(mask)
    picture.putpalette(taxonomy.palette())
    return _encoded(picture)


def jpeg(image: Image, quality: int = 90) -> bytes:
    """Return an RGB picture, (H, W, 3) uint8, as JPEG. Pages with hundreds of pictures use JPEG."""
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def data_uri(kind: str, data: bytes) -> str:
    """Return a data URI, so that a page can contain a picture. `kind` is the media type, such as ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def colors_of(taxonomy: Taxonomy) -> NDArray[np.uint8]:
    """Return (256, 3) uint8: the colour of each mask value."""
    return np.frombuffer(taxonomy.palette(), np.uint8).reshape(256, 3).copy()


def edges(mask: Mask) -> NDArray[np.bool_]:
    """Return (H, W) bool: True where the pixel above, below, left or right has another value."""
    padded = np.pad(mask, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    found: NDArray[np.bool_] = np.logical_or.reduce([neighbour != mask for neighbour in around])
    return found


def check_sizes(image: Image, mask: Mask) -> None:
    """Raise `ValueError` unless an image and its mask have the same size."""
    if image.shape != (*mask.shape, 3):
        raise ValueError(
            f"image is {image.shape} and mask {mask.shape}; expected (H, W, 3) and (H, W) of the same size"
        )


def _encoded(picture: Pillow.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
