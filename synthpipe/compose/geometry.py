"""Windows and affine maps of images, shared by the strategies.

Every map is *inverse*: it maps a pixel of the result to the source position that the pixel shows. Pixel centres are
whole numbers, so the centre of an image of width w is (w - 1) / 2.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from synthpipe.compose.kernels import inverse_maps
from synthpipe.core.records import Flip, ShiftScaleRotate

Pixels = NDArray[np.uint8]
"""(H, W, 3) image or (H, W) mask, uint8."""

Affine = NDArray[np.float64]
"""(2, 3) float64: a map of (x, y, 1)."""


def window(pixels: Pixels, y: int, x: int, size: tuple[int, int]) -> Pixels:
    """Return the window of `size` at (y, x) of `pixels`.

    Pixels that are smaller than the window are first extended to it, equally on both sides, by reflection that does not
    repeat the edge. `window_range` gives the range of y and x.
    """
    height, width = pixels.shape[:2]
    down, right = max(size[0] - height, 0), max(size[1] - width, 0)
    if down or right:
        top, left = down // 2, right // 2
        pixels = cv2.copyMakeBorder(pixels, top, down - top, left, right - left, cv2.BORDER_REFLECT_101)  # type: ignore[assignment]
    return pixels[y : y + size[0], x : x + size[1]]


def window_range(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Return the number of possible y and the number of possible x of a `window`, each at least 1."""
    return max(shape[0] - size[0], 0) + 1, max(shape[1] - size[1], 0) + 1


def source_map(size: tuple[int, int], flip: Flip, warp: ShiftScaleRotate | None, y: int, x: int) -> Affine:
    """Return the map from a window's pixels to an image that is flipped, then warped, then cropped to the window.

    Parameters
    ----------
    size : tuple of int
        Height and width of the image.
    flip, warp
        The transformation; the flip comes first.
    y, x : int
        Upper left corner of the window in the transformed image.

    Returns
    -------
    (2, 3) float64
        ``source = map @ (window x, window y, 1)``: one map for all steps, so pixels are interpolated once.
    """
    return inverse_maps(np.array([map_numbers(flip, warp, y, x)]), size)[0]  # type: ignore[no-any-return]


def map_numbers(flip: Flip, warp: ShiftScaleRotate | None, y: int, x: int) -> tuple[float, ...]:
    """Return a transformation and a window's corner as the row of numbers that `kernels.inverse_maps` takes."""
    angle, scale, shift_y, shift_x = (warp.angle, warp.scale, warp.shift_y, warp.shift_x) if warp else (0, 1, 0, 0)
    return flip in ("vertical", "both"), flip in ("horizontal", "both"), angle, scale, shift_y, shift_x, y, x


def warp_into(target: Pixels, source: Pixels, affine: Affine, nearest: bool = False) -> None:
    """Fill `target` with `source` mapped by `affine`; `source` is reflected at its borders.

    Images are interpolated bilinearly. Masks need `nearest`, so that their values stay class indices.
    """
    flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR)
    size = target.shape[1::-1]
    cv2.warpAffine(source, affine, size, dst=target, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
