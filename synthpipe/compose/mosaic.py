"""The Mosaic transformation (method section 2): four transformed grid images around a split point."""

from __future__ import annotations

import numpy as np

from synthpipe.compose.donors import Donors
from synthpipe.compose.geometry import Pixels, source_map, warp_into, window, window_range
from synthpipe.config import GlassSection, MosaicSection, Pipeline, even_ceil
from synthpipe.records import Composite, Crop, Donor, Flip, MosaicRecipe, Quadrant, ShiftScaleRotate

_FLIPS: tuple[Flip, ...] = ("horizontal", "vertical", "both")
_TILE_DRAWS = 3  # donor, y, x
_TRANSFORM_DRAWS = 9  # flip?, which; warp?, angle, scale, shift y, shift x; window y, x


def sample_mosaic(rng: np.random.Generator, index: int, donors: Donors, pipeline: Pipeline) -> MosaicRecipe:
    """Draw a Mosaic's numbers.

    All come from one block of uniform numbers; only tiles that are drawn again for their glass take more, after it.

    Parameters
    ----------
    rng : Generator
        The composite's own generator.
    index : int
        The composite's index, which the recipe carries.
    donors : Donors
        What tiles are cropped from.
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
    for number, size in enumerate(_quadrant_sizes(split, pipeline.canvas)):
        start = 2 + number * (tiles * _TILE_DRAWS + _TRANSFORM_DRAWS)
        transform = start + tiles * _TILE_DRAWS
        draws = [block[at : at + _TILE_DRAWS] for at in range(start, transform, _TILE_DRAWS)]
        crops = tuple(_sample_tile(draw, rng, donors, pipeline) for draw in draws)
        quadrants.append(_sample_quadrant(block[transform : transform + _TRANSFORM_DRAWS], crops, size, mosaic))
    first, second, third, fourth = quadrants
    return MosaicRecipe(index, pipeline.canvas, mosaic.tile, mosaic.grid, split, (first, second, third, fourth))


def render_mosaic(recipe: MosaicRecipe, donors: Donors) -> Composite:
    """Render a Mosaic: pure, the same bytes for the same recipe and donors.

    Of each grid image only the window that its quadrant shows is warped, through one affine map.
    """
    height, width = recipe.canvas
    image = np.empty((height, width, 3), np.uint8)
    mask = np.empty((height, width), np.uint8)
    for quadrant, rows, columns in zip(recipe.quadrants, *_quadrant_slices(recipe), strict=True):
        grid_image, grid_mask = _grid_image(quadrant, recipe, donors)
        affine = source_map(grid_mask.shape, quadrant.flip, quadrant.warp, quadrant.y, quadrant.x)
        warp_into(image[rows, columns], grid_image, affine)
        warp_into(mask[rows, columns], grid_mask, affine, nearest=True)
    return Composite(recipe, image, mask)


def sample_transform(draws: list[float], mosaic: MosaicSection) -> tuple[Flip, ShiftScaleRotate | None]:
    """Turn seven uniform numbers into the random flip and shift-scale-rotate of a grid image."""
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
        if not _too_much_glass(donor, crop, size, pipeline.glass):
            break
        draw = rng.random(_TILE_DRAWS).tolist()
    return crop


def _too_much_glass(donor: Donor, crop: Crop, size: tuple[int, int], glass: GlassSection | None) -> bool:
    if glass is None or donor.mask is None:
        return False
    share = float((window(donor.mask, crop.y, crop.x, size) != donor.label).mean())
    return share > glass.max_share


def _sample_quadrant(
    draws: list[float], crops: tuple[Crop, ...], size: tuple[int, int], mosaic: MosaicSection
) -> Quadrant:
    flip, warp = sample_transform(draws, mosaic)
    grid_size = mosaic.tile[0] * mosaic.grid[0], mosaic.tile[1] * mosaic.grid[1]
    ys, xs = window_range(grid_size, size)
    return Quadrant(crops, flip, warp, int(draws[7] * ys), int(draws[8] * xs))


def _quadrant_sizes(split: tuple[int, int], canvas: tuple[int, int]) -> list[tuple[int, int]]:
    heights, widths = (split[0], canvas[0] - split[0]), (split[1], canvas[1] - split[1])
    return [(height, width) for height in heights for width in widths]


def _quadrant_slices(recipe: MosaicRecipe) -> tuple[list[slice], list[slice]]:
    y, x = recipe.split
    top, bottom, left, right = slice(0, y), slice(y, None), slice(0, x), slice(x, None)
    return [top, top, bottom, bottom], [left, right, left, right]


def _grid_image(quadrant: Quadrant, recipe: MosaicRecipe, donors: Donors) -> tuple[Pixels, Pixels]:
    height, width = recipe.tile
    image = np.empty((height * recipe.grid[0], width * recipe.grid[1], 3), np.uint8)
    mask = np.empty(image.shape[:2], np.uint8)
    for number, crop in enumerate(quadrant.tiles):
        row, column = divmod(number, recipe.grid[1])
        place = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
        donor = donors[crop.patch]
        image[place] = window(donor.image, crop.y, crop.x, recipe.tile)
        mask[place] = donor.label if donor.mask is None else window(donor.mask, crop.y, crop.x, recipe.tile)
    return image, mask


def _between(u: float, low: float, high: float) -> float:
    return low + u * (high - low)
