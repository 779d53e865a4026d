"""Reference rendering in plain OpenCV and NumPy; the compiled kernels must give the same bytes.

It is slower and easier to follow: it assembles whole grid images, and draws each curve as a mask.
"""

from __future__ import annotations

import cv2
import numpy as np

from synthpipe.compose.curve import Points, bernstein
from synthpipe.compose.donors import Donors
from synthpipe.compose.geometry import Pixels, source_map, warp_into, window
from synthpipe.compose.mosaic import quadrant_windows
from synthpipe.core.records import BezierRecipe, Composite, Image, Mask, MosaicRecipe, Quadrant, Recipe
from synthpipe.core.resizing import fit


def render_plainly(recipe: Recipe, donors: Donors) -> Composite:
    """Render a recipe to the same bytes as `compose.render`."""
    if isinstance(recipe, MosaicRecipe):
        return _render_mosaic(recipe, donors)
    return _render_bezier(recipe, donors)


def _render_mosaic(recipe: MosaicRecipe, donors: Donors) -> Composite:
    image = np.empty((*recipe.canvas, 3), np.uint8)
    mask = np.empty(recipe.canvas, np.uint8)
    windows = quadrant_windows(recipe.split, recipe.canvas)
    for quadrant, (top, left, height, width) in zip(recipe.quadrants, windows, strict=True):
        here = np.s_[top : top + height, left : left + width]
        grid_image, grid_mask = _grid_image(quadrant, recipe, donors)
        affine = source_map(grid_mask.shape, quadrant.flip, quadrant.warp, quadrant.y, quadrant.x)
        warp_into(image[here], grid_image, affine)
        warp_into(mask[here], grid_mask, affine, nearest=True)
    return Composite(recipe, image, mask)


def _grid_image(quadrant: Quadrant, recipe: MosaicRecipe, donors: Donors) -> tuple[Pixels, Pixels]:
    height, width = recipe.tile
    image = np.empty((height * recipe.grid[0], width * recipe.grid[1], 3), np.uint8)
    mask = np.empty(image.shape[:2], np.uint8)
    for number, crop in enumerate(quadrant.tiles):
        row, column = divmod(number, recipe.grid[1])
        tile = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
        donor = donors[crop.patch]
        image[tile] = window(donor.image, crop.y, crop.x, recipe.tile)
        mask[tile] = donor.label if donor.mask is None else window(donor.mask, crop.y, crop.x, recipe.tile)
    return image, mask


def _render_bezier(recipe: BezierRecipe, donors: Donors) -> Composite:
    curve = outline(np.array(recipe.points), recipe.edgy, recipe.radius, recipe.samples)
    inside = fill(curve, recipe.canvas)
    image, mask = (np.array(pixels) for pixels in _on_canvas(donors, recipe.background, recipe.canvas))
    front_image, front_mask = _on_canvas(donors, recipe.foreground, recipe.canvas)
    cv2.copyTo(front_image, inside, image)
    cv2.copyTo(front_mask, inside, mask)
    return Composite(recipe, image, mask)


def _on_canvas(donors: Donors, patch: str, size: tuple[int, int]) -> tuple[Image, Mask]:
    donor = donors[patch]
    mask = np.full(donor.image.shape[:2], donor.label, np.uint8) if donor.mask is None else donor.mask
    return fit(np.ascontiguousarray(donor.image), size), fit(np.ascontiguousarray(mask), size, nearest=True)


def control_polygons(points: Points, edgy: float, radius: float) -> Points:
    """Return the cubic segments of the closed curve through `points`.

    The angle of the tangent at a point is the weighted mean of the angles of the incoming and the outgoing chord; the
    outgoing one has the weight ``p = arctan(edgy) / pi + 1/2``. The inner control points are on the tangents, `radius`
    chord lengths from the ends.

    Returns
    -------
    (N, 4, 2) float64
        Start, two inner control points and end of each segment.
    """
    ends = np.roll(points, -1, axis=0)
    chords = ends - points
    outgoing = np.arctan2(chords[:, 1], chords[:, 0])
    incoming = np.roll(outgoing, 1)
    turn = np.mod(outgoing - incoming + np.pi, 2 * np.pi) - np.pi
    tangent = incoming + (np.arctan(edgy) / np.pi + 0.5) * turn
    directions = np.stack([np.cos(tangent), np.sin(tangent)], axis=1)
    lengths = radius * np.hypot(chords[:, 0], chords[:, 1])[:, None]
    return np.stack([points, points + lengths * directions, ends - lengths * np.roll(directions, -1, axis=0), ends], 1)


def outline(points: Points, edgy: float, radius: float, samples: int) -> Points:
    """Return the closed curve through `points` as (N * samples, 2) float64, with `samples` points per segment."""
    polygons = control_polygons(points, edgy, radius)
    # a sum of four products rounds in the same way on every machine, unlike a matrix product
    terms = (polygons[:, number, None, :] * row[None, :, None] for number, row in enumerate(bernstein(samples)))
    first, second, third, fourth = terms
    curve: Points = (((first + second) + third) + fourth).reshape(-1, 2)
    return curve


def fill(curve: Points, size: tuple[int, int]) -> Mask:
    """Return (H, W) uint8, with 1 at each pixel whose centre is inside the closed `curve`.

    The unit square is scaled to `size` = (height, width). A centre is inside if the row through it crosses an odd
    number of edges to its left.
    """
    height, width = size
    ends = curve * (width, height)
    starts = np.roll(ends, 1, axis=0)
    # the rows whose centres are between the two ends of an edge
    first, last = (
        np.clip(np.ceil(pick(starts[:, 1], ends[:, 1]) - 0.5), 0, height).astype(int)
        for pick in (np.minimum, np.maximum)
    )
    edges = np.repeat(np.arange(len(ends)), last - first)
    rows = np.concatenate([np.arange(low, high) for low, high in zip(first, last, strict=True)])
    (x, y), (to_x, to_y) = starts[edges].T, ends[edges].T
    crossings = x + (rows + 0.5 - y) * (to_x - x) / (to_y - y)
    columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)
    toggles = np.zeros((height, width + 1), np.uint8)
    np.bitwise_xor.at(toggles, (rows, columns), 1)
    return np.ascontiguousarray(np.bitwise_xor.accumulate(toggles, axis=1)[:, :width])
