"""Read picture files that can come from strangers: patches, images and masks."""

from __future__ import annotations

import ctypes
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import PIL.Image
from PIL import _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import PREFIXES, TiffImageFile

from synthpipe.config.pipeline import MAX_PIXELS
from synthpipe.core.errors import CatalogError, StoreError
from synthpipe.core.records import Image, Mask, PatchRef
from synthpipe.files.locations import parse_location
from synthpipe.files.reading import read_regular
from synthpipe.patches.bare import Bare, bare_bmp, bare_jpeg, bare_png, bare_tiff
from synthpipe.patches.samples import SAMPLES, indices, rgb, samples_of

_MOST_BYTES = 2**30  # of a file; the limit is 8 bytes per allowed pixel if that is more
_MOST_SIDE = 2**20  # pixels; decoders need a pointer for each row
_MOST_PACKED = {
    "raw": 8,
    "libtiff": 100_000,
}  # pixels per byte; CCITT and Zstandard compress blank areas best
_MOST_PACKED_ELSE = 10_000  # deflate packs up to 1032 bytes into one, and a byte can hold 8 pixels
_MOST_TILE = 4096 * 4096  # pixels of a TIFF's tile, which can be larger than the image
_MOST_SCANS = 64  # of a JPEG with the largest allowed size; a smaller JPEG can have more
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_LOSSY = ("jpeg", "tiff_jpeg")  # compressions of a TIFF
_SCAN = b"\xff\xda"
_TURNS = (  # transpositions that make pictures of the orientations 2 to 8 upright
    *(Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE),
    *(Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90),
)

_KINDS: dict[bytes, tuple[type[ImageFile], Callable[[bytes], Bare]]] = {
    b"\x89PNG\r\n\x1a\n": (PngImageFile, bare_png),
    b"\xff\xd8\xff": (JpegImageFile, bare_jpeg),
    **dict.fromkeys(PREFIXES, (TiffImageFile, bare_tiff)),
    b"BM": (BmpImageFile, bare_bmp),
}


def decode(path: str | Path, most: int = MAX_PIXELS, on_dark: Callable[[], object] | None = None) -> Image:
    """Read a patch or an image of at most `most` pixels, and turn it upright.

    Grey, palette, CMYK and 16-bit pixels become RGB of 8 bits.

    Parameters
    ----------
    path : str or Path
        The file.
    most : int
        Largest number of pixels.
    on_dark : callable, optional
        Called if all values of a 16-bit image are below a tenth of the range, and the file does not declare fewer bits.

    Returns
    -------
    (H, W, 3) uint8
        RGB, in a new array.

    Raises
    ------
    CatalogError
        The file cannot be read or decoded completely, or has too many pixels. The message names the file.
    """
    with _named(path):
        return decode_bytes(read_bytes(path, most), most, on_dark)


def decode_mask(path: Path, most: int = MAX_PIXELS) -> Mask:
    """Read a mask of at most `most` pixels, and turn it upright.

    A mask is a palette or grey picture whose pixel values are class indices.

    Returns
    -------
    (H, W) uint8
        Class indices.

    Raises
    ------
    CatalogError
        The errors of `decode`. Or the picture has another kind of pixels, lossy compression, or values above 255.
    """
    with _named(path), opened(read_bytes(path, most), most) as picture:
        if picture.format == "JPEG" or picture.info.get("compression") in _LOSSY:
            raise CatalogError("is compressed as JPEG, which changes class indices; save the original masks as PNG")
        return indices(picture)


def dark_remark(names: Sequence[str]) -> str:
    """Return a remark on images that `decode` reports as dark. `names` are their names, at least one."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"{names[0]}{more}: 16-bit values below a tenth of the range are read as nearly black; if they have fewer "
        "bits, stretch them, for example those of 12 bits with `magick FILE -evaluate multiply 16 NEW`"
    )


def read_palette(path: Path, most: int = MAX_PIXELS) -> tuple[int, ...]:
    """Read a picture's palette as (red, green, blue, red, ...). Return () for a picture without a palette.

    Raises
    ------
    CatalogError
        The errors of `decode`, except those of damaged pixels: pixels are not decoded.
    """
    with _named(path), opened(read_bytes(path, most), most) as picture:
        return tuple(picture.getpalette("RGB") or ()) if picture.mode == "P" else ()


def read_pixels(patch: PatchRef) -> Image:
    """Read a patch of the catalog. The file must have the bytes that were indexed.

    Returns
    -------
    (H, W, 3) uint8
        RGB.

    Raises
    ------
    CatalogError
        The file is missing, or its SHA-256 is not that of the catalog.
    """
    most = patch.height * patch.width
    with _named(patch.path):
        data = read_bytes(patch.secret_url or patch.path, most)
        if hashlib.sha256(data).hexdigest() != patch.sha256:
            raise CatalogError("has changed since it was indexed; restore it, or build into another directory")
        return decode_bytes(data, most)


def picture_digest(path: Path, most: int = MAX_PIXELS) -> str:
    """Return the SHA-256 of a picture file of at most `most` pixels.

    Raises
    ------
    CatalogError
        The file cannot be read. The message names the file.
    """
    with _named(path):
        return hashlib.sha256(read_bytes(path, most)).hexdigest()


def read_bytes(path: str | Path, most: int = MAX_PIXELS) -> bytes:
    """Read a picture file. It must be a regular file of at most 1 GiB, or 8 * `most` bytes if that is more.

    Raises
    ------
    CatalogError
        The file cannot be read. The message does not name the file.
    """
    try:
        location = parse_location(path)
    except StoreError as error:
        raise CatalogError(f"cannot be read: {error}") from error
    try:
        return read_regular(location, max(_MOST_BYTES, 8 * most))
    except OSError as error:
        raise CatalogError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # clients of object stores raise exceptions of their own
        if isinstance(location, Path):
            raise
        raise CatalogError(f"cannot be read: {error}") from error


def decode_bytes(data: bytes, most: int = MAX_PIXELS, on_dark: Callable[[], object] | None = None) -> Image:
    """Decode a file's bytes as `decode` does. The message of a `CatalogError` does not name the file."""
    with opened(data, most) as picture:
        pixels, dark = rgb(picture)
    if dark and on_dark:
        on_dark()
    return pixels


@contextmanager
def opened(data: bytes, most: int) -> Iterator[PIL.Image.Image]:
    """Yield the upright picture in a file's bytes. The caller decodes the picture inside the ``with`` block.

    The bytes decide the format; the file name does not matter. Before the picture is decoded, its declared size is
    checked: at most `most` pixels, and plausible for the number of bytes. Only orientation and depth are read from
    metadata.

    Raises
    ------
    CatalogError
        The bytes are not a picture of a known format, or cannot be decoded completely. The message does not name the
        file.
    """
    kind, bare = next((found for prefix, found in _KINDS.items() if data.startswith(prefix)), (None, bare_bmp))
    if kind is None:
        raise CatalogError(f"is {'not an image' if data else 'empty'}, expected PNG, JPEG, TIFF or BMP")
    _silence()
    try:
        found = bare(data)
        with kind(io.BytesIO(found.data)) as picture:
            _check(picture, found.data, most)
            picture.info[SAMPLES] = samples_of(picture, found.data, found.bits)
            yield _upright(picture, found.orientation)
    except CatalogError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds of exceptions for damaged files
        raise CatalogError(f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def _upright(picture: ImageFile, orientation: int) -> PIL.Image.Image:
    """Turn a picture of a given orientation upright."""
    if orientation == 1:
        return picture
    turned = picture.transpose(_TURNS[orientation - 2])
    turned.format = picture.format
    return turned


@cache
def _silence() -> None:
    """Prevent Pillow and its libtiff from writing to stderr. Exceptions have the same messages."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with suppress(OSError, AttributeError):  # other builds of Pillow lack these functions
        library = ctypes.CDLL(_imaging.__file__)  # this also finds functions of linked libraries
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def _check(picture: ImageFile, data: bytes, most: int) -> None:
    """Raise a `CatalogError` if decoding the picture would take much memory or time."""
    pixels = picture.width * picture.height
    size = f"has {picture.width} x {picture.height} pixels"
    if pixels > most:
        raise CatalogError(f"{size}, expected at most {most}; raise patches.max_pixels or --max-pixels to allow more")
    if max(picture.size) > _MOST_SIDE:
        raise CatalogError(f"{size}, expected sides of at most {_MOST_SIDE}")
    if pixels > _MOST_PACKED.get(picture.tile[0][0], _MOST_PACKED_ELSE) * len(data):
        raise CatalogError(f"{size} but only {len(data)} bytes; the file is truncated or damaged")
    boxes = [tile[1] or (0, 0, *picture.size) for tile in picture.tile]
    areas = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
    if areas > 8 * pixels:  # a TIFF can store each channel separately
        raise CatalogError(f"{size}, but {len(picture.tile)} strips or tiles with {areas} pixels; the file is damaged")
    if isinstance(picture, TiffImageFile):
        tile = picture.tag_v2.get(_TILE_WIDTH, 0) * picture.tag_v2.get(_TILE_LENGTH, 0)
        if tile > max(_MOST_TILE, pixels):
            raise CatalogError(f"{size} in tiles of {tile} pixels, expected at most {_MOST_TILE}; save it again")
    if picture.format == "JPEG" and data.count(_SCAN) * pixels > _MOST_SCANS * most:
        raise CatalogError(f"{size} in {data.count(_SCAN)} scans, expected at most {_MOST_SCANS * most // pixels}")
    if PIL.Image.MAX_IMAGE_PIXELS is not None and pixels > PIL.Image.MAX_IMAGE_PIXELS:
        PIL.Image.MAX_IMAGE_PIXELS = pixels  # Pillow's own limit is lower only if the user raised ours


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Put the name of a file before the message of a `CatalogError`."""
    try:
        yield
    except CatalogError as error:
        raise CatalogError(f"{path}: {error}") from error
