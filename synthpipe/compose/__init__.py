"""Make composites: `sample` draws all random numbers of a recipe, and `render` turns a recipe into pixels.

The generator of a composite depends only on the pipeline's seed, the strategy, the purpose, the stream and the index.
So the bytes of a composite do not depend on the number of workers, the order of rendering or the shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import DTypeLike, NDArray

from synthpipe.compose.bezier import BezierBlock, render_bezier, sample_beziers
from synthpipe.compose.donors import Donors
from synthpipe.compose.mosaic import MosaicBlock, render_mosaic, sample_mosaics
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import Composite, Image, Mask, MosaicRecipe, Recipe, Strategy

Purpose = Literal["candidate", "filter", "view", "fresh"]
"""Use of a random stream: candidate composites, composites that train the filter, views of real patches, or composites
that a training renders and no run stores.
"""

Block = MosaicBlock | BezierBlock
"""Sampled composites of one strategy."""

_STRATEGY_WORD: dict[Strategy, int] = {"mosaic": 1, "bezier": 2}
_PURPOSE_WORD: dict[Purpose, int] = {"candidate": 0, "filter": 1, "view": 2, "fresh": 3}

SAMPLER_VERSION = 1
"""The version of `sample` and `render`. It changes when a seed gives other recipes, or a recipe gives other pixels.

Virtual curated sets record it, since their pixels are rendered when they are read.
"""

__all__ = [
    "SAMPLER_VERSION",
    "Block",
    "Donors",
    "Purpose",
    "donor_uses",
    "generator",
    "render",
    "render_block",
    "sample",
    "sample_block",
]


def generator(seed: int, strategy: Strategy, purpose: Purpose, index: int, stream: int = 0) -> np.random.Generator:
    """Return the generator of one composite: random numbers that no other composite shares.

    Seed and strategy are the key of a Philox generator. Stream, index and purpose are the high words of its counter, so
    two composites begin at least 2**64 draws apart.
    """
    key = _Key(np.array([seed, _STRATEGY_WORD[strategy]], np.uint64))
    counter = np.array([0, stream, index, _PURPOSE_WORD[purpose]], np.uint64)
    return np.random.Generator(np.random.Philox(key, counter=counter))  # type: ignore[arg-type]  # documented


class _Key(ISeedSequence):
    """A fixed Philox key; with ``key=`` instead, NumPy would first read entropy from the system, which takes time."""

    def __init__(self, key: NDArray[np.uint64]) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[np.uint32 | np.uint64]:
        return self._key


def donor_uses(pipeline: Pipeline, strategy: Strategy) -> int:
    """Return the number of donor uses in one composite; a donor that is used twice counts twice."""
    if strategy == "bezier" or pipeline.mosaic is None:
        return 2
    return 4 * pipeline.mosaic.grid[0] * pipeline.mosaic.grid[1]


def sample(
    pipeline: Pipeline,
    strategy: Strategy,
    index: int,
    donors: Donors,
    purpose: Purpose = "candidate",
    stream: int = 0,
) -> Recipe:
    """Draw the recipe of composite `index`; each `stream` of a purpose has other composites."""
    return sample_block(pipeline, strategy, [index], donors, purpose, stream).recipe(0)


def sample_block(
    pipeline: Pipeline,
    strategy: Strategy,
    indices: Sequence[int] | NDArray[np.int64],
    donors: Donors,
    purpose: Purpose = "candidate",
    stream: int = 0,
) -> Block:
    """Draw several composites at once, in any order. A block can be rendered without recipes.

    Raises
    ------
    KeyError
        The bank of `donors` has no pixels of a donor whose glass counts; the argument is the donor's id.
    """
    words = tuple(map(np.uint64, (pipeline.seed, _STRATEGY_WORD[strategy], _PURPOSE_WORD[purpose], stream)))
    draw = sample_mosaics if strategy == "mosaic" else sample_beziers
    return draw(np.asarray(indices, np.int64), words, donors, pipeline)


def render_block(block: Block, images: Image, masks: Mask, rows: NDArray[np.int64] | None = None) -> None:
    """Render the composites of a block with its donors.

    Parameters
    ----------
    block : Block
        The composites.
    images, masks : (M, H, W, 3) and (M, H, W) uint8
        Receive the composites. Each row is C-contiguous.
    rows : (N,) int64, optional
        The row of each composite; by default all rows in order.

    Raises
    ------
    KeyError
        The bank has no pixels of a donor; the argument is the donor's id.
    ValueError
        The arrays have another shape, or there is no such row.
    """
    block.bank.numbers(block.drawn)  # a donor without pixels
    every = np.arange(len(block))
    rows = every if rows is None else rows
    last = int(rows.max(initial=-1))
    needed = len(masks), *block.canvas  # kernels would write beyond smaller arrays
    if images.shape != (*needed, 3) or masks.shape != needed:
        raise ValueError(
            f"the arrays have the shapes {images.shape} and {masks.shape}, but these composites need "
            f"(N, {block.canvas[0]}, {block.canvas[1]}, 3) and (N, {block.canvas[0]}, {block.canvas[1]})"
        )
    if last >= len(masks) or (rows < 0).any():
        raise ValueError(f"there is no row {last}; the arrays have {len(masks)} rows, counted from 0")
    if images.flags.c_contiguous and masks.flags.c_contiguous:
        block.render(images.reshape(len(images), -1), masks.reshape(len(masks), -1), rows, every)
        return
    for row, number in zip(rows.tolist(), every, strict=True):  # a shard's memory has checksums between its rows
        image, mask = images[row].reshape(1, -1), masks[row].reshape(1, -1)
        block.render(image, mask, np.zeros(1, np.int64), np.array([number]))


def render(recipe: Recipe, donors: Donors, image: Image | None = None, mask: Mask | None = None) -> Composite:
    """Render a recipe; the result depends only on the recipe and the donors.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    donors : Donors
        Donors that include the recipe's donors.
    image : (H, W, 3) uint8, optional
        C-contiguous array that receives the image; a new array by default.
    mask : (H, W) uint8, optional
        C-contiguous array that receives the mask; a new array by default.
    """
    image = np.empty((*recipe.canvas, 3), np.uint8) if image is None else image
    mask = np.empty(recipe.canvas, np.uint8) if mask is None else mask
    if isinstance(recipe, MosaicRecipe):
        render_mosaic(recipe, donors, image, mask)
    else:
        render_bezier(recipe, donors, image, mask)
    return Composite(recipe, image, mask)
