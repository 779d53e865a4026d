"""Choose the windows of a phantom slide that become training patches, and their labels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import ConfigError
from synthpipe.core.records import Mask
from synthpipe.patches.phantom.tissue import GLASS

Boxes = NDArray[np.int64]
"""(N, 4) int64: y, x, height and width of windows."""

Shares = NDArray[np.float64]

# Shares of a patch's pixels. A class with a share between TRACE and LABELLED is unclear, so no such patch is cut.
TRACE, LABELLED = 0.005, 0.02
TISSUE = 0.4
"""Smallest share of tissue in a patch."""

SIDES = (0.9, 1.3)
"""Shortest and longest side of a patch, in units of the wanted size."""

MIXED = -1
WANTED = (0, MIXED, 1, MIXED, 2)
"""Kinds of patches, in the order of cutting. A number is the class of a single-class patch."""

_DRAWS = 60  # random windows for each chosen window
_MISMATCH = 0.75  # overlap that is added for a window of the wrong kind


@dataclass(frozen=True, slots=True)
class Window:
    """Upper left corner of a patch on its slide, its size, and the classes in it, in index order."""

    y: int
    x: int
    height: int
    width: int
    classes: tuple[int, ...]


def choose_windows(rng: np.random.Generator, mask: Mask, count: int, size: int, first: int = 0) -> list[Window]:
    """Choose windows of all kinds that overlap as little as possible.

    Random windows are drawn and labelled by the mask. Then a window is chosen for each kind of `WANTED` in turn: the
    window with the least overlap with those already chosen. If even this overlap is more than three quarters, a window
    of another kind may be chosen instead.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the windows.
    mask : (H, W) uint8
        A slide's classes, as `tissue.render_slide` gives them.
    count : int
        Number of windows.
    size : int
        Approximate width of a window. The slide must be at least 1.3 times as wide.
    first : int
        Index in `WANTED` of the first kind.

    Raises
    ------
    ConfigError
        The slide has too few windows with clear labels.
    """
    boxes, shares = _draw(rng, mask, count * _DRAWS + 400, size)
    occurs = shares[:, :GLASS] > LABELLED
    clear = (occurs | (shares[:, :GLASS] <= TRACE)).all(axis=1) & occurs.any(axis=1)
    usable = clear & (shares[:, GLASS] <= 1 - TISSUE)
    boxes, occurs = boxes[usable], occurs[usable]
    if len(boxes) < count:
        raise ConfigError(
            f"a phantom slide has {len(boxes)} windows of about {size} pixels that can be labelled, but {count} are "
            "needed; use another seed or more slides"
        )
    kinds = np.where(occurs.sum(axis=1) == 1, occurs.argmax(axis=1), MIXED)
    overlap = np.zeros(len(boxes))
    windows = []
    for turn in range(first, first + count):
        taken = int(np.argmin(overlap + _MISMATCH * (kinds != WANTED[turn % len(WANTED)])))
        y, x, height, width = boxes[taken].tolist()
        windows.append(Window(y, x, height, width, tuple(np.flatnonzero(occurs[taken]).tolist())))
        np.maximum(overlap, _overlap(boxes, boxes[taken]), out=overlap)
        overlap[(boxes[:, :2] == boxes[taken, :2]).all(axis=1)] = np.inf  # corners name patches
    return windows


def _draw(rng: np.random.Generator, mask: Mask, count: int, size: int) -> tuple[Boxes, Shares]:
    """Return random windows, and the shares of each class and of glass in each window, (N, 4)."""
    low, high = (round(size * side) for side in SIDES)
    extent = rng.integers(low, high, (count, 2), endpoint=True)
    corner = (rng.random((count, 2)) * (np.array(mask.shape) - extent + 1)).astype(np.int64)
    top, left = corner.T
    bottom, right = (corner + extent).T
    shares = []
    for index in range(GLASS + 1):
        pixels = cv2.integral((mask == index).astype(np.uint8))
        inside = pixels[bottom, right] - pixels[top, right] - pixels[bottom, left] + pixels[top, left]
        shares.append(inside / (extent[:, 0] * extent[:, 1]))
    return np.concatenate([corner, extent], axis=1), np.stack(shares, axis=1)


def _overlap(boxes: Boxes, taken: Boxes) -> Shares:
    """Return the share of each window that the window `taken` covers."""
    start = np.maximum(boxes[:, :2], taken[:2])
    stop = np.minimum(boxes[:, :2] + boxes[:, 2:], taken[:2] + taken[2:])
    common = np.maximum(stop - start, 0)
    return np.asarray(common[:, 0] * common[:, 1] / (boxes[:, 2] * boxes[:, 3]))
