"""Find near copies of images: re-encoded, resized, mirrored or turned by 90 degrees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_LEVELS = 3.0  # largest difference of two thumbnails of copies, in grey levels
_OF_CONTRAST = 0.2  # largest difference as a share of the thumbnails' standard deviation


def near_copies(thumbnails: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield the indices of each two images that are copies of each other, the smaller index first.

    Two images are copies if the grey levels of their thumbnails are nearly equal in one of the eight orientations. The
    difference (root mean square) must be less than 3, and less than a fifth of the standard deviation of either
    thumbnail. Colour is not compared, because JPEG changes colours. Only images with almost the same mean and deviation
    are compared, since both are the same in all orientations.

    Parameters
    ----------
    thumbnails : (N, 32, 32, 3) uint8
        Thumbnails of the images.
    """
    values = thumbnails @ _GREY
    mean, contrast = values.mean((1, 2)), values.std((1, 2))
    order = np.argsort(mean, kind="stable")
    sorted_means = mean[order]
    for rank, index in enumerate(order.tolist()):
        last = int(np.searchsorted(sorted_means, sorted_means[rank] + _LEVELS, side="right"))
        near = order[rank + 1 : last]
        near = near[np.abs(contrast[near] - contrast[index]) < _LEVELS]
        if not len(near):
            continue
        difference = np.min([_distance(values[near], turned) for turned in orientations(values[index])], axis=0)
        limit = np.minimum(_LEVELS, _OF_CONTRAST * np.minimum(contrast[near], contrast[index]))
        for other in near[difference < limit].tolist():
            yield min(index, other), max(index, other)


def orientations(image: Floats) -> Iterator[Floats]:
    """Yield the eight flips and quarter turns of grey levels, (H, W)."""
    for flipped in (image, image[:, ::-1]):
        for turns in range(4):
            yield np.rot90(flipped, turns)


def _distance(images: Floats, one: Floats) -> Floats:
    distance: Floats = np.sqrt(((images - one) ** 2).mean((1, 2)))
    return distance
