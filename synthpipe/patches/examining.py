"""Examine patches: find the usable ones, and the problems of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import cv2
import google_crc32c
import numpy as np

from synthpipe.core.errors import CatalogError
from synthpipe.core.records import Image, PatchRef
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.patches.claims import Claim, Problem
from synthpipe.patches.names import masks_among
from synthpipe.patches.pixels import dark_remark, decode_bytes, read_bytes

_BLANK = 0.5  # largest standard deviation of an image of one colour
_NEARLY_BLANK = 4.0  # the standard deviation of tissue is above 10
_FEW_COLORS = 8  # masks rarely have more classes, and tissue rarely has fewer than 100 colours
_SAMPLED = 8  # rows and columns of the pixels that are sampled first


@dataclass(frozen=True, slots=True)
class Examined:
    """A patch that was read, with facts about its pixels that the catalog does not store.

    Attributes
    ----------
    patch : PatchRef
        The patch's row of the catalog.
    pixels : tuple
        A key that is equal for equal pixels.
    color : tuple of int
        Mean of red, green and blue.
    deviation : float
        Standard deviation of the channel that varies most, in grey levels.
    few_colors : bool
        Whether the patch has as few colours as a mask.
    dark : bool
        Whether the patch has 16-bit values that decode to nearly black pixels (`dark_remark`).
    """

    patch: PatchRef
    pixels: tuple[object, ...]
    color: tuple[int, ...]
    deviation: float
    few_colors: bool
    dark: bool


def examine(claim: Claim, most: int) -> Examined | tuple[Problem, ...]:
    """Read the file of a claim, and return the patch or its problems. `most` is the largest number of pixels."""
    if claim.problems:
        return claim.problems
    dark: list[bool] = []
    try:
        data = read_bytes(claim.secret_url or claim.path, most)
        image = decode_bytes(data, most, lambda: dark.append(True))
    except CatalogError as error:
        message = f"patch {claim.id!r}: {error}; replace it or exclude it with patches.exclude"
        return (Problem(claim.id, "unreadable", message),)
    height, width, _ = image.shape
    sha256 = hashlib.sha256(data).hexdigest()
    patch = PatchRef(claim.id, claim.path, sha256, claim.classes, height, width, claim.group, claim.secret_url)
    mean, deviation = cv2.meanStdDev(image)
    # mirrored pixels have equal moments, but different pixels hardly ever have equal moments and checksums
    pixels = (height, width, mean.tobytes(), deviation.tobytes(), google_crc32c.value(image.tobytes()))
    color = tuple(map(round, mean.ravel().tolist()))
    return Examined(patch, pixels, color, float(deviation.max()), _has_few_colors(image), bool(dark))


def sift(
    found: Sequence[Examined | tuple[Problem, ...]],
    taxonomy: Taxonomy,
    least: int | None,
    former: Container[tuple[str, str]],
) -> tuple[list[PatchRef], list[Problem], list[str]]:
    """Return the usable patches, the problems of the others, and remarks on unusual pixels of usable ones.

    Parameters
    ----------
    found : sequence
        Results of `examine`, sorted by id.
    taxonomy : Taxonomy
        The classes.
    least : int or None
        Smallest side of a usable patch, in pixels. None stands for a quarter of the median shorter side of all patches.
    former : container of (str, str)
        Ids and SHA-256 of the patches of an existing run. These patches stay usable if they can be read.
    """
    read = [each for each in found if isinstance(each, Examined)]
    if least is None and read:
        least = int(np.median([_side(each.patch) for each in read])) // 4
    masks = masks_among([each.patch.id for each in read])
    faults: dict[str, Problem] = {}
    twins: dict[tuple[object, ...], list[PatchRef]] = {}
    for each in read:
        is_former = (each.patch.id, each.patch.sha256) in former
        fault = None if is_former else _fault(each, least or 1, masks.get(each.patch.id))
        if fault:
            faults[each.patch.id] = fault
        else:
            twins.setdefault(each.pixels, []).append(each.patch)
    for alike in twins.values():
        faults |= _duplicates(alike, taxonomy, former)
    sound = [each for each in read if each.patch.id not in faults]
    problems: list[Problem] = []
    for outcome in found:
        if not isinstance(outcome, Examined):
            problems += outcome
        elif fault := faults.get(outcome.patch.id):
            problems.append(fault)
    return [each.patch for each in sound], problems, list(_remarks(sound))


def _side(patch: PatchRef) -> int:
    return min(patch.height, patch.width)


def _fault(found: Examined, least: int, mask: tuple[str, str] | None) -> Problem | None:
    """Return the problem of a patch that was read, or None."""
    patch = found.patch
    if mask:
        image, pattern = mask
        message = f"its name is that of a mask of {image!r}; exclude masks with patches.exclude: [{pattern!r}]"
        return Problem(patch.id, "mask", f"patch {patch.id!r}: {message}")
    if _side(patch) < least:
        message = (
            f"has {patch.height} x {patch.width} pixels, expected sides of at least {least}: smaller patches would be "
            "stretched; exclude it with patches.exclude, or lower patches.min_side"
        )
        return Problem(patch.id, "too_small", f"patch {patch.id!r}: {message}")
    if found.deviation < _BLANK:
        message = f"has one colour, RGB {found.color}, in all its pixels; replace it or exclude it with patches.exclude"
        return Problem(patch.id, "blank", f"patch {patch.id!r}: {message}")
    return None


def _duplicates(
    alike: Sequence[PatchRef], taxonomy: Taxonomy, former: Container[tuple[str, str]]
) -> dict[str, Problem]:
    """Return the problems of patches with the same pixels. One patch has no problem, unless their labels differ."""
    kept = [patch for patch in alike if (patch.id, patch.sha256) in former]
    if not kept and len({patch.classes for patch in alike}) == 1:
        kept = [alike[0]]
    problems = {}
    for patch in alike:
        if patch in kept:
            continue
        first = next((each for each in kept or alike if each.classes != patch.classes), (kept or alike)[0])
        what = "bytes" if first.sha256 == patch.sha256 else "pixels"
        message = f"patch {patch.id!r}: holds the same {what} as {first.id!r}"
        cure = "delete one of them or exclude it with patches.exclude"
        if first.classes != patch.classes:
            message += f", but is labelled {taxonomy.label(patch.classes)}, not {taxonomy.label(first.classes)}"
            cure = f"{'it is not' if kept else 'neither is'} used: {cure}"
        problems[patch.id] = Problem(patch.id, "duplicate", f"{message}; {cure}")
    return problems


def _remarks(found: Sequence[Examined]) -> Iterator[str]:
    """Yield remarks on the pixels of usable patches."""
    if dark := [each.patch.id for each in found if each.dark]:
        yield dark_remark(dark)
    if few := [each.patch.id for each in found if each.few_colors]:
        yield (
            f"{len(few)} patches have at most {_FEW_COLORS} colours, as masks do (the first: {few[0]!r}); exclude "
            "masks with patches.exclude"
        )
    if blank := [each.patch.id for each in found if each.deviation < _NEARLY_BLANK and not each.few_colors]:
        yield (
            f"{len(blank)} patches are nearly blank (the first: {blank[0]!r}): their standard deviation is below "
            f"{_NEARLY_BLANK:g} grey levels; exclude glass with patches.exclude"
        )


def _has_few_colors(image: Image) -> bool:
    """Return whether an image has as few colours as a mask."""
    height, width, _ = image.shape
    some = image[:: max(1, height // _SAMPLED), :: max(1, width // _SAMPLED)].reshape(-1, 3)
    if len(set(map(tuple, some.tolist()))) > _FEW_COLORS:
        return False
    red, green, blue = (image[..., channel].astype(np.uint32) for channel in range(3))
    return len(np.unique(red << 16 | green << 8 | blue)) <= _FEW_COLORS
