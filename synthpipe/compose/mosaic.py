"""The Mosaic transformation (method section 2): four transformed grid images around a split point."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose.donors import Donors
from synthpipe.compose.geometry import map_numbers
from synthpipe.compose.kernels import inverse_maps, render_mosaics, unpack, warp_quadrants
from synthpipe.compose.sampling import draw_mosaics, glass_limits
from synthpipe.config.pipeline import MosaicSection, Pipeline
from synthpipe.core.records import (
    Crop,
    Flip,
    Image,
    Mask,
    MosaicRecipe,
    PackedPixels,
    Quadrant,
    ShiftScaleRotate,
    Strategy,
)

_KINDS: tuple[Flip, ...] = ("horizontal", "vertical", "both")
_FLIPS: dict[tuple[float, float], Flip] = {
    (0.0, 0.0): "none",
    (0.0, 1.0): "horizontal",
    (1.0, 0.0): "vertical",
    (1.0, 1.0): "both",
}
_buffers = threading.local()


@dataclass(frozen=True, slots=True, eq=False)
class MosaicBlock:
    """Sampled Mosaics, as the arrays from which kernels render.

    Attributes
    ----------
    indices : (N,) int64
        The composites' indices.
    layout : tuple
        Canvas, tile and grid of all composites.
    bank : Donors
        The donors.
    drawn : (N, 4 * T) int64
        The drawn donors, as indices in `Donors.drawn`.
    tiles, maps, windows : array
        The numbers that `quadrant_records` explains; `maps` has the rows of `kernels.inverse_maps`, (4 * N, 8).
    warped : (4 * N,) bool
        Whether a quadrant is shifted, scaled and rotated.
    """

    strategy: ClassVar[Strategy] = "mosaic"
    indices: NDArray[np.int64]
    layout: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    bank: Donors
    drawn: NDArray[np.int64]
    tiles: NDArray[np.int64]
    maps: NDArray[np.float64]
    windows: NDArray[np.int64]
    warped: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of all composites."""
        return self.layout[0]

    def recipe(self, number: int) -> MosaicRecipe:
        """Return the recipe of one composite of the block."""
        canvas, tile, grid = self.layout
        donors, quadrants = iter(self.drawn[number].tolist()), []
        part = slice(4 * number, 4 * number + 4)
        rows = zip(self.tiles[part].tolist(), self.maps[part].tolist(), self.warped[part].tolist(), strict=True)
        for tiles, (flip_y, flip_x, *warp, y, x), warped in rows:
            crops = tuple(Crop(self.bank.drawn[next(donors)].id, *crop) for _, _, _, *crop in tiles)
            change = ShiftScaleRotate(*warp) if warped else None
            quadrants.append(Quadrant(crops, _FLIPS[flip_y, flip_x], change, int(y), int(x)))
        first, second, third, fourth = quadrants
        _, _, tall, wide = self.windows[4 * number].tolist()
        index = int(self.indices[number])
        return MosaicRecipe(index, canvas, tile, grid, (tall, wide), (first, second, third, fourth))

    def render(self, images: Image, masks: Mask, rows: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
        """Render the composites `chosen` into `rows` of (M, H * W * 3) `images` and (M, H * W) `masks`."""
        _, tile, grid = self.layout
        maps = self.affine_maps()
        render_mosaics(images, masks, rows, self.bank.bank, chosen, self.tiles, tile, grid, maps, self.windows)

    def affine_maps(self) -> NDArray[np.float64]:
        """Return the affine map of each quadrant, (4 * N, 2, 3)."""
        _, tile, grid = self.layout
        return inverse_maps(self.maps, (tile[0] * grid[0], tile[1] * grid[1]))  # type: ignore[no-any-return]


def sample_mosaics(
    indices: NDArray[np.int64], stream: tuple[np.uint64, ...], donors: Donors, pipeline: Pipeline
) -> MosaicBlock:
    """Draw Mosaics.

    The first numbers of a composite's stream decide it. Tiles with too much glass are drawn again from the numbers
    after these.

    Parameters
    ----------
    indices : (N,) int64
        The composites' indices.
    stream : tuple of uint64
        Seed, words of strategy and purpose, and stream; see `sampling.uniforms`.
    donors : Donors
        The patches that tiles are cropped from.
    pipeline : Pipeline
        Must have a `mosaic` section.

    Raises
    ------
    KeyError
        The bank has no pixels of a donor whose glass counts.
    """
    mosaic, balanced = _section(pipeline), pipeline.donors.balance_classes
    count, tiles = len(indices), mosaic.grid[0] * mosaic.grid[1]
    layout = pipeline.canvas, mosaic.tile, mosaic.grid
    numbers = map(float, (mosaic.probability, mosaic.shift, mosaic.scale, mosaic.rotation, *mosaic.split))
    block = MosaicBlock(
        indices,
        layout,
        donors,
        drawn=np.empty((count, 4 * tiles), np.int64),
        tiles=np.empty((4 * count, tiles, 5), np.int64),
        maps=np.empty((4 * count, 8)),
        windows=np.empty((4 * count, 4), np.int64),
        warped=np.empty(4 * count, np.bool_),
    )
    absent = draw_mosaics(
        *(indices, stream, (*layout, *numbers, balanced), glass_limits(pipeline.glass), donors.bank, donors.table()),
        *(block.drawn, block.tiles, block.maps, block.warped, block.windows),
    )
    if absent >= 0:
        raise KeyError(donors.drawn[absent].id)
    return block


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
    flip: Flip = _KINDS[int(draws[1] * len(_KINDS))] if draws[0] < mosaic.probability else "none"
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


def _between(u: float, low: float, high: float) -> float:
    return low + u * (high - low)


def _packed_canvas(size: tuple[int, int]) -> PackedPixels:
    """Return this thread's canvas, which all its composites reuse, because new memory takes time."""
    canvas: PackedPixels | None = getattr(_buffers, "canvas", None)
    if canvas is None or canvas.shape != size:
        canvas = _buffers.canvas = np.empty(size, np.uint32)
    return canvas
