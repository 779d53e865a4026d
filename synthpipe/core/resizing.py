"""Resize images and masks."""

from __future__ import annotations

import os

import cv2
import numpy as np
from numpy.typing import NDArray

from synthpipe.core.records import PackedPixels

Pixels = NDArray[np.uint8]
"""(H, W) or (H, W, channels) uint8."""

# OpenCV's threads end at a fork. A child process that used threads would wait forever; 0 means no threads.
os.register_at_fork(after_in_child=lambda: cv2.setNumThreads(0))


def fit(pixels: Pixels, size: tuple[int, int], nearest: bool = False) -> Pixels:
    """Resize `pixels` to (height, width). Pixels that have this size already are returned without a copy."""
    if pixels.shape[:2] == size:
        return pixels
    shrinks = pixels.shape[0] >= size[0] and pixels.shape[1] >= size[1]
    smooth = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT if nearest else smooth)  # type: ignore[return-value]


def fit_packed(packed: PackedPixels, size: tuple[int, int]) -> PackedPixels:
    """Resize packed pixels to (height, width). Colours are resized as in `fit`, classes by nearest neighbour."""
    if packed.shape == size:
        return packed
    planes = packed.view(np.uint8).reshape(*packed.shape, 4)
    fitted = fit(planes, size)  # this also blends classes, so the next line writes the classes again
    fitted[..., 3] = fit(np.ascontiguousarray(planes[..., 3]), size, nearest=True)
    whole: PackedPixels = fitted.view("<u4")[..., 0]
    return whole
