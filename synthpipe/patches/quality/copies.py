"""Find near copies of images: re-encoded, resized, mirrored or turned by 90 degrees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.records import Image

Floats = NDArray[np.float32]

_LEVELS = 3.0  # largest root of the mean squared difference of two thumbnails of copies, in grey levels
_OF_CONTRAST = 0.2  # the same, as a share of the thumbnails' standard deviation


def near_copies(thumbnails: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of indices, the smaller first, of images that are copies of each other.

    Two images are copies if their thumbnails differ by less than 3 grey levels (root mean square), and by less than a
    fifth of their own standard deviation, in one of the eight orientations. Only images with almost the same mean and
    deviation of red, green and blue are compared: orientation does not change these.

    Parameters
    ----------
    thumbnails : (N, 32, 32, 3) uint8
        Thumbnails of the images.
    """
    values = thumbnails.astype(np.float32)
    moments = np.concatenate([values.mean((1, 2)), values.std((1, 2))], 1)
    contrast = values.std((1, 2)).mean(1)
    order = np.argsort(moments[:, 0], kind="stable")
    sorted_means = moments[order, 0]
    for rank, index in enumerate(order.tolist()):
        last = int(np.searchsorted(sorted_means, sorted_means[rank] + _LEVELS, side="right"))
        near = order[rank + 1 : last]
        near = near[(np.abs(moments[near] - moments[index]) < _LEVELS).all(1)]
        if not len(near):
            continue
        difference = np.min([_distance(values[near], turned) for turned in orientations(values[index])], axis=0)
        limit = np.minimum(_LEVELS, _OF_CONTRAST * np.minimum(contrast[near], contrast[index]))
        for other in near[difference < limit].tolist():
            yield min(index, other), max(index, other)


def orientations(image: Floats | Image) -> Iterator[Floats | Image]:
    """Yield the eight flips and quarter turns of an image, (H, W, 3)."""
    for flipped in (image, image[:, ::-1]):
        for turns in range(4):
            yield np.rot90(flipped, turns)


def _distance(images: Floats, one: Floats | Image) -> Floats:
    distance: Floats = np.sqrt(((images - one) ** 2).mean((1, 2, 3)))
    return distance
