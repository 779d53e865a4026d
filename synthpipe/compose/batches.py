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

from synthpipe.compose.bezier import BezierBlock
from synthpipe.compose.curve import bernstein
from synthpipe.compose.donors import Donors
from synthpipe.compose.kernels import ONE, bounds, crossings, outline, positions
from synthpipe.compose.mosaic import MosaicBlock, quadrant_records
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
        For Mosaics:

        - ``steps``, (N, 2, 2, W) int32: the columns' parts of the positions (`kernels.positions`): recipe; upper or
          lower quadrants; x or y; column.
        - ``rows``, (N, 2, 2, H) int32: the rows' parts of the positions: recipe; left or right quadrants; x or y; row.
        - ``splits``, (N, 2) int32: y and x of the split point.
        - ``tiles``, (N, 4 * T, 5) int64: for each tile of each quadrant, the numbers that `kernels.warp_quadrants`
          explains.

        For Beziers:

        - ``inside``, (N, H, ceil(W / 32)) uint32: one bit per pixel, the lowest bit first: whether the pixel's centre
          is inside the curve.
        - ``starts``, (N, 2) int64: the first pixels of background and foreground in the bank, with the resized donors
          (`resized`) after it.
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
        tiles, maps, windows = quadrant_records(mosaics, donors)
        indices = [recipe.index for recipe in mosaics]
        return _mosaics(indices, tiles, maps, windows, (first.canvas, first.tile, first.grid))
    used = np.array([[donors.number(patch) for patch in recipe.donors()] for recipe in beziers])
    canvas = beziers[0].canvas
    inside = np.zeros((len(beziers), canvas[0], -(-canvas[1] // 32)), np.uint32)
    for bits, each in zip(inside, beziers, strict=True):
        _fill_bits(bits, np.array(each.points), each.edgy, each.radius, bernstein(each.samples), canvas[1])
    return Batch("bezier", canvas, (inside, donors.on_canvas(canvas)[0][used]), ())


def pack_block(block: MosaicBlock | BezierBlock) -> Batch:
    """Turn sampled composites into a batch; the bank of `block.bank` is in the memory of the GPU.

    Raises
    ------
    KeyError
        The bank has no pixels of a donor; the argument is the donor's id.
    ValueError
        A grid image is too large.
    """
    used = block.bank.numbers(block.drawn)
    if isinstance(block, MosaicBlock):
        return _mosaics(block.indices.tolist(), block.tiles, block.affine_maps(), block.windows, block.layout)
    canvas, curve = block.canvas, block.settings
    inside = np.zeros((len(block), canvas[0], -(-canvas[1] // 32)), np.uint32)
    _fill_all_bits(inside, block.points, float(curve.edgy), float(curve.radius), bernstein(curve.samples), canvas[1])
    return Batch("bezier", canvas, (inside, block.bank.on_canvas(canvas)[0][used]), ())


def resized(donors: Donors, canvas: tuple[int, int]) -> PackedPixels:
    """Return (N,) uint32: the donors of other sizes, resized to the canvas, as packed pixels in the bank's order."""
    return donors.on_canvas(canvas)[1]


def resized_bytes(donors: Donors, canvas: tuple[int, int]) -> int:
    """Return the size of `resized` in bytes."""
    return sum(4 * canvas[0] * canvas[1] for donor in donors.listed if donor.image.shape[:2] != canvas)


def _mosaics(
    indices: Sequence[int],
    tiles: NDArray[np.int64],
    maps: NDArray[np.float64],
    windows: NDArray[np.int64],
    layout: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
) -> Batch:
    """Return the batch of Mosaics from the numbers that `mosaic.quadrant_records` explains."""
    canvas, tile, grid = layout
    steps, rows = (np.empty((len(indices), 2, 2, length), np.int32) for length in canvas[::-1])
    too_far = _fill_positions(maps, windows, steps, rows)
    if too_far >= 0:
        raise ValueError(
            f"mosaic {indices[too_far]} shows a position beyond {_FARTHEST:,} pixels of its grid image, which a "
            "GPU cannot render; render it on the CPU"
        )
    splits = windows[::4, 2:].astype(np.int32)
    return Batch("mosaic", canvas, (steps, rows, splits, tiles.reshape(len(indices), -1, 5)), (tile, grid))


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
def _fill_all_bits(inside, points, edgy, radius, bernstein, width):  # type: ignore[no-untyped-def]
    """Fill the bits of many curves of one kind; see `_fill_bits`."""
    for number in range(len(inside)):
        _fill_bits(inside[number], points[number], edgy, radius, bernstein, width)


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
