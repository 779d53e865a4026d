"""Choose evenly spaced indices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evenly_spaced(length: int, count: int) -> NDArray[np.int64]:
    """Return at most `count` indices below `length`, evenly spaced from the first to the last, (N,) int64."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)


def first_of_parts(length: int, count: int) -> list[int]:
    """Return the first index of each part when `length` is cut into at most `count` parts of nearly equal size."""
    count = min(count, length)
    return [number * length // count for number in range(count)]
