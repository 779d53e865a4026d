"""The Bezier strategy (method section 2): one donor pasted on another inside a random closed curve."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from synthpipe.compose.curve import bernstein, sample_points
from synthpipe.compose.donors import Donors
from synthpipe.compose.kernels import paste_curve
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import BezierRecipe, Donor, Image, Mask


def sample_bezier(rng: np.random.Generator, index: int, donors: Donors, pipeline: Pipeline) -> BezierRecipe:
    """Draw the recipe of a Bezier composite.

    Parameters
    ----------
    rng : Generator
        The composite's own generator.
    index : int
        The composite's index, which the recipe carries.
    donors : Donors
        Must hold patches of both classes of at least one class pair.
    pipeline : Pipeline
        Must have a `bezier` section.
    """
    settings = pipeline.bezier
    if settings is None:
        raise ValueError("the pipeline has no bezier section; add one to sample Bezier composites")
    pairs = _possible(pipeline.class_pairs, donors.labels)
    draw = rng.random(3).tolist()
    background, foreground = pairs[int(draw[0] * len(pairs))]
    back = _sample_donor(draw[1], background, rng, donors, pipeline)
    front = _sample_donor(draw[2], foreground, rng, donors, pipeline)
    points = tuple((x, y) for x, y in sample_points(rng, settings).tolist())
    return BezierRecipe(
        index, pipeline.canvas, back.id, front.id, points, settings.edgy, settings.radius, settings.samples
    )


def render_bezier(recipe: BezierRecipe, donors: Donors, image: Image, mask: Mask) -> None:
    """Render a Bezier composite into `image` and `mask`; the same recipe and donors give the same bytes."""
    back, front = (donors.fitted(patch, recipe.canvas) for patch in (recipe.background, recipe.foreground))
    corners, weights = np.array(recipe.points), bernstein(recipe.samples)
    paste_curve(image.reshape(-1), mask.reshape(-1), back, front, corners, recipe.edgy, recipe.radius, weights)


@lru_cache
def _possible(pairs: tuple[tuple[int, int], ...], labels: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(pair for pair in pairs if set(pair) <= set(labels))


def _sample_donor(u: float, label: int, rng: np.random.Generator, donors: Donors, pipeline: Pipeline) -> Donor:
    glass = pipeline.glass
    for _ in range(glass.max_draws if glass else 1):
        donor = donors.draw_of(label, u)
        height, width = donor.image.shape[:2]
        if glass is None or donors.other_share(donor, 0, 0, (height, width)) <= glass.max_share:
            break
        u = rng.random()
    return donor
