"""Find the donor that each pixel of a composite came from.

The renderer itself answers: it renders the recipe again with donors whose masks hold region numbers instead of classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose.bezier import render_bezier
from synthpipe.compose.donors import Donors
from synthpipe.compose.mosaic import render_mosaic
from synthpipe.core.records import BezierRecipe, Crop, Donor, MosaicRecipe, Recipe

_QUADRANTS = ("upper left", "upper right", "lower left", "lower right")


@dataclass(frozen=True, slots=True)
class Region:
    """A region of a composite that one donor patch fills; other regions may cover it.

    Attributes
    ----------
    number : int
        Number of the region, from 1, in the order of `Recipe.donors`.
    position : str
        Position in the composite, as text for people.
    patch : str
        The donor's id.
    window : str
        The window of the donor that fills the region, as text for people.
    """

    number: int
    position: str
    patch: str
    window: str


def regions(recipe: Recipe) -> tuple[Region, ...]:
    """Return the regions of a recipe, in the order of `Recipe.donors`."""
    return tuple(Region(number, *texts) for number, texts in enumerate(_texts(recipe), 1))


def region_map(recipe: Recipe) -> NDArray[np.uint16]:
    """Return (H, W) uint16: the number of each pixel's region.

    At a tile's edge, where colours of several tiles are interpolated, the nearest tile counts, as in the mask.
    """
    count = len(tuple(recipe.donors()))
    numbers = np.zeros(recipe.canvas, np.uint16)
    for shift in range(0, count.bit_length(), 8):  # a mask pixel holds one byte
        numbers |= _byte_of(recipe, count, shift).astype(np.uint16) << shift
    return numbers


def _byte_of(recipe: Recipe, count: int, shift: int) -> NDArray[np.uint8]:
    """Return (H, W) uint8: eight bits of each pixel's region number, from bit `shift` on."""
    image, mask = np.empty((*recipe.canvas, 3), np.uint8), np.empty(recipe.canvas, np.uint8)
    size = recipe.tile if isinstance(recipe, MosaicRecipe) else recipe.canvas
    plain = np.zeros((*size, 3), np.uint8)
    donors = Donors(Donor(str(number), "", (number >> shift) & 255, plain, None) for number in range(1, count + 1))
    if isinstance(recipe, BezierRecipe):
        render_bezier(replace(recipe, background="1", foreground="2"), donors, image, mask)
    else:
        render_mosaic(_numbered(recipe), donors, image, mask)
    return mask


def _numbered(recipe: MosaicRecipe) -> MosaicRecipe:
    """Return the recipe with a separate donor for each tile; the donor's id is the number of the region."""
    number, quadrants = 0, []
    for quadrant in recipe.quadrants:
        tiles = tuple(Crop(str(number + offset), 0, 0) for offset in range(1, len(quadrant.tiles) + 1))
        quadrants.append(replace(quadrant, tiles=tiles))
        number += len(tiles)
    first, second, third, fourth = quadrants
    return replace(recipe, quadrants=(first, second, third, fourth))


def _texts(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Yield position, donor id and window of each region."""
    if isinstance(recipe, BezierRecipe):
        yield "background", recipe.background, "the whole patch"
        yield "foreground, inside the curve", recipe.foreground, "the whole patch"
        return
    columns, (height, width) = recipe.grid[1], recipe.tile
    for name, quadrant in zip(_QUADRANTS, recipe.quadrants, strict=True):
        for index, tile in enumerate(quadrant.tiles):
            row, column = divmod(index, columns)
            position = f"{name}, tile {row + 1}/{column + 1}"
            yield position, tile.patch, f"{height} x {width} from y {tile.y}, x {tile.x}"
