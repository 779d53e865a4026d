"""Measure the quality of all donors of a catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synthpipe.config.pipeline import PUBLISHED_GLASS, DropReason, GlassSection
from synthpipe.core.display import without_secrets
from synthpipe.core.records import Image, PatchRef
from synthpipe.core.threads import available_cores, in_threads
from synthpipe.patches.pixels import decode, read_pixels
from synthpipe.patches.quality.copies import near_copies
from synthpipe.patches.quality.labels import label_probabilities
from synthpipe.patches.quality.measures import PatchMeasures, measure, thumbnail

LABEL, BLUR, GLASS, PEN, FOLD = 0.1, 0.25, 0.5, 0.05, 0.25
"""Limits of good donors: smallest confidence and sharpness, largest shares of glass, pen marks and folds."""

_THREADS = min(8, available_cores())

Features = Callable[[Image], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class DonorQuality:
    """The quality of one donor.

    Attributes
    ----------
    patch : PatchRef
        The donor.
    confidence : float or None
        Probability of the donor's label, by models that have not seen its slide or patient. None if unknown.
    second : int or None
        The most probable other class. None if `confidence` is None.
    sharpness : float
        Sharpness relative to the median of the class, which is 1; see `_sharpness`.
    glass, pen, fold : float
        Shares of the pixels, 0-1.
    copy_of : str
        Id or path of the copied image. Empty if the donor is not a copy.
    reasons : tuple of str
        Reasons to leave the donor out, by the limits of this module.
    """

    patch: PatchRef
    confidence: float | None
    second: int | None
    sharpness: float
    glass: float
    pen: float
    fold: float
    copy_of: str
    reasons: tuple[DropReason, ...]


def measure_donors(
    donors: Sequence[PatchRef],
    classes: int,
    glass: GlassSection | None = None,
    features: Features | None = None,
    others: Iterable[str] = (),
    on_image: Callable[[], None] | None = None,
) -> list[DonorQuality]:
    """Read all donors and return their quality, in the same order.

    Parameters
    ----------
    donors : sequence of PatchRef
        Single-class patches of a catalog.
    classes : int
        Number of classes.
    glass : GlassSection, optional
        Settings of glass detection (default: those of WSSS4LUAD).
    features : callable, optional
        A function that returns more features of an image, (H, W, 3) uint8, for example a network's features.
    others : iterable of str
        Paths of other images, such as validation and test images. A copy of one of them gets the reason duplicate.
    on_image : callable, optional
        Called after each image.

    Raises
    ------
    CatalogError
        A file cannot be read, or has changed since it was indexed.
    """
    measures = measure_patches(donors, glass, features, on_image)
    paths = list(others)
    thumbnails = []
    for small in in_threads(lambda path: thumbnail(decode(path)), paths, _THREADS):
        thumbnails.append(small)
        if on_image:
            on_image()
    return rate_donors(donors, measures, classes, dict(zip(paths, thumbnails, strict=True)))


def measure_patches(
    patches: Sequence[PatchRef],
    glass: GlassSection | None = None,
    features: Features | None = None,
    on_image: Callable[[], None] | None = None,
) -> list[PatchMeasures]:
    """Read patches and return their measures; see `measure_donors`."""

    def read(patch: PatchRef) -> tuple[Image, PatchMeasures]:
        image = read_pixels(patch)
        return image, measure(image, glass or PUBLISHED_GLASS)

    found = []
    for image, measures in in_threads(read, patches, _THREADS):
        if features:
            measures = replace(measures, features=np.concatenate([measures.features, features(image)]))
        found.append(measures)
        if on_image:
            on_image()
    return found


def rate_donors(
    donors: Sequence[PatchRef],
    measures: Sequence[PatchMeasures],
    classes: int,
    others: Mapping[str, Image] | None = None,
) -> list[DonorQuality]:
    """Return the quality of donors with these measures. `others` holds the thumbnails of other images by path."""
    if not donors:
        return []
    labels = [patch.classes[0] for patch in donors]
    features = np.stack([each.features for each in measures]).astype(np.float64)
    chances = label_probabilities(features, labels, [patch.group for patch in donors], classes)
    thumbnails = [*(each.thumbnail for each in measures), *(others or {}).values()]
    copies = _originals(donors, thumbnails, list(others or ()))
    sharp = _sharpness(measures, labels)
    return [
        _quality(patch, chance, sharpness, found, copies.get(number, ""))
        for number, (patch, chance, sharpness, found) in enumerate(zip(donors, chances, sharp, measures, strict=True))
    ]


def _sharpness(found: Sequence[PatchMeasures], labels: Sequence[int]) -> list[float]:
    """Return the sharpness of each donor relative to the median of its class.

    Variance and fineness are divided by their medians, and the larger ratio is the sharpness. Smooth tissue has a small
    variance but a high fineness. In a patch that is out of focus, both are small.
    """
    values = np.array([(each.variance, each.fineness) for each in found])
    relative = np.empty_like(values)
    for label in set(labels):
        inside = np.array(labels) == label
        relative[inside] = values[inside] / np.maximum(np.median(values[inside], axis=0), 1e-9)
    sharp: list[float] = relative.max(1).tolist()
    return sharp


def _originals(donors: Sequence[PatchRef], thumbnails: Sequence[Image], others: Sequence[str]) -> dict[int, str]:
    """Return the name of the copied image for each donor that is a copy, by the donor's index.

    If two donors are copies and have the same label, only the second one is in the result. If their labels differ, both
    are in the result.
    """
    copies: dict[int, str] = {}
    pairs = sorted(near_copies(np.stack(thumbnails)))
    for first, second in pairs:
        if first >= len(donors):
            continue
        if second >= len(donors):
            copies[first] = without_secrets(others[second - len(donors)])
        else:
            copies.setdefault(second, donors[first].id)
            if donors[first].classes != donors[second].classes:
                copies.setdefault(first, donors[second].id)
    return copies


def _quality(
    patch: PatchRef, chances: NDArray[np.float64], sharpness: float, measures: PatchMeasures, copy_of: str
) -> DonorQuality:
    (label,) = patch.classes
    known = not np.isnan(chances[label])
    confidence = round(float(chances[label]), 4) if known else None
    rest = np.where(np.arange(len(chances)) == label, -1, chances)
    tests: dict[DropReason, bool] = {
        "label": confidence is not None and confidence < LABEL,
        "blur": sharpness < BLUR,
        "glass": measures.glass > GLASS,
        "pen": measures.pen > PEN,
        "fold": measures.fold > FOLD,
        "duplicate": bool(copy_of),
    }
    return DonorQuality(
        patch,
        confidence,
        int(rest.argmax()) if known else None,
        round(sharpness, 4),
        round(measures.glass, 4),
        round(measures.pen, 4),
        round(measures.fold, 4),
        copy_of,
        tuple(reason for reason, holds in tests.items() if holds),
    )


def worst_donors(
    found: Sequence[DonorQuality], reason: DropReason, most: int
) -> list[tuple[DonorQuality, float | None]]:
    """Return the donors with a reason, worst first, each with the reason's measure."""
    measures: dict[DropReason, Callable[[DonorQuality], float | None]] = {
        "label": lambda each: each.confidence,
        "blur": lambda each: each.sharpness,
        "glass": lambda each: each.glass,
        "pen": lambda each: each.pen,
        "fold": lambda each: each.fold,
        "duplicate": lambda each: None,
    }
    sign = 1 if reason in ("label", "blur") else -1
    flagged = [(each, measures[reason](each)) for each in found if reason in each.reasons]
    flagged.sort(key=lambda pair: (sign * (pair[1] or 0.0), pair[0].patch.id))
    return flagged[:most]
