"""Reading the pixels of patches."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import PIL.Image

from synthpipe.errors import CatalogError, StoreError
from synthpipe.files import located, read_regular
from synthpipe.records import Image, PatchRef

MAX_PIXELS = 8192 * 8192
"""A larger image is no patch, but a slide or a decompression bomb: it is not decoded."""

_LARGEST_FILE = 1 << 30  # bytes
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")


def decode(path: str | Path, most: int | None = MAX_PIXELS) -> Image:
    """Read a patch, or an image of at most so many pixels; None is without a bound.

    Grey, palette, CMYK and 16-bit pixels become RGB of 8 bits; transparency is dropped; of several pages the first
    counts.

    Returns
    -------
    (H, W, 3) uint8
        RGB, in an array of its own.

    Raises
    ------
    CatalogError
        The file cannot be read or decoded completely; the message names it.
    """
    try:
        return decode_bytes(read_bytes(path), most)
    except CatalogError as error:
        raise CatalogError(f"{path}: {error}") from error


def read_pixels(patch: PatchRef) -> Image:
    """Read a patch of the catalog, as it was when it was indexed.

    Returns
    -------
    (H, W, 3) uint8
        RGB.

    Raises
    ------
    CatalogError
        The file is gone, or its bytes are not those that the catalog names.
    """
    try:
        data = read_bytes(patch.secret_url or patch.path)
        if hashlib.sha256(data).hexdigest() != patch.sha256:
            raise CatalogError("has other bytes than when it was indexed; restore it, or build into another directory")
        return decode_bytes(data)
    except CatalogError as error:
        raise CatalogError(f"{patch.path}: {error}") from error


def read_bytes(path: str | Path) -> bytes:
    """Read a file; a `CatalogError` says why it cannot be read, but not which file it is."""
    try:
        location = located(path)
    except StoreError as error:
        raise CatalogError(f"cannot be read: {error}") from error
    try:
        return read_regular(location, _LARGEST_FILE)
    except OSError as error:
        raise CatalogError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # clients of object stores have exceptions of their own
        if isinstance(location, Path):
            raise
        raise CatalogError(f"cannot be read: {error}") from error


def decode_bytes(data: bytes, most: int | None = MAX_PIXELS) -> Image:
    """Decode a file's bytes as `decode` does; a `CatalogError` does not say which file it is."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if most is not None and image.width * image.height > most:
                raise CatalogError(f"has {image.width} x {image.height} pixels, expected at most {most}")
            if image.mode in ("I", "F"):
                raise CatalogError(f"has 32-bit pixels (Pillow mode {image.mode}), expected 8 or 16 bits")
            if image.mode.startswith("I;16"):
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
            # By way of RGBA, since Pillow warns about palettes with transparency on the direct way.
            opaque = image.convert("RGBA") if image.mode == "P" else image
            return np.array(opaque.convert("RGB"))
    except CatalogError:
        raise
    except PIL.UnidentifiedImageError as error:
        found = "no image" if data else "empty"
        raise CatalogError(f"is {found}, expected {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble on.
        raise CatalogError(f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error
