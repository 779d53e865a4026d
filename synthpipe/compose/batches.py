"""Batches of recipes as flat arrays of integers, from which a GPU renders.

All float arithmetic of rendering happens here, on the CPU and with the kernels that render on the CPU. So a GPU only
computes with integers, and its bytes cannot depend on how it rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from synthpipe.compose.curve import bernstein
from synthpipe.compose.donors import Donors
from synthpipe.compose.kernels import ONE, bounds, crossings, outline, positions
from synthpipe.compose.mosaic import quadrant_records
from synthpipe.core.errors import CatalogError
from synthpipe.core.records import BezierRecipe, MosaicRecipe, PackedPixels, Recipe, Strategy

_FARTHEST = (1 << 31) // ONE - 2  # pixels: positions and half a pixel must fit in 32 bits


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Recipes of one strategy and one size as arrays; the first axis of each array has one entry per recipe.

    Attributes
    ----------
    strategy : {"mosaic", "bezier"}
        The strategy of all recipes.
    canvas : tuple of int
        Height and width of all composites.
    arrays : tuple of array
        Mosaic: `mosaic_arrays`. Bezier: `bezier_arrays`.
    layout : tuple
        Mosaic: height and width of a tile; rows and columns of a grid image. Bezier: empty.
    """

    strategy: Strategy
    canvas: tuple[int, int]
    arrays: tuple[Any, ...]
    layout: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.arrays[0])


def pack_recipes(recipes: Sequence[Recipe], donors: Donors) -> Batch:
    """Turn recipes into a batch.

    Parameters
    ----------
    recipes : sequence of Recipe
        At least one; all have the same strategy, canvas, tile and grid.
    donors : Donors
        The donors in the memory of the GPU.

    Raises
    ------
    CatalogError
        A recipe names a donor that `donors` lacks.
    ValueError
        The recipes differ in strategy or size, a crop is not inside its donor, or a grid image is too large.
    """
    mosaics = [recipe for recipe in recipes if isinstance(recipe, MosaicRecipe)]
    beziers = [recipe for recipe in recipes if isinstance(recipe, BezierRecipe)]
    shapes = {(recipe.canvas, recipe.tile, recipe.grid) for recipe in mosaics} | {recipe.canvas for recipe in beziers}
    if len(shapes) != 1:
        found = "no recipes" if not shapes else f"recipes of {len(shapes)} strategies or sizes"
        raise ValueError(f"a batch needs recipes of one strategy, canvas, tile and grid, but got {found}")
    _check_donors(recipes, donors)
    if mosaics:
        first = mosaics[0]
        return Batch("mosaic", first.canvas, mosaic_arrays(mosaics, donors), (first.tile, first.grid))
    return Batch("bezier", beziers[0].canvas, bezier_arrays(beziers, donors), ())


def mosaic_arrays(recipes: Sequence[MosaicRecipe], donors: Donors) -> tuple[NDArray[Any], ...]:
    """Return the arrays of Mosaics.

    Returns
    -------
    steps : (N, 2, 2, W) int32
        The columns' parts of the positions (`kernels.positions`): recipe; upper or lower quadrants; x or y; column.
    rows : (N, 2, 2, H) int32
        The rows' parts of the positions: recipe; left or right quadrants; x or y; row.
    splits : (N, 2) int32
        y and x of the split point.
    tiles : (N, 4 * T, 5) int64
        For each tile of each quadrant: the numbers that `kernels.warp_quadrants` explains.
    """
    tiles, maps, windows = quadrant_records(recipes, donors)
    height, width = recipes[0].canvas
    steps, rows = (np.empty((len(recipes), 2, 2, length), np.int32) for length in (width, height))
    too_far = _fill_positions(maps, windows, steps, rows)
    if too_far >= 0:
        raise ValueError(
            f"mosaic {recipes[too_far].index} shows a position beyond {_FARTHEST:,} pixels of its grid image, which a "
            "GPU cannot render; render it on the CPU"
        )
    splits = np.array([recipe.split for recipe in recipes], np.int32)
    return steps, rows, splits, tiles.reshape(len(recipes), -1, 5)


def bezier_arrays(recipes: Sequence[BezierRecipe], donors: Donors) -> tuple[NDArray[Any], ...]:
    """Return the arrays of Beziers.

    Returns
    -------
    inside : (N, H, ceil(W / 32)) uint32
        One bit per pixel, the lowest bit first: whether the pixel's centre is inside the curve.
    starts : (N, 2) int64
        The first pixels of background and foreground in the bank, with the resized donors (`resized`) after it.
    """
    height, width = recipes[0].canvas
    inside = np.zeros((len(recipes), height, -(-width // 32)), np.uint32)
    for bits, recipe in zip(inside, recipes, strict=True):
        _fill_bits(bits, np.array(recipe.points), recipe.edgy, recipe.radius, bernstein(recipe.samples), width)
    used = [[donors.number(patch) for patch in recipe.donors()] for recipe in recipes]
    return inside, _starts(donors, recipes[0].canvas)[np.array(used)]


def resized(donors: Donors, canvas: tuple[int, int]) -> PackedPixels:
    """Return (N,) uint32: the donors of other sizes, resized to the canvas, as packed pixels in the bank's order."""
    others = [donor.id for donor in donors.listed if donor.image.shape[:2] != canvas]
    return np.concatenate([np.empty(0, np.uint32), *(donors.fitted(patch, canvas).ravel() for patch in others)])


def resized_bytes(donors: Donors, canvas: tuple[int, int]) -> int:
    """Return the size of `resized` in bytes."""
    return sum(4 * canvas[0] * canvas[1] for donor in donors.listed if donor.image.shape[:2] != canvas)


def _starts(donors: Donors, canvas: tuple[int, int]) -> NDArray[np.int64]:
    """Return (D,) int64: the first canvas-sized pixel of each listed donor in the bank followed by `resized`."""
    locations = np.array([donors.location(donor.id) for donor in donors.listed])
    others = (locations[:, 1:] != canvas).any(axis=1)
    return np.where(others, donors.bank.size + (np.cumsum(others) - 1) * (canvas[0] * canvas[1]), locations[:, 0])


def _check_donors(recipes: Sequence[Recipe], donors: Donors) -> None:
    used = set(chain.from_iterable(recipe.donors() for recipe in recipes))
    absent = used.difference(donor.id for donor in donors.listed)
    for recipe in recipes if absent else ():
        for patch in recipe.donors():
            if patch in absent:
                raise CatalogError(
                    f"{recipe.strategy} {recipe.index} uses the donor {patch!r}, which is not among the "
                    f"{len(donors.listed)} donors of the renderer; make a renderer with the donors that the recipe was "
                    "sampled from"
                )


@njit(nogil=True)  # no cache: it would keep old versions of the kernels
def _fill_positions(maps, windows, steps, rows):  # type: ignore[no-untyped-def]
    """Fill `steps` and `rows`; return the index of the first recipe whose positions are too far away, or -1."""
    for number in range(len(maps)):
        recipe, down, right = number // 4, number // 2 % 2, number % 2
        top, left, height, width = windows[number]
        if height == 0 or width == 0:
            continue
        step_x, step_y, row_x, row_y = positions(maps[number], height, width)
        low_x, high_x = bounds(row_x, step_x)
        low_y, high_y = bounds(row_y, step_y)
        if min(low_x, low_y) < -_FARTHEST or max(high_x, high_y) > _FARTHEST:
            return recipe
        steps[recipe, down, 0, left : left + width] = step_x
        steps[recipe, down, 1, left : left + width] = step_y
        for y in range(height):
            rows[recipe, right, 0, top + y] = row_x[y]
            rows[recipe, right, 1, top + y] = row_y[y]
    return -1


@njit(nogil=True)
def _fill_bits(bits, corners, edgy, radius, bernstein, width):  # type: ignore[no-untyped-def]
    """Set the bits, (H, ceil(W / 32)) uint32, of the pixels inside a curve; see `kernels.paste_curve`."""
    height = len(bits)
    xs, ys = outline(corners, edgy, radius, bernstein, height, width)
    first, columns = crossings(xs, ys, height, width)
    for y in range(height):
        for number in range(first[y], first[y + 1], 2):
            x, stop = columns[number], columns[number + 1]
            while x < stop:
                end = min(stop, (x | 31) + 1)  # of the run, or of the word
                ones = (np.uint64(1) << np.uint64(end - x)) - np.uint64(1)
                bits[y, x >> 5] |= np.uint32(ones << np.uint64(x & 31))
                x = end
