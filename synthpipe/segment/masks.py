"""Images with masks on disk, and which of them belong together."""

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
    """An image on disk and its mask.

    Attributes
    ----------
    name : str
        The image's own, in Unicode.
    image, mask : Path
        The files.
    most : int
        The most pixels that each may have.
    meaning : mapping, optional
        What the mask's values mean; without it they are class indices.
    """

    name: str
    image: Path
    mask: Path
    most: int = MAX_PIXELS
    meaning: MaskMap | None = None

    def read(self, taxonomy: Taxonomy) -> tuple[Image, Mask]:
        """Return (H, W, 3) uint8 and (H, W) uint8 pixels; the mask holds class indices, background or `LOST`.

        Raises
        ------
        CatalogError
            One cannot be read, sizes differ, or the mask holds values that mean nothing.
        """
        image, mask = self.decoded()
        try:
            return image, to_classes(mask, count_values(mask), taxonomy, self.meaning)
        except CatalogError as error:
            raise CatalogError(f"{self.mask}: {error}") from error

    def decoded(self, on_dark: Callable[[], object] | None = None) -> tuple[Image, Mask]:
        """Return the pixels of both as they are stored; `on_dark` is that of `decode`.

        Raises
        ------
        CatalogError
            One cannot be read, or sizes differ.
        """
        image = decode(self.image, self.most, on_dark)
        mask = decode_mask(self.mask, self.most)
        if image.shape[:2] != mask.shape:
            raise CatalogError(f"{self.mask}: is {_by(mask.shape)}, but its image {_by(image.shape[:2])}; replace one")
        return image, mask


def masked_images(directory: Path, most: int = MAX_PIXELS, meaning: MaskMap | None = None) -> tuple[MaskedImage, ...]:
    """List the images of a folder that holds ``img/`` and ``mask/``, sorted by name; a mask has its image's stem.

    Stems are compared in Unicode's form NFC. An image or a mask of more than `most` pixels is refused when it is read.

    Raises
    ------
    CatalogError
        There is no such folder or no image, an image has no mask, or two files have one stem.
    """
    folders = directory / "img", directory / "mask"
    if not all(folder.is_dir() for folder in folders):
        raise CatalogError(f"{directory}: expected a folder with img/ and mask/ in it; name the folder that holds both")
    images, masks = (by_stem(folder) for folder in folders)
    if not images:
        raise CatalogError(f"{directory / 'img'}: holds no images; expected names that end in {', '.join(SUFFIXES)}")
    if missing := [stem for stem in images if stem not in masks]:
        used = {masks[stem] for stem in images.keys() & masks.keys()}
        others = [path.name for path in _visible(directory / "mask") if path not in used]
        expected = first_of([f"{stem!r}{_found_beside(stem, others)}" for stem in missing[:3]] + missing[3:])
        raise CatalogError(
            f"{directory / 'mask'}: no mask for {len(missing)} of {len(images)} images; expected the image's name, "
            f"with any of {', '.join(SUFFIXES)}: {expected}; rename or add masks, or remove the images"
        )
    return tuple(MaskedImage(escaped(path.stem), path, masks[stem], most, meaning) for stem, path in images.items())


def digest_of(images: Sequence[MaskedImage]) -> str:
    """Return the SHA-256 of bytes, names and meaning of images and their masks, wherever they lie."""
    files = [
        [
            *(source.image.stem, *(picture_digest(path, source.most) for path in (source.image, source.mask))),
            *([] if source.meaning is None else [sorted(source.meaning.items())]),
        ]
        for source in images
    ]
    return digest(files)


def by_stem(folder: Path) -> dict[str, Path]:
    """Return the pictures of a folder by their stems, in Unicode's form NFC.

    Raises
    ------
    CatalogError
        Two have one stem.
    """
    found: dict[str, Path] = {}
    for path in _visible(folder):
        if path.suffix.lower() in SUFFIXES and found.setdefault(_stem(path), path) != path:
            raise CatalogError(
                f"{path}: has the same stem as {found[_stem(path)].name}; images and masks are matched by it, so "
                "rename or remove one"
            )
    return found


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))  # a Mac adds such files


def _stem(path: Path) -> str:
    return unicodedata.normalize("NFC", path.stem)


def _found_beside(stem: str, others: Sequence[str]) -> str:
    """Say which of the `others` was perhaps meant."""
    longer = [name for name in others if unicodedata.normalize("NFC", name).startswith(stem)]
    near = [min(longer, key=len)] if longer else get_close_matches(stem, others, 1)
    return f" (found {near[0]!r})" if near else ""


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
