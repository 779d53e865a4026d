"""Nuclei of phantom tissue: choose their positions, and draw them into a map of haematoxylin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from synthpipe.core.records import Mask
from synthpipe.patches.phantom.fields import Field

Points = NDArray[np.float64]
"""(N, 2) float64: positions, or directions of length 1, as (y, x) in pixels."""

CODES = 100
"""Levels of an 8-bit stain map for a concentration of 1."""

_CORNERS = 14
_TURN = np.array(
    [(math.sin(2 * math.pi * k / _CORNERS), math.cos(2 * math.pi * k / _CORNERS)) for k in range(_CORNERS)]
)
_SUBPIXEL = 4
"""Fractional bits of the coordinates that OpenCV draws with."""


@dataclass(frozen=True, slots=True)
class Nucleus:
    """Appearance of one kind of nuclei. Pairs of numbers are ranges.

    Attributes
    ----------
    radius : tuple of float
        Half the width, in pixels.
    elongation : tuple of float
        Length divided by width.
    haematoxylin : tuple of float
        Concentration of haematoxylin.
    ragged : float
        Largest distance of a corner from the ellipse, as a share of the radius.
    vesicular : bool
        Whether a nucleus has a dark membrane and a nucleolus.
    """

    radius: tuple[float, float]
    elongation: tuple[float, float]
    haematoxylin: tuple[float, float]
    ragged: float = 0.15
    vesicular: bool = False


def scatter(rng: np.random.Generator, shape: tuple[int, ...], spacing: float, jitter: float) -> Points:
    """Draw points near the points of a hexagonal grid of `spacing` pixels, at most `jitter` * `spacing` away."""
    rows, columns = int(shape[0] / (spacing * 0.87)) + 1, int(shape[1] / spacing) + 1
    y, x = (index.astype(np.float64) for index in np.indices((rows, columns)))
    points = np.stack([y * 0.87, x + 0.5 * (y % 2)], axis=-1).reshape(-1, 2)
    points = (points + rng.uniform(-jitter, jitter, points.shape)) * spacing
    inside: Points = points[(points >= 1).all(axis=1) & (points < np.array(shape) - 2).all(axis=1)]
    return inside


def at(field: NDArray[Any], points: Points) -> NDArray[Any]:
    """Return the values of a field (H, W) at the pixels that contain `points`."""
    rows, columns = points.astype(np.intp).T
    return np.asarray(field[rows, columns])


def across(vectors: Points) -> Points:
    """Return directions of length 1 that are perpendicular to `vectors`."""
    length = np.sqrt(vectors[:, :1] * vectors[:, :1] + vectors[:, 1:] * vectors[:, 1:])
    turned: Points = np.stack([-vectors[:, 1], vectors[:, 0]], axis=-1) / np.maximum(length, 1e-9)
    return turned


def any_way(rng: np.random.Generator, points: Points) -> Points:
    """Draw a random direction for each point."""
    return across(rng.uniform(-1, 1, points.shape))


def draw_nuclei(rng: np.random.Generator, canvas: Mask, kind: Nucleus, centres: Points, directions: Points) -> None:
    """Draw nuclei along `directions` into `canvas`, a stain map of haematoxylin, (H, W) uint8 (see `CODES`)."""
    count = len(centres)
    width = rng.uniform(*kind.radius, (count, 1, 1))
    length = width * rng.uniform(*kind.elongation, (count, 1, 1))
    wobble = 1 + rng.uniform(-kind.ragged, kind.ragged, (count, _CORNERS, 1))
    wobble = (wobble + np.roll(wobble, 1, axis=1)) / 2
    spokes = directions[:, None] * length * _TURN[:, :1] + across(directions)[:, None] * width * _TURN[:, 1:]
    outlines = _to_pixels(centres[:, None] + spokes * wobble)
    nucleoli = _to_pixels(centres + rng.uniform(-0.35, 0.35, centres.shape) * width[:, 0]).tolist()
    levels = (rng.uniform(*kind.haematoxylin, count) * CODES).astype(int).tolist()
    for outline, nucleolus, level in zip(outlines, nucleoli, levels, strict=True):
        cv2.fillPoly(canvas, [outline], level, cv2.LINE_AA, _SUBPIXEL)
        if kind.vesicular:
            cv2.polylines(canvas, [outline], True, min(255, level * 3 // 2), 1, cv2.LINE_AA, _SUBPIXEL)
            cv2.circle(canvas, nucleolus, 18, min(255, level * 9 // 5), -1, cv2.LINE_AA, _SUBPIXEL)


def stain_nuclei(
    nuclei: Mask, ground: NDArray[np.floating], eosin: NDArray[np.floating], specks: Field, clumping: float
) -> tuple[Field, Field]:
    """Add drawn nuclei to a tissue, and return the tissue's haematoxylin and eosin.

    Parameters
    ----------
    nuclei : (H, W) uint8
        Nuclei that `draw_nuclei` drew.
    ground, eosin : (H, W) float32
        Concentrations between the nuclei. Inside a nucleus, there is less eosin.
    specks : (H, W) float32
        Noise of the chromatin. `clumping` is its strength.
    """
    chromatin = nuclei * (1 + clumping * specks) / np.float32(CODES)
    inside = np.where(nuclei > 30, np.float32(0.6), np.float32(1))
    return np.maximum(ground, chromatin, dtype=np.float32), np.multiply(eosin, inside, dtype=np.float32)


def _to_pixels(points: Points) -> NDArray[np.int32]:
    """Convert (y, x) positions to OpenCV's fixed-point (x, y)."""
    return np.rint(points[..., ::-1] * (1 << _SUBPIXEL)).astype(np.int32)
