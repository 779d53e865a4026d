"""The Bezier strategy (method section 2): one donor pasted on another inside a random closed curve."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose.curve import bernstein
from synthpipe.compose.donors import Donors
from synthpipe.compose.kernels import paste_curve, render_beziers
from synthpipe.compose.sampling import draw_beziers, glass_limits
from synthpipe.config.pipeline import BezierSection, Pipeline
from synthpipe.core.records import BezierRecipe, Image, Mask, Strategy


@dataclass(frozen=True, slots=True, eq=False)
class BezierBlock:
    """Sampled Beziers, as the arrays from which kernels render.

    Attributes
    ----------
    indices : (N,) int64
        The composites' indices.
    canvas : tuple of int
        Height and width of all composites.
    settings : BezierSection
        The constants of the curves.
    bank : Donors
        The donors.
    drawn : (N, 2) int64
        The donors of background and foreground, as indices in `Donors.drawn`.
    points : (N, n, 2) float64
        The corners of the curves; see `kernels.paste_curve`.
    """

    strategy: ClassVar[Strategy] = "bezier"
    indices: NDArray[np.int64]
    canvas: tuple[int, int]
    settings: BezierSection
    bank: Donors
    drawn: NDArray[np.int64]
    points: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.indices)

    def recipe(self, number: int) -> BezierRecipe:
        """Return the recipe of one composite of the block."""
        back, front = (self.bank.drawn[row].id for row in self.drawn[number].tolist())
        points = tuple((x, y) for x, y in self.points[number].tolist())
        curve, index = self.settings, int(self.indices[number])
        return BezierRecipe(index, self.canvas, back, front, points, curve.edgy, curve.radius, curve.samples)

    def render(self, images: Image, masks: Mask, rows: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
        """Render the composites `chosen` into `rows` of (M, H * W * 3) `images` and (M, H * W) `masks`."""
        starts, fitted = self.bank.on_canvas(self.canvas)
        curve = float(self.settings.edgy), float(self.settings.radius), bernstein(self.settings.samples)
        first = starts[self.bank.numbers(self.drawn)]
        render_beziers(images, masks, rows, self.bank.bank, fitted, chosen, first, self.canvas, self.points, curve)


def sample_beziers(
    indices: NDArray[np.int64], stream: tuple[np.uint64, ...], donors: Donors, pipeline: Pipeline
) -> BezierBlock:
    """Draw Beziers.

    The corners of a curve are drawn again while two neighbours are closer than ``min_distance / n`` (Euclidean). After
    `max_draws` draws the last one is used. They are in angular order around their centroid.

    Parameters
    ----------
    indices : (N,) int64
        The composites' indices.
    stream : tuple of uint64
        Seed, words of strategy and purpose, and stream; see `sampling.uniforms`.
    donors : Donors
        Must hold patches of both classes of at least one class pair.
    pipeline : Pipeline
        Must have a `bezier` section.

    Raises
    ------
    KeyError
        The bank has no pixels of a donor whose glass counts.
    """
    settings = pipeline.bezier
    if settings is None:
        raise ValueError("the pipeline has no bezier section; add one to sample Bezier composites")
    pairs = _possible(pipeline.class_pairs, donors.labels)
    count, smallest = len(indices), settings.min_distance / settings.points
    drawn, points = np.empty((count, 2), np.int64), np.empty((count, settings.points, 2))
    absent = draw_beziers(
        *(indices, stream, pairs, glass_limits(pipeline.glass), donors.bank, donors.table()),
        *((smallest, settings.max_draws), (drawn, points)),
    )
    if absent >= 0:
        raise KeyError(donors.drawn[absent].id)
    return BezierBlock(indices, pipeline.canvas, settings, donors, drawn, points)


def render_bezier(recipe: BezierRecipe, donors: Donors, image: Image, mask: Mask) -> None:
    """Render a Bezier composite into `image` and `mask`; the same recipe and donors give the same bytes."""
    back, front = (donors.fitted(patch, recipe.canvas) for patch in (recipe.background, recipe.foreground))
    corners, weights = np.array(recipe.points), bernstein(recipe.samples)
    paste_curve(image.reshape(-1), mask.reshape(-1), back, front, corners, recipe.edgy, recipe.radius, weights)


@lru_cache
def _possible(pairs: tuple[tuple[int, int], ...], labels: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the pairs whose classes have donors, as (P, 2) indices in `labels`."""
    possible = [[labels.index(label) for label in pair] for pair in pairs if set(pair) <= set(labels)]
    if not possible:
        raise IndexError("no pair of classes has donors of both classes")
    return np.array(possible, np.int64)
