"""Smooth random fields, from which phantom tissue is made.

Every operation is an elementwise IEEE operation, an integer operation or a table look-up. There are no sums, no BLAS
and no vectorised transcendental functions, so a generator's state gives the same bytes on every machine.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""(H, W) float32: a random field of mean 0 and standard deviation near 1, or the concentration of a stain."""

STRIP = 32
"""Number of rows that are processed together. So few rows fit into the processor's cache."""


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Field:
    """Draw a smooth random field: random numbers every `scale` pixels, with cubic B-splines between them."""
    height, width = shape
    lattice = rng.random((int(height / scale) + 5, int(width / scale) + 5), dtype=np.float32) - np.float32(0.5)
    lattice *= np.float32(7.2)  # brings the standard deviation to about 1
    return _spline(np.ascontiguousarray(_spline(lattice.T, width, scale).T), height, scale)


def _spline(lattice: Field, length: int, scale: float) -> Field:
    """Interpolate the rows of a lattice, which are `scale` pixels apart, to `length` rows."""
    position = (np.arange(length) / scale).astype(np.float32)
    start = position.astype(np.intp)
    t = (position - start)[:, None]
    s = 1 - t
    weights = [
        w / np.float32(6)
        for w in (s * s * s, 3 * t * t * t - 6 * t * t + 4, 3 * (t + t * t - t * t * t) + 1, t * t * t)
    ]
    result = np.empty((length, lattice.shape[1]), np.float32)
    for top in range(0, length, STRIP):
        rows = slice(top, top + STRIP)
        total = lattice[start[rows]] * weights[0][rows]
        for tap in (1, 2, 3):
            total += lattice[start[rows] + tap] * weights[tap][rows]
        result[rows] = total
    return result


def grain(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Field:
    """Draw fine noise of standard deviation about 1, smoothed by a Gaussian of `sigma` pixels."""
    noise = rng.integers(0, 256, shape, dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma).astype(np.float32)
    return (smooth - np.float32(127.5)) * np.float32(sigma * 3.54 / 73.9)


def strands(rng: np.random.Generator, across: Field, along: Field) -> Field:
    """Draw strands of random darkness and length, one unit wide. The field's standard deviation is near 1."""
    levels = (rng.random((256, 256), dtype=np.float32) - np.float32(0.5)) * np.float32(4.6)
    across, along = across + np.float32(4096), along + np.float32(4096)  # so that truncation rounds down
    row, column = across.astype(np.int32), along.astype(np.int32)
    down, right = across - row.astype(np.float32), along - column.astype(np.float32)
    down, right = (t * t * (3 - 2 * t) for t in (down, right))
    near, far = (row & 255) << 8, ((row + 1) & 255) << 8
    left, right_of = column & 255, (column + 1) & 255
    flat = levels.ravel()
    upper = flat[near | left] * (1 - right) + flat[near | right_of] * right
    lower = flat[far | left] * (1 - right) + flat[far | right_of] * right
    result: Field = upper * (1 - down) + lower * down
    return result
