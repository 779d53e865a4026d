"""The rule that a composite must show several classes; builds and fresh composites follow it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def has_enough_classes(class_pixels: NDArray[np.int32], least: int, share: float) -> NDArray[np.bool_]:
    """Return whether each composite shows at least `least` classes, (N,) bool.

    Parameters
    ----------
    class_pixels : (N, C + 1) int32
        Pixels of each tissue class and of the background.
    least : int
        ``curation.min_classes``.
    share : float
        ``curation.min_class_share``: a class counts if it has at least this share of the pixels.
    """
    counts = class_pixels[:, :-1]
    smallest = share * class_pixels.sum(axis=1, keepdims=True)
    enough: NDArray[np.bool_] = ((counts > 0) & (counts >= smallest)).sum(axis=1) >= least
    return enough
