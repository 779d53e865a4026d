"""The one check of images with masks that every command makes before it computes anything."""

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
        One at least.
    pixels : tuple of str
        The SHA-256 of the decoded pixels of each image: copies have the same one, whatever their files are.
    """

    images: tuple[MaskedImage, ...]
    pixels: tuple[str, ...]


def check_masks(
    images: Sequence[MaskedImage], taxonomy: Taxonomy, reporter: Reporter, any_palette: bool = False
) -> CheckedImages:
    """Read images and masks of a folder once, before anything is computed, and report what the values mean.

    Notes say what each value of the masks means and how many pixels have it, which classes are absent, which images are
    copies of others, and which masks have no image.

    Parameters
    ----------
    images : sequence of MaskedImage
        One at least, of one folder.
    taxonomy : Taxonomy
        Whose classes the masks show.
    reporter : Reporter
        Gets progress and notes.
    any_palette : bool
        Whether masks may have a palette of other colours than the taxonomy's: indices count.

    Raises
    ------
    CatalogError
        Some cannot be read, or belong to another taxonomy; no mask shows a class; or values may mean two things. Equal
        problems are reported once.
    """
    folder = images[0].mask.parent.parent
    found = _Found(taxonomy, images[0].meaning, any_palette)
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
class _Found:
    """What the masks of a folder hold, all together."""

    taxonomy: Taxonomy
    meaning: MaskMap | None
    any_palette: bool
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    plain: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))  # of masks without colours
    pixels: list[str] = field(default_factory=list)
    colors: dict[int, tuple[Color, Path]] = field(default_factory=dict)
    dark: list[str] = field(default_factory=list)

    def add(self, source: MaskedImage) -> None:
        """Read an image and its mask, and refuse what says by itself that it cannot be used."""
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
        """Refuse a mask whose palette is not that of the masks before it, for which one map cannot serve."""
        for value in shown:
            if value < len(colors):
                color, first = self.colors.setdefault(value, (colors[value], path))
                if color != colors[value]:
                    raise CatalogError(
                        f"{path}: its palette has {colors[value]} at {value}, but that of {first.name} has {color}; "
                        "one --mask-map serves all masks, so save them with one palette"
                    )

    def check(self, folder: Path) -> None:
        """Refuse masks that together show no class, or whose values may mean two things."""
        taxonomy = self.taxonomy
        if self.meaning is None and np.flatnonzero(self.plain).tolist() == [0, LOST]:
            first = taxonomy.names[0]
            raise CatalogError(
                f"{folder}: masks hold only 0 and {LOST}. As class indices, 0 is {first} and {LOST} "
                f"({self.plain[LOST] / self.plain.sum():.1%} of the pixels) is ignored. If {LOST} is a class, say "
                f"which, for example --mask-map {mask_map_text([LOST, 0], taxonomy)}; if {LOST} is to be ignored, give "
                f"--mask-map {mask_map_text([0], taxonomy, [LOST])}"
            )
        if not self._by_class()[: len(taxonomy)].any():
            raise CatalogError(f"{folder}: no mask shows any of {', '.join(taxonomy.names)}; give images that do")

    def _by_class(self) -> NDArray[np.int64]:
        """Return how many pixels each class has, and at last those that are ignored."""
        found = np.zeros(len(self.taxonomy) + 1, np.int64)
        for value in np.flatnonzero(self.counts).tolist():
            found[min(meaning_of(value, self.taxonomy, self.meaning) or 0, self.taxonomy.background)] += self.counts[
                value
            ]
        return found

    def notes(self, folder: Path) -> list[str]:
        """Say what values mean, and which classes no mask shows."""
        taxonomy, total = self.taxonomy, self.counts.sum()
        values: dict[int, list[int]] = {}
        allowed = range(taxonomy.background + 1) if self.meaning is None else self.meaning
        for value in sorted({*allowed, *np.flatnonzero(self.counts).tolist()}):
            label = meaning_of(value, taxonomy, self.meaning) or 0
            values.setdefault(min(label, taxonomy.background), []).append(value)
        shares = self._by_class() / total
        told = [
            f"{', '.join(map(str, own))} = {name} ({shares[label]:.1%})"
            for label, name in enumerate([*taxonomy.names, "ignored"])
            if (own := values.get(label))
        ]
        text = f"masks of {folder}, with shares of pixels: {'; '.join(told)}"
        guessed = self.meaning is None and self.plain.any()
        if guessed:
            text += "; no colours confirm this: if it is wrong, say what the values mean with --mask-map"
        absent = [name for name, share in zip(taxonomy.names, shares, strict=False) if not share]
        if not absent:
            return [text]
        more = f"no mask of {folder} shows {', '.join(absent)}; mean scores and the choice of weights ignore it"
        if guessed and not self.plain[0] and self.plain[taxonomy.background]:
            counted = mask_map_text(range(1, len(taxonomy) + 1), taxonomy, [0])
            more += f"; if the masks count classes from 1, give --mask-map {counted}"
        return [text, more]


def _spare(images: Sequence[MaskedImage]) -> list[str]:
    """Name the masks that have no image."""
    folder, used = images[0].mask.parent, {source.mask for source in images}
    spare = [path.name for path in by_stem(folder).values() if path not in used]
    return [f"{folder}: {len(spare)} masks have no image and are not used: {first_of(spare)}"] if spare else []


def _copies(images: Sequence[MaskedImage], pixels: Sequence[str]) -> list[str]:
    """Name the images that are copies of others."""
    first: dict[str, str] = {}
    named = [
        (source.image.name, first.setdefault(same, source.image.name))
        for source, same in zip(images, pixels, strict=True)
    ]
    copies = [f"{name} of {before}" for name, before in named if name != before]
    if not copies:
        return []
    return [
        f"{images[0].image.parent}: {len(copies)} of {len(images)} images have the pixels of another one: "
        f"{first_of(copies)}; each counts, so intervals are too narrow: remove copies"
    ]


def among_patches(images: Sequence[MaskedImage], patches: Sequence[PatchRef], reporter: Reporter) -> None:
    """Report images that are among the real patches of a training, byte for byte."""
    trained = {patch.sha256 for patch in patches}
    found = [source.image.name for source in images if picture_digest(source.image, source.most) in trained]
    if found:
        reporter.note(
            f"note: {images[0].image.parent}: {len(found)} of {len(images)} images are among the real patches that "
            f"train the network: {first_of(found)}; its scores on them are too high"
        )


def check_disjoint(folders: Mapping[str, CheckedImages]) -> None:
    """Refuse an image that is in two of the folders; copies of its pixels count too.

    Raises
    ------
    ConfigError
        The message names the image and both of the `folders` that have it.
    """
    seen: dict[str, tuple[str, Path]] = {}
    for option, checked in folders.items():
        for image, pixels in zip(checked.images, checked.pixels, strict=True):
            before, path = seen.setdefault(pixels, (option, image.image))
            if before != option:
                same = "" if path.resolve() == image.image.resolve() else f", as {path}"
                raise ConfigError(f"{option}: {image.image} is in {before} too{same}; name folders of other images")
