"""The random closed curve of the Bezier strategy (method section 2)."""

from __future__ import annotations

from functools import lru_cache

import bezier
import cv2
import numpy as np
from numpy.typing import NDArray

from synthpipe.config import BezierSection
from synthpipe.records import Mask

Points = NDArray[np.float64]
"""(N, 2) float64: x, y."""

_FINER = 8  # OpenCV also paints every pixel that the outline touches: so it fills a picture this much finer
_SUBPIXEL_BITS = 4  # corners are rounded to 1/16 of a fine pixel


def sample_points(rng: np.random.Generator, settings: BezierSection) -> Points:
    """Draw the curve's corners: (n, 2) float64 in the unit square, in angular order around their centroid.

    They are drawn again while two neighbours are closer than ``min_distance / n`` (Euclidean), at most `max_draws`
    times in all; the last draw stands.
    """
    smallest = settings.min_distance / settings.points
    for _ in range(settings.max_draws):
        points = rng.random((settings.points, 2))
        offsets = points - points.mean(axis=0)
        points = points[np.argsort(np.arctan2(offsets[:, 1], offsets[:, 0]), kind="stable")]
        chords = np.roll(points, -1, axis=0) - points
        if np.hypot(chords[:, 0], chords[:, 1]).min() >= smallest:
            break
    return points


def control_polygons(points: Points, edgy: float, radius: float) -> NDArray[np.float64]:
    """Return the cubic segments of the closed curve through `points`.

    The tangent at a point is a blend of the angles of the incoming and the outgoing chord, the outgoing one weighted
    with ``p = arctan(edgy) / pi + 1/2``. The inner control points lie on the tangents, `radius` chord lengths away.

    Returns
    -------
    (N, 4, 2) float64
        Start, two inner control points and end of each segment.
    """
    ends = np.roll(points, -1, axis=0)
    chords = ends - points
    outgoing = np.arctan2(chords[:, 1], chords[:, 0])
    incoming = np.roll(outgoing, 1)
    turn = np.mod(outgoing - incoming + np.pi, 2 * np.pi) - np.pi
    tangent = incoming + (np.arctan(edgy) / np.pi + 0.5) * turn
    directions = np.stack([np.cos(tangent), np.sin(tangent)], axis=1)
    lengths = radius * np.hypot(chords[:, 0], chords[:, 1])[:, None]
    return np.stack([points, points + lengths * directions, ends - lengths * np.roll(directions, -1, axis=0), ends], 1)


def outline(points: Points, edgy: float, radius: float, samples: int) -> Points:
    """Return the closed curve through `points` as (N * samples, 2) float64, `samples` points a segment."""
    polygons = control_polygons(points, edgy, radius)
    # a sum of four products, not a matrix product: its rounding is the same on every machine
    terms = (polygons[:, number, None, :] * row[None, :, None] for number, row in enumerate(_bernstein(samples)))
    first, second, third, fourth = terms
    curve: Points = (((first + second) + third) + fourth).reshape(-1, 2)
    return curve


def fill(curve: Points, size: tuple[int, int]) -> Mask:
    """Return (H, W) uint8, 1 where a pixel's centre lies inside the closed `curve`.

    The unit square is scaled to `size` = (height, width).
    """
    height, width = size
    fine = np.zeros((height * _FINER, width * _FINER), np.uint8)
    fixed = np.rint(curve * (width * _FINER << _SUBPIXEL_BITS, height * _FINER << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(fine, [fixed], 1, lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)
    # in the finer picture, whose centres are whole numbers, the pixel's centre is the middle one of _FINER
    return np.ascontiguousarray(fine[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER])


@lru_cache
def _bernstein(samples: int) -> NDArray[np.float64]:
    """Return the (4, samples) weights of a cubic segment's control points, as the bezier package evaluates them."""
    basis = bezier.Curve(np.eye(4), degree=3)
    return np.asarray(basis.evaluate_multi(np.linspace(0.0, 1.0, samples)))
