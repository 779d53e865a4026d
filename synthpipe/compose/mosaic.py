"""The Mosaic transformation (method section 2): four transformed grid images around a split point."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose.donors import Donors
from synthpipe.compose.geometry import map_numbers, window_range
from synthpipe.compose.kernels import inverse_maps, unpack, warp_quadrants
from synthpipe.config.fields import even_ceil
from synthpipe.config.pipeline import MosaicSection, Pipeline
from synthpipe.core.records import Crop, Flip, Image, Mask, MosaicRecipe, PackedPixels, Quadrant, ShiftScaleRotate

_FLIPS: tuple[Flip, ...] = ("horizontal", "vertical", "both")
_buffers = threading.local()
_TILE_DRAWS = 3  # donor, y, x
_TRANSFORM_DRAWS = 9  # flip?, which; warp?, angle, scale, shift y, shift x; window y, x


def sample_mosaic(rng: np.random.Generator, index: int, donors: Donors, pipeline: Pipeline) -> MosaicRecipe:
    """Draw the recipe of a Mosaic.

    All numbers come from one block of uniform numbers. Tiles with too much glass are drawn again from the numbers after
    the block.

    Parameters
    ----------
    rng : Generator
        The composite's own generator.
    index : int
        The composite's index, which the recipe carries.
    donors : Donors
        The patches that tiles are cropped from.
    pipeline : Pipeline
        Must have a `mosaic` section.
    """
    mosaic = _section(pipeline)
    tiles = mosaic.grid[0] * mosaic.grid[1]
    block = rng.random(2 + 4 * (tiles * _TILE_DRAWS + _TRANSFORM_DRAWS)).tolist()
    low, high = mosaic.split
    height, width = pipeline.canvas
    split = even_ceil(_between(block[0], low, high) * height), even_ceil(_between(block[1], low, high) * width)
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


def render_mosaic(recipe: MosaicRecipe, donors: Donors, image: Image, mask: Mask) -> None:
    """Render a Mosaic into `image` and `mask`; the same recipe and donors give the same bytes.

    Only the window of a grid image that its quadrant shows is assembled. One affine map warps it.

    Raises
    ------
    ValueError
        A crop is not inside its donor, so the kernel would read other memory.
    """
    tiles, maps, windows = quadrant_records([recipe], donors)
    canvas = _packed_canvas(recipe.canvas)
    warp_quadrants(canvas, donors.bank, tiles, recipe.tile, recipe.grid, maps, windows)
    unpack(canvas.reshape(-1), image.reshape(-1), mask.reshape(-1))


def quadrant_records(
    recipes: Sequence[MosaicRecipe], donors: Donors
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Turn recipes into the numbers from which kernels render; see `kernels.warp_quadrants`.

    Parameters
    ----------
    recipes : sequence of MosaicRecipe
        At least one; all have the same canvas, tile and grid.
    donors : Donors
        Donors that include the recipes' donors.

    Returns
    -------
    tiles : (4 * N, T, 5) int64
        The donors and crops of each quadrant's tiles.
    maps : (4 * N, 2, 3) float64
        The affine map of each quadrant.
    windows : (4 * N, 4) int64
        Top, left, height and width of each quadrant.

    Raises
    ------
    ValueError
        A crop is not inside its donor, so a kernel would read other memory.
    """
    tile, grid = recipes[0].tile, recipes[0].grid
    quadrants = [quadrant for recipe in recipes for quadrant in recipe.quadrants]
    numbers = [
        number
        for quadrant in quadrants
        for crop in quadrant.tiles
        for number in (*donors.location(crop.patch), crop.y, crop.x)
    ]
    tiles = np.array(numbers).reshape(len(quadrants), -1, 5)
    beyond = (tiles[..., 3:] > np.maximum(tiles[..., 1:3] - tile, 0)).any(axis=(1, 2))
    if beyond.any():
        index = recipes[int(beyond.argmax()) // 4].index
        raise ValueError(f"the recipe of mosaic {index} has a crop that is not inside its donor")
    transforms = np.array([map_numbers(each.flip, each.warp, each.y, each.x) for each in quadrants])
    windows = np.array([window for recipe in recipes for window in quadrant_windows(recipe.split, recipe.canvas)])
    return tiles, inverse_maps(transforms, (tile[0] * grid[0], tile[1] * grid[1])), windows


def quadrant_windows(split: tuple[int, int], canvas: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Return top, left, height and width of the quadrants around a split point, row by row."""
    (y, x), (height, width) = split, canvas
    return [
        (top, left, tall, wide) for top, tall in ((0, y), (y, height - y)) for left, wide in ((0, x), (x, width - x))
    ]


def sample_transform(draws: list[float], mosaic: MosaicSection) -> tuple[Flip, ShiftScaleRotate | None]:
    """Turn seven uniform numbers into the flip and the shift-scale-rotate of a grid image."""
    flip: Flip = _FLIPS[int(draws[1] * len(_FLIPS))] if draws[0] < mosaic.probability else "none"
    if draws[2] >= mosaic.probability:
        return flip, None
    return flip, ShiftScaleRotate(
        angle=_between(draws[3], -mosaic.rotation, mosaic.rotation),
        scale=_between(draws[4], 1 - mosaic.scale, 1 + mosaic.scale),
        shift_y=_between(draws[5], -mosaic.shift, mosaic.shift),
        shift_x=_between(draws[6], -mosaic.shift, mosaic.shift),
    )


def _section(pipeline: Pipeline) -> MosaicSection:
    if pipeline.mosaic is None:
        raise ValueError("the pipeline has no mosaic section; add one to sample Mosaic composites")
    return pipeline.mosaic


def _sample_tile(draw: list[float], rng: np.random.Generator, donors: Donors, pipeline: Pipeline) -> Crop:
    size = _section(pipeline).tile
    for _ in range(pipeline.glass.max_draws if pipeline.glass else 1):
        donor = donors.draw(draw[0], pipeline.donors.balance_classes)
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


def _between(u: float, low: float, high: float) -> float:
    return low + u * (high - low)


def _packed_canvas(size: tuple[int, int]) -> PackedPixels:
    """Return this thread's canvas, which all its composites reuse, because new memory takes time."""
    canvas: PackedPixels | None = getattr(_buffers, "canvas", None)
    if canvas is None or canvas.shape != size:
        canvas = _buffers.canvas = np.empty(size, np.uint32)
    return canvas
