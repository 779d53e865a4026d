"""The Bezier strategy (method section 2): one donor pasted on another inside a random closed curve."""

from __future__ import annotations

import cv2
import numpy as np

from synthpipe.compose.curve import fill, outline, sample_points
from synthpipe.compose.donors import Donors
from synthpipe.compose.geometry import fit
from synthpipe.config import Pipeline
from synthpipe.records import BezierRecipe, Composite, Donor, Image, Mask


def sample_bezier(rng: np.random.Generator, index: int, donors: Donors, pipeline: Pipeline) -> BezierRecipe:
    """Draw a Bezier composite's numbers.

    Parameters
    ----------
    rng : Generator
        The composite's own generator.
    index : int
        The composite's index, which the recipe carries.
    donors : Donors
        Must hold patches of both classes of at least one pair.
    pipeline : Pipeline
        Must have a `bezier` section.
    """
    settings = pipeline.bezier
    if settings is None:
        raise ValueError("the pipeline has no bezier section; add one to sample Bezier composites")
    pairs = [pair for pair in pipeline.class_pairs() if set(pair) <= set(donors.labels)]
    draw = rng.random(3).tolist()
    background, foreground = pairs[int(draw[0] * len(pairs))]
    back = _sample_donor(draw[1], background, rng, donors, pipeline)
    front = _sample_donor(draw[2], foreground, rng, donors, pipeline)
    points = tuple((x, y) for x, y in sample_points(rng, settings).tolist())
    return BezierRecipe(
        index, pipeline.canvas, back.id, front.id, points, settings.edgy, settings.radius, settings.samples
    )


def render_bezier(recipe: BezierRecipe, donors: Donors) -> Composite:
    """Render a Bezier composite: pure, the same bytes for the same recipe and donors."""
    curve = outline(np.array(recipe.points), recipe.edgy, recipe.radius, recipe.samples)
    inside = fill(curve, recipe.canvas)
    image, mask = (np.array(pixels) for pixels in _on_canvas(donors[recipe.background], recipe.canvas))
    front_image, front_mask = _on_canvas(donors[recipe.foreground], recipe.canvas)
    cv2.copyTo(front_image, inside, image)
    cv2.copyTo(front_mask, inside, mask)
    return Composite(recipe, image, mask)


def _sample_donor(u: float, label: int, rng: np.random.Generator, donors: Donors, pipeline: Pipeline) -> Donor:
    glass = pipeline.glass
    for _ in range(glass.max_draws if glass else 1):
        donor = donors.draw_of(label, u)
        if glass is None or donor.mask is None or float((donor.mask != label).mean()) <= glass.max_share:
            break
        u = rng.random()
    return donor


def _on_canvas(donor: Donor, size: tuple[int, int]) -> tuple[Image, Mask]:
    mask = np.full(size, donor.label, np.uint8) if donor.mask is None else fit(donor.mask, size, nearest=True)
    return fit(donor.image, size), mask
