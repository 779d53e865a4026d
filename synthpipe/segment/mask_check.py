"""Check a folder of images with masks before a command uses it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import CatalogError, ConfigError, each_kind_once, first_of
from synthpipe.core.progress import Reporter
from synthpipe.core.records import PatchRef
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.patches.pixels import dark_remark, picture_digest, read_palette
from synthpipe.segment.mask_values import (
    Color,
    MaskMap,
    are_greys,
    check_palette,
    count_values,
    mask_map_text,
    meaning_of,
    palette_colors,
    to_classes,
)
from synthpipe.segment.masks import MaskedImage, by_stem


@dataclass(frozen=True, slots=True)
class CheckedImages:
    """Images with masks that `check_masks` accepted.

    Attributes
    ----------
    images : tuple of MaskedImage
        At least one image.
    pixels : tuple of str
        SHA-256 of the decoded pixels of each image. Copies have equal values, even if their files differ.
    """

    images: tuple[MaskedImage, ...]
    pixels: tuple[str, ...]


def check_masks(
    images: Sequence[MaskedImage], taxonomy: Taxonomy, reporter: Reporter, any_palette: bool = False
) -> CheckedImages:
    """Check all images and masks of a folder, and report the meaning of the mask values.

    Notes give the meaning of each mask value and its share of pixels. They also name absent classes, images that are
    copies of others, and masks without an image.

    Parameters
    ----------
    images : sequence of MaskedImage
        At least one image; all images are from the same folder.
    taxonomy : Taxonomy
        The classes that the masks show.
    reporter : Reporter
        Reports progress and notes.
    any_palette : bool
        Accept masks whose palette has other colours than `taxonomy`; the palette's indices are the class indices.

    Raises
    ------
    CatalogError
        A file cannot be read or belongs to another taxonomy, no mask shows a class, or the values are ambiguous. The
        message groups equal problems.
    """
    folder = images[0].mask.parent.parent
    found = _FolderMasks(taxonomy, images[0].meaning, any_palette)
    problems: list[tuple[Path, str]] = []
    with reporter.stage(f"masks of {folder.resolve().name}", len(images)) as advance:
        for source in images:
            try:
                found.add(source)
            except CatalogError as error:
                path = source.image if str(error).startswith(f"{source.image}: ") else source.mask
                problems.append((path, str(error).removeprefix(f"{path}: ")))
            advance(1)
    if problems:
        raise CatalogError(each_kind_once(problems))
    found.check(images[0].mask.parent)
    dark = [dark_remark(found.dark)] if found.dark else []
    for note in (*found.notes(folder), *dark, *_spare(images), *_copies(images, found.pixels)):
        reporter.note(f"note: {note}")
    return CheckedImages(tuple(images), tuple(found.pixels))


@dataclass(slots=True)
class _FolderMasks:
    """Values, colours and pixel digests collected from all masks and images of a folder."""

    taxonomy: Taxonomy
    meaning: MaskMap | None
    any_palette: bool
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    plain: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))  # of masks without colours
    pixels: list[str] = field(default_factory=list)
    colors: dict[int, tuple[Color, Path]] = field(default_factory=dict)
    dark: list[str] = field(default_factory=list)

    def add(self, source: MaskedImage) -> None:
        """Read one image and its mask, check them, and add their values to the folder's."""
        image, mask = source.decoded(partial(self.dark.append, str(source.image)))
        counts = count_values(mask)
        shown, colors = np.flatnonzero(counts).tolist(), palette_colors(read_palette(source.mask, source.most))
        try:
            if self.meaning is None and not self.any_palette:
                check_palette(colors, shown, self.taxonomy)
            to_classes(mask, counts, self.taxonomy, self.meaning)
        except CatalogError as error:
            raise CatalogError(f"{source.mask}: {error}") from error
        if self.meaning is not None:
            self._compare(source.mask, colors, shown)
        self.counts += counts
        self.plain += counts if self.any_palette or are_greys(colors) else 0
        pixels = hashlib.sha256(b"%d x %d" % mask.shape)
        pixels.update(image.data)
        self.pixels.append(pixels.hexdigest())

    def _compare(self, path: Path, colors: Sequence[Color], shown: Iterable[int]) -> None:
        """Refuse a mask whose palette differs from earlier masks, because all masks share one mask map."""
        for value in shown:
            if value < len(colors):
                color, first = self.colors.setdefault(value, (colors[value], path))
                if color != colors[value]:
                    raise CatalogError(
                        f"{path}: its palette has {colors[value]} at {value}, but the palette of {first.name} has "
                        f"{color}; --mask-map applies to all masks, so save all masks with the same palette"
                    )

    def check(self, folder: Path) -> None:
        """Refuse masks that together show no class, or whose values are ambiguous."""
        taxonomy = self.taxonomy
        if self.meaning is None and np.flatnonzero(self.plain).tolist() == [0, LOST]:
            first = taxonomy.names[0]
            raise CatalogError(
                f"{folder}: masks contain only 0 and {LOST}, so their meaning is not clear. As class indices, 0 is "
                f"{first} and {LOST} ({self.plain[LOST] / self.plain.sum():.1%} of the pixels) is ignored. If {LOST} "
                f"is a class, name the class, for example --mask-map {mask_map_text([LOST, 0], taxonomy)}; to ignore "
                f"{LOST}, give --mask-map {mask_map_text([0], taxonomy, [LOST])}"
            )
        if not self._by_class()[: len(taxonomy)].any():
            raise CatalogError(
                f"{folder}: no mask shows any of the classes {', '.join(taxonomy.names)}; give images of these classes"
            )

    def _by_class(self) -> NDArray[np.int64]:
        """Return the number of pixels of each class, followed by the number of ignored pixels."""
        found = np.zeros(len(self.taxonomy) + 1, np.int64)
        for value in np.flatnonzero(self.counts).tolist():
            found[min(meaning_of(value, self.taxonomy, self.meaning) or 0, self.taxonomy.background)] += self.counts[
                value
            ]
        return found

    def notes(self, folder: Path) -> list[str]:
        """Return notes on the meaning of the mask values, and on classes that no mask shows."""
        taxonomy, total = self.taxonomy, self.counts.sum()
        values: dict[int, list[int]] = {}
        allowed = range(taxonomy.background + 1) if self.meaning is None else self.meaning
        for value in sorted({*allowed, *np.flatnonzero(self.counts).tolist()}):
            label = meaning_of(value, taxonomy, self.meaning) or 0
            values.setdefault(min(label, taxonomy.background), []).append(value)
        shares = self._by_class() / total
        meanings = [
            f"{', '.join(map(str, own))} = {name} ({shares[label]:.1%})"
            for label, name in enumerate([*taxonomy.names, "ignored"])
            if (own := values.get(label))
        ]
        text = f"masks of {folder}, with shares of pixels: {'; '.join(meanings)}"
        guessed = self.meaning is None and self.plain.any()
        if guessed:
            text += "; no colours confirm these meanings; if a meaning is wrong, give the right ones with --mask-map"
        absent = [name for name, share in zip(taxonomy.names, shares, strict=False) if not share]
        if not absent:
            return [text]
        more = (
            f"no mask of {folder} shows {', '.join(absent)}; mean scores and the choice of the best weights ignore "
            "absent classes"
        )
        if guessed and not self.plain[0] and self.plain[taxonomy.background]:
            counted = mask_map_text(range(1, len(taxonomy) + 1), taxonomy, [0])
            more += f"; if the masks number the classes from 1, give --mask-map {counted}"
        return [text, more]


def _spare(images: Sequence[MaskedImage]) -> list[str]:
    """Return a note that names the masks without an image, or nothing if every mask has an image."""
    folder, used = images[0].mask.parent, {source.mask for source in images}
    spare = [path.name for path in by_stem(folder).values() if path not in used]
    return [f"{folder}: {len(spare)} masks have no image and are not used: {first_of(spare)}"] if spare else []


def _copies(images: Sequence[MaskedImage], pixels: Sequence[str]) -> list[str]:
    """Return a note that names the images that are copies of others, or nothing if there are no copies."""
    first: dict[str, str] = {}
    named = [
        (source.image.name, first.setdefault(same, source.image.name))
        for source, same in zip(images, pixels, strict=True)
    ]
    copies = [f"{name} of {before}" for name, before in named if name != before]
    if not copies:
        return []
    return [
        f"{images[0].image.parent}: {len(copies)} of {len(images)} images have the same pixels as another image: "
        f"{first_of(copies)}; copies make the intervals too narrow, so remove them"
    ]


def among_patches(images: Sequence[MaskedImage], patches: Sequence[PatchRef], reporter: Reporter) -> None:
    """Report images whose files are equal to real patches that train the network."""
    trained = {patch.sha256 for patch in patches}
    found = [source.image.name for source in images if picture_digest(source.image, source.most) in trained]
    if found:
        reporter.note(
            f"note: {images[0].image.parent}: {len(found)} of {len(images)} images are among the real patches that "
            f"train the network: {first_of(found)}; the network's scores on these images are too high"
        )


def check_disjoint(folders: Mapping[str, CheckedImages]) -> None:
    """Refuse an image that occurs in two folders, also as a copy with the same pixels.

    Raises
    ------
    ConfigError
        Two folders share an image; the message names the image and both keys of `folders`.
    """
    seen: dict[str, tuple[str, Path]] = {}
    for option, checked in folders.items():
        for image, pixels in zip(checked.images, checked.pixels, strict=True):
            before, path = seen.setdefault(pixels, (option, image.image))
            if before != option:
                same = "" if path.resolve() == image.image.resolve() else f", as {path}"
                raise ConfigError(
                    f"{option}: {image.image} is also in {before}{same}; give folders that share no images"
                )
