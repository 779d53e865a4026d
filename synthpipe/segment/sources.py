"""What training and evaluation read: composites, real patches with labels, images with masks."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from synthpipe.config import MAX_PIXELS, GlassSection, digest
from synthpipe.display import escaped
from synthpipe.errors import CatalogError, ConfigError
from synthpipe.handoff import CuratedSet, Description
from synthpipe.patches.glass import glass_mask
from synthpipe.patches.listing import SUFFIXES
from synthpipe.patches.pixels import dark_remark, decode, decode_mask, picture_digest, read_palette, read_pixels
from synthpipe.records import Image, Mask, PatchRef
from synthpipe.resizing import fit
from synthpipe.taxonomy import LOST, Taxonomy

_HELD = 2**30  # bytes of decoded images with masks that the processes of a device hold

Labels = NDArray[np.uint8]
"""(N, C) uint8: 1 where a class occurs."""


class Source(Protocol):
    """Images of one size, with masks and labels, read in any order."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> tuple[Image, Mask, Labels]:
        """Return (n, H, W, 3) images, (n, H, W) masks and (n, C) labels.

        What is random about an image is drawn by its own of `rngs`.
        """


class Composites:
    """Several curated sets as one source, one after the other.

    Raises
    ------
    ConfigError
        They have other classes, or another size, than the first.
    """

    def __init__(self, sets: Sequence[CuratedSet]) -> None:
        self.sets = tuple(sets)
        first = sets[0]
        for other in sets[1:]:
            if other.taxonomy.names != first.taxonomy.names or other.size != first.size:
                raise ConfigError(
                    f"{other.path}: has classes {', '.join(other.taxonomy.names)} at {_by(other.size)}, expected "
                    f"{', '.join(first.taxonomy.names)} at {_by(first.size)} as {first.path}; sets that train one "
                    "network must agree"
                )
        self._ends = np.cumsum([len(each) for each in sets]).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> tuple[Image, Mask, Labels]:
        size = self.sets[0].size
        images, masks = np.empty((len(indices), *size, 3), np.uint8), np.empty((len(indices), *size), np.uint8)
        labels = np.empty((len(indices), len(self.sets[0].taxonomy)), np.uint8)
        owners = np.array([bisect.bisect_right(self._ends, index) for index in indices])
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            start = self._ends[owner] - len(self.sets[owner])
            own = [indices[place] - start for place in places.tolist()]
            images[places], masks[places] = self.sets[owner].read(own)
            labels[places] = self.sets[owner].labels[own]
        return images, masks, labels


class RealPatches:
    """Weakly-labelled patches, each brought to the size of the composites; masks tell only of glass.

    Parameters
    ----------
    patches : sequence of PatchRef
        Of the catalog.
    description : Description
        Whose size, classes and glass count.
    """

    def __init__(self, patches: Sequence[PatchRef], description: Description) -> None:
        self.patches = tuple(patches)
        self._description = description
        self.labels: Labels = np.array(
            [[label in patch.classes for label in range(len(description.taxonomy))] for patch in patches], np.uint8
        )

    def __len__(self) -> int:
        return len(self.patches)

    def read(self, indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> tuple[Image, Mask, Labels]:
        size, background = self._description.size, self._description.taxonomy.background
        pairs = [self._read(self.patches[index], self._description.glass) for index in indices]
        images = np.stack([fit(image, size) for image, _ in pairs])
        masks = np.stack([background * fit(glass, size, nearest=True) for _, glass in pairs])
        return images, masks, self.labels[list(indices)]

    @staticmethod
    def _read(patch: PatchRef, glass: GlassSection | None) -> tuple[Image, Mask]:
        image = read_pixels(patch)
        return image, glass_mask(image, glass) if glass else np.zeros(image.shape[:2], np.uint8)


@dataclass(frozen=True, slots=True)
class MaskedImage:
    """An image on disk and its mask, neither of more than `most` pixels; `name` is Unicode and the image's own."""

    name: str
    image: Path
    mask: Path
    most: int = MAX_PIXELS

    def read(self, taxonomy: Taxonomy, on_dark: Callable[[], object] | None = None) -> tuple[Image, Mask]:
        """Return (H, W, 3) uint8 and (H, W) uint8 pixels; `on_dark` is that of `decode`.

        Raises
        ------
        CatalogError
            One cannot be read, sizes differ, or the mask holds values that are no class, background or `LOST`.
        """
        image = decode(self.image, self.most, on_dark)
        mask = decode_mask(self.mask, self.most)
        if image.shape[:2] != mask.shape:
            raise CatalogError(
                f"{self.mask}: is {_by(mask.shape)}, its image {self.image.name} {_by(image.shape[:2])}; replace one"
            )
        if wrong := sorted(set(np.unique(mask).tolist()) - {*range(taxonomy.background + 1), LOST}):
            raise CatalogError(
                f"{self.mask}: holds {', '.join(map(str, wrong))}, expected 0 to {taxonomy.background} "
                f"({', '.join(taxonomy.names)}, background) or {LOST}; write class indices"
            )
        return image, mask

    @property
    def has_palette(self) -> bool:
        """Whether the mask has colours that tell which classes its values mean."""
        return bool(_palette(self.mask, self.most))

    def check_palette(self, taxonomy: Taxonomy, background: bool = False) -> None:
        """Refuse a mask whose palette gives a class another colour than `taxonomy`: its indices mean something else.

        With `background`, also one where the index after the classes is no background, but a further class.

        Raises
        ------
        CatalogError
            The message names the class and both colours.
        """
        palette = _palette(self.mask, self.most)  # may end with the last index that the mask shows
        wanted = [(tissue.name, tissue.color) for tissue in taxonomy.classes]
        wanted += [("background", taxonomy.background_color)] if background else []
        for index, (name, wanted_color) in enumerate(wanted[: len(palette) // 3]):
            color = palette[3 * index : 3 * index + 3]
            if color != wanted_color:
                raise CatalogError(
                    f"{self.mask}: its palette has {color} at {index}, but the network's {name} is {wanted_color}: "
                    f"another taxonomy; use masks with indices {', '.join(taxonomy.names)}, background, or give "
                    "--any-palette if they have them"
                )


def masked_images(directory: Path, most: int = MAX_PIXELS) -> tuple[MaskedImage, ...]:
    """List the images of a folder that holds ``img/`` and ``mask/``, sorted by name; a mask has its image's stem.

    An image or a mask of more than `most` pixels is refused when it is read.

    Raises
    ------
    CatalogError
        There is no such folder, no image, an image has no mask, or two have one stem.
    """
    folders = directory / "img", directory / "mask"
    if not all(folder.is_dir() for folder in folders):
        raise CatalogError(f"{directory}: expected a folder with img/ and mask/ in it; name the folder that holds both")
    images, masks = (_by_stem(folder) for folder in folders)
    if not images:
        raise CatalogError(f"{directory / 'img'}: holds no images; expected names that end in {', '.join(SUFFIXES)}")
    if missing := sorted(images.keys() - masks.keys()):
        raise CatalogError(
            f"{directory / 'mask'}: no mask for {len(missing)} of {len(images)} images, the first {missing[0]!r}; add "
            "them, or remove the images"
        )
    return tuple(MaskedImage(escaped(stem), path, masks[stem], most) for stem, path in images.items())


def check_masked(
    images: Sequence[MaskedImage],
    taxonomy: Taxonomy,
    any_palette: bool,
    advance: Callable[[int], None],
    note: Callable[[str], None] | None = None,
) -> None:
    """Read images and masks once, to refuse what cannot be used before hours are spent on the others.

    Parameters
    ----------
    images : sequence of MaskedImage
        One at least.
    taxonomy : Taxonomy
        Whose classes the masks show.
    any_palette : bool
        Whether masks may have a palette of other colours than the taxonomy's.
    advance : callable
        Told of each image.
    note : callable, optional
        Told of what may surprise.

    Raises
    ------
    CatalogError
        One cannot be read, or belongs to another taxonomy; or none of them shows a class.
    """
    shown, dark = False, list[str]()
    for source in images:
        if not any_palette:
            source.check_palette(taxonomy)
        mask = source.read(taxonomy, partial(dark.append, str(source.image)))[1]
        if not any_palette and (mask == taxonomy.background).any():
            source.check_palette(taxonomy, background=True)
        shown |= bool((mask < taxonomy.background).any())
        advance(1)
    if dark and note:
        note(f"note: {dark_remark(dark)}")
    if not shown:
        raise CatalogError(
            f"{images[0].mask.parent}: no mask shows any of {', '.join(taxonomy.names)}; name images with classes"
        )


class MaskedCrops:
    """Images with true masks as a source: random windows of the composites' size, for an upper bound.

    Images that were read are held in memory, up to a GiB of them a device; others are read each time.
    """

    def __init__(self, images: Sequence[MaskedImage], description: Description) -> None:
        self.images = tuple(images)
        self._description = description
        self._held: dict[int, tuple[Image, Mask]] = {}
        self._room: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> tuple[Image, Mask, Labels]:
        crops = [self._crop(index, rng) for index, rng in zip(indices, rngs, strict=True)]
        masks = np.stack([mask for _, mask in crops])
        classes = np.arange(len(self._description.taxonomy))
        labels = (masks[:, None] == classes[None, :, None, None]).any((2, 3)).astype(np.uint8)
        return np.stack([image for image, _ in crops]), masks, labels

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[Image, Mask]:
        image, mask = self._held.get(index) or self._read(index)
        height, width = self._description.size
        y, x = rng.integers(0, [mask.shape[0] - height + 1, mask.shape[1] - width + 1])
        window = np.s_[y : y + height, x : x + width]
        return image[window], mask[window]

    def _read(self, index: int) -> tuple[Image, Mask]:
        if self._room is None:  # in the process that reads
            worker = get_worker_info()
            self._room = _HELD // (worker.num_workers if worker else 1)
        image, mask = whole = self._whole(self.images[index])
        # none makes room for another: they come round in turns, and each would go before its own comes
        if image.nbytes + mask.nbytes <= self._room:
            self._held[index] = whole
            self._room -= image.nbytes + mask.nbytes
        return whole

    def _whole(self, source: MaskedImage) -> tuple[Image, Mask]:
        """Return an image and its mask, reflected up to the size of a window."""
        image, mask = source.read(self._description.taxonomy)
        pads = [max(0, wanted - side) for wanted, side in zip(self._description.size, mask.shape, strict=True)]
        image = np.pad(image, [*((0, pad) for pad in pads), (0, 0)], "symmetric")
        return image, np.pad(mask, [(0, pad) for pad in pads], "symmetric")


def digest_of(images: Sequence[MaskedImage]) -> str:
    """Return the SHA-256 of the bytes and names of images and their masks, wherever they lie."""
    files = [
        [source.image.stem, *(picture_digest(path, source.most) for path in (source.image, source.mask))]
        for source in images
    ]
    return digest(files)


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):  # as copies from a Mac have
            continue
        if path.suffix.lower() in SUFFIXES and found.setdefault(path.stem, path) != path:
            raise CatalogError(
                f"{path}: has the same stem as {found[path.stem].name}; images and masks are matched by it, so rename "
                "or remove one"
            )
    return found


def _palette(path: Path, most: int) -> tuple[int, ...]:
    """Return the values of a mask's palette; none where it has none, or one of greys."""
    palette = read_palette(path, most)
    greys = all(len(set(palette[start : start + 3])) == 1 for start in range(0, len(palette), 3))
    return () if greys else palette


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
