"""Reference sampling in plain Python and NumPy; the compiled kernels must draw the same recipes.

It draws one composite at a time, from NumPy's generator.
"""

from __future__ import annotations

import numpy as np

from synthpipe.compose import Donors, Purpose, generator
from synthpipe.compose.curve import Points
from synthpipe.compose.geometry import window_range
from synthpipe.compose.mosaic import quadrant_windows, sample_transform
from synthpipe.compose.sampling import choose_corners
from synthpipe.config.fields import even_ceil
from synthpipe.config.pipeline import BezierSection, MosaicSection, Pipeline
from synthpipe.core.records import BezierRecipe, Crop, Donor, MosaicRecipe, Quadrant, Recipe, Strategy

_TILE_DRAWS = 3  # donor, y, x
_TRANSFORM_DRAWS = 9  # flip?, which; warp?, angle, scale, shift y, shift x; window y, x
_AT_ONCE = 4  # draws of all corners in one call


def sample_plainly(
    pipeline: Pipeline, strategy: Strategy, index: int, donors: Donors, purpose: Purpose = "candidate"
) -> Recipe:
    """Draw the same recipe as `compose.sample`."""
    rng = generator(pipeline.seed, strategy, purpose, index)
    return (_sample_mosaic if strategy == "mosaic" else _sample_bezier)(rng, index, donors, pipeline)


def _sample_mosaic(rng: np.random.Generator, index: int, donors: Donors, pipeline: Pipeline) -> MosaicRecipe:
    mosaic = pipeline.mosaic
    assert mosaic
    tiles = mosaic.grid[0] * mosaic.grid[1]
    block = rng.random(2 + 4 * (tiles * _TILE_DRAWS + _TRANSFORM_DRAWS)).tolist()
    low, high = mosaic.split
    height, width = pipeline.canvas
    split = even_ceil((low + block[0] * (high - low)) * height), even_ceil((low + block[1] * (high - low)) * width)
    quadrants = []
    for number, (_, _, *size) in enumerate(quadrant_windows(split, pipeline.canvas)):
        start = 2 + number * (tiles * _TILE_DRAWS + _TRANSFORM_DRAWS)
        transform = start + tiles * _TILE_DRAWS
        draws = [block[at : at + _TILE_DRAWS] for at in range(start, transform, _TILE_DRAWS)]
        crops = tuple(_sample_tile(draw, rng, donors, pipeline) for draw in draws)
        quadrants.append(
            _sample_quadrant(block[transform : transform + _TRANSFORM_DRAWS], crops, (size[0], size[1]), mosaic)
        )
    first, second, third, fourth = quadrants
    return MosaicRecipe(index, pipeline.canvas, mosaic.tile, mosaic.grid, split, (first, second, third, fourth))


def _sample_tile(draw: list[float], rng: np.random.Generator, donors: Donors, pipeline: Pipeline) -> Crop:
    assert pipeline.mosaic
    size = pipeline.mosaic.tile
    for _ in range(pipeline.glass.max_draws if pipeline.glass else 1):
        donor = _draw(donors, draw[0], pipeline.donors.balance_classes)
        ys, xs = window_range(donor.image.shape, size)
        crop = Crop(donor.id, int(draw[1] * ys), int(draw[2] * xs))
        if pipeline.glass is None or donors.other_share(donor, crop.y, crop.x, size) <= pipeline.glass.max_share:
            break
        draw = rng.random(_TILE_DRAWS).tolist()
    return crop


def _sample_quadrant(
    draws: list[float], crops: tuple[Crop, ...], size: tuple[int, int], mosaic: MosaicSection
) -> Quadrant:
    flip, warp = sample_transform(draws, mosaic)
    grid_size = mosaic.tile[0] * mosaic.grid[0], mosaic.tile[1] * mosaic.grid[1]
    ys, xs = window_range(grid_size, size)
    return Quadrant(crops, flip, warp, int(draws[7] * ys), int(draws[8] * xs))


def _sample_bezier(rng: np.random.Generator, index: int, donors: Donors, pipeline: Pipeline) -> BezierRecipe:
    settings = pipeline.bezier
    assert settings
    pairs = [pair for pair in pipeline.class_pairs if set(pair) <= set(donors.labels)]
    draw = rng.random(3).tolist()
    background, foreground = pairs[int(draw[0] * len(pairs))]
    back = _sample_donor(draw[1], background, rng, donors, pipeline)
    front = _sample_donor(draw[2], foreground, rng, donors, pipeline)
    points = tuple((x, y) for x, y in sample_points(rng, settings).tolist())
    return BezierRecipe(
        index, pipeline.canvas, back.id, front.id, points, settings.edgy, settings.radius, settings.samples
    )


def sample_points(rng: np.random.Generator, settings: BezierSection) -> Points:
    """Draw the curve's corners: (n, 2) float64 in the unit square, in angular order around their centroid.

    `sampling.draw_beziers` explains when they are drawn again. Several draws are made at once, so `rng` may also
    advance past draws that are not used.
    """
    smallest = settings.min_distance / settings.points
    points: Points = np.empty((settings.points, 2))
    for start in range(0, settings.max_draws, _AT_ONCE):
        draws = rng.random((min(_AT_ONCE, settings.max_draws - start), *points.shape))
        if choose_corners(draws, smallest, points):
            break
    return points


def _sample_donor(u: float, label: int, rng: np.random.Generator, donors: Donors, pipeline: Pipeline) -> Donor:
    glass = pipeline.glass
    for _ in range(glass.max_draws if glass else 1):
        donor = _draw_of(donors, label, u)
        height, width = donor.image.shape[:2]
        if glass is None or donors.other_share(donor, 0, 0, (height, width)) <= glass.max_share:
            break
        u = rng.random()
    return donor


def _draw(donors: Donors, u: float, balance_classes: bool) -> Donor:
    """Turn a uniform number into a donor; every donor is equally likely, or every class."""
    if not balance_classes:
        return donors.drawn[int(u * len(donors))]
    scaled = u * len(donors.labels)
    return _draw_of(donors, donors.labels[int(scaled)], scaled - int(scaled))


def _draw_of(donors: Donors, label: int, u: float) -> Donor:
    of_class = [donor for donor in donors.drawn if donor.label == label]
    return of_class[int(u * len(of_class))]
