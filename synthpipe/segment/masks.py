"""Find images with masks on disk, pair them by name, and read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from synthpipe.config.fields import digest
from synthpipe.config.pipeline import MAX_PIXELS
from synthpipe.core.display import escaped
from synthpipe.core.errors import CatalogError, first_of
from synthpipe.core.records import Image, Mask
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.patches.listing import SUFFIXES
from synthpipe.patches.pixels import decode, decode_mask, picture_digest
from synthpipe.segment.mask_values import MaskMap, count_values, to_classes


@dataclass(frozen=True, slots=True)
class MaskedImage:
    """An image file and its mask file.

    Attributes
    ----------
    name : str
        The image's file name without suffix; bytes that are not Unicode are escaped.
    image, mask : Path
        Paths of the files.
    most : int
        Largest number of pixels of the image, and of the mask.
    meaning : mapping, optional
        Class index by mask value; by default, the values are class indices.
    """

    name: str
    image: Path
    mask: Path
    most: int = MAX_PIXELS
    meaning: MaskMap | None = None

    def read(self, taxonomy: Taxonomy) -> tuple[Image, Mask]:
        """Return the (H, W, 3) uint8 image and its (H, W) uint8 mask of class indices, background or `LOST`.

        Raises
        ------
        CatalogError
            A file cannot be read, the sizes differ, or the mask has values without a meaning.
        """
        image, mask = self.decoded()
        try:
            return image, to_classes(mask, count_values(mask), taxonomy, self.meaning)
        except CatalogError as error:
            raise CatalogError(f"{self.mask}: {error}") from error

    def decoded(self, on_dark: Callable[[], object] | None = None) -> tuple[Image, Mask]:
        """Return the image and the untranslated mask; `decode` calls `on_dark` if the image is very dark.

        Raises
        ------
        CatalogError
            A file cannot be read, or the sizes differ.
        """
        image = decode(self.image, self.most, on_dark)
        mask = decode_mask(self.mask, self.most)
        if image.shape[:2] != mask.shape:
            raise CatalogError(
                f"{self.mask}: has {_by(mask.shape)} pixels, but its image has {_by(image.shape[:2])}; replace the "
                "mask or the image"
            )
        return image, mask


def masked_images(directory: Path, most: int = MAX_PIXELS, meaning: MaskMap | None = None) -> tuple[MaskedImage, ...]:
    """List the images of a folder with ``img/`` and ``mask/``, sorted by name; a mask has the stem of its image.

    Stems are compared in Unicode form NFC. Reading refuses an image or a mask with more than `most` pixels.

    Raises
    ------
    CatalogError
        The folder does not exist or has no image, an image has no mask, or two files have the same stem.
    """
    folders = directory / "img", directory / "mask"
    if not all(folder.is_dir() for folder in folders):
        raise CatalogError(f"{directory}: expected a folder that contains img/ and mask/; give such a folder")
    images, masks = (by_stem(folder) for folder in folders)
    if not images:
        raise CatalogError(f"{directory / 'img'}: has no images; expected names that end in {', '.join(SUFFIXES)}")
    if missing := [stem for stem in images if stem not in masks]:
        used = {masks[stem] for stem in images.keys() & masks.keys()}
        others = [path.name for path in _visible(directory / "mask") if path not in used]
        expected = first_of([f"{stem!r}{_found_beside(stem, others)}" for stem in missing[:3]] + missing[3:])
        raise CatalogError(
            f"{directory / 'mask'}: no mask for {len(missing)} of {len(images)} images; expected the image's name with "
            f"one of {', '.join(SUFFIXES)}: {expected}; rename or add masks, or remove the images"
        )
    return tuple(MaskedImage(escaped(path.stem), path, masks[stem], most, meaning) for stem, path in images.items())


def digest_of(images: Sequence[MaskedImage]) -> str:
    """Return a SHA-256 of the bytes, names and mask maps of images and masks; their folders do not matter."""
    files = [
        [
            *(source.image.stem, *(picture_digest(path, source.most) for path in (source.image, source.mask))),
            *([] if source.meaning is None else [sorted(source.meaning.items())]),
        ]
        for source in images
    ]
    return digest(files)


def by_stem(folder: Path) -> dict[str, Path]:
    """Return the paths of the pictures in a folder by their stems, in Unicode form NFC.

    Raises
    ------
    CatalogError
        Two files have the same stem.
    """
    found: dict[str, Path] = {}
    for path in _visible(folder):
        if path.suffix.lower() in SUFFIXES and found.setdefault(_stem(path), path) != path:
            raise CatalogError(
                f"{path}: has the same stem as {found[_stem(path)].name}, but images and masks are matched by their "
                "stems; rename or remove one of the two files"
            )
    return found


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))  # macOS adds hidden files


def _stem(path: Path) -> str:
    return unicodedata.normalize("NFC", path.stem)


def _found_beside(stem: str, others: Sequence[str]) -> str:
    """Return a hint that names a similar file among `others`, or an empty text."""
    longer = [name for name in others if unicodedata.normalize("NFC", name).startswith(stem)]
    near = [min(longer, key=len)] if longer else get_close_matches(stem, others, 1)
    return f" (found {near[0]!r})" if near else ""


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
