"""Which donor each pixel of a composite came from: told by the renderer itself.

The recipe is rendered once more with donors whose masks are numbers instead of classes, one number a place in it.
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
    """One place of a recipe that a donor patch fills, seen or not.

    Attributes
    ----------
    number : int
        Its number, from 1, in the order of `Recipe.donors`.
    place : str
        Where it is, for people.
    patch : str
        The donor's id.
    window : str
        What of the donor is taken, for people.
    """

    number: int
    place: str
    patch: str
    window: str


def regions(recipe: Recipe) -> tuple[Region, ...]:
    """Return the places that donors fill, in the order of `Recipe.donors`."""
    return tuple(Region(number, *told) for number, told in enumerate(_told(recipe), 1))


def region_map(recipe: Recipe) -> NDArray[np.uint16]:
    """Return (H, W) uint16: the number of the region that each pixel came from.

    Where colours of several tiles were interpolated, as at a tile's edge, it is the nearest's, as in the mask.
    """
    count = len(tuple(recipe.donors()))
    numbers = np.zeros(recipe.canvas, np.uint16)
    for shift in range(0, count.bit_length(), 8):  # a mask's pixel holds a byte
        numbers |= _byte_of(recipe, count, shift).astype(np.uint16) << shift
    return numbers


def _byte_of(recipe: Recipe, count: int, shift: int) -> NDArray[np.uint8]:
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
    """Return the recipe with a whole donor of its own, called by its number, for each tile."""
    number, quadrants = 0, []
    for quadrant in recipe.quadrants:
        tiles = tuple(Crop(str(number + place), 0, 0) for place in range(1, len(quadrant.tiles) + 1))
        quadrants.append(replace(quadrant, tiles=tiles))
        number += len(tiles)
    first, second, third, fourth = quadrants
    return replace(recipe, quadrants=(first, second, third, fourth))


def _told(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    if isinstance(recipe, BezierRecipe):
        yield "background", recipe.background, "the whole patch"
        yield "foreground, inside the curve", recipe.foreground, "the whole patch"
        return
    columns, (height, width) = recipe.grid[1], recipe.tile
    for name, quadrant in zip(_QUADRANTS, recipe.quadrants, strict=True):
        for place, tile in enumerate(quadrant.tiles):
            row, column = divmod(place, columns)
            where = f"{name}, tile {row + 1}/{column + 1}"
            yield where, tile.patch, f"{height} x {width} from y {tile.y}, x {tile.x}"
