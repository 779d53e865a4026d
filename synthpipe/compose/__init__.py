"""Composites: `sample` draws every random number into a recipe, `render` turns a recipe into pixels.

The generator of a composite is made from the pipeline's seed, the strategy, the purpose and the index alone, so its
bytes do not depend on how many workers render, in which order, or in which shards.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import DTypeLike, NDArray

from synthpipe.compose.bezier import render_bezier, sample_bezier
from synthpipe.compose.donors import Donors
from synthpipe.compose.mosaic import render_mosaic, sample_mosaic
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import Composite, Image, Mask, MosaicRecipe, Recipe, Strategy

Purpose = Literal["candidate", "filter", "view"]
"""What a composite is for: to be curated, to train the filter; or a view of a real patch beside the latter."""

_STRATEGY_WORD: dict[Strategy, int] = {"mosaic": 1, "bezier": 2}
_PURPOSE_WORD: dict[Purpose, int] = {"candidate": 0, "filter": 1, "view": 2}

__all__ = ["Donors", "Purpose", "donor_uses", "generator", "render", "sample"]


def generator(seed: int, strategy: Strategy, purpose: Purpose, index: int) -> np.random.Generator:
    """Return the generator of one composite: a Philox stream that no other composite shares.

    Seed and strategy are the key; index and purpose are the high words of the counter, so streams are disjoint by
    2**128 draws.
    """
    key = _Key(np.array([seed, _STRATEGY_WORD[strategy]], np.uint64))
    counter = np.array([0, 0, index, _PURPOSE_WORD[purpose]], np.uint64)
    return np.random.Generator(np.random.Philox(key, counter=counter))  # type: ignore[arg-type]  # documented


class _Key(ISeedSequence):
    """A Philox key as it is: one given by ``key=`` has NumPy read the system's entropy first, to no use."""

    def __init__(self, key: NDArray[np.uint64]) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[np.uint32 | np.uint64]:
        return self._key


def donor_uses(pipeline: Pipeline, strategy: Strategy) -> int:
    """Return how many donors' pixels feed one composite, a donor counted as often as it is used."""
    if strategy == "bezier" or pipeline.mosaic is None:
        return 2
    return 4 * pipeline.mosaic.grid[0] * pipeline.mosaic.grid[1]


def sample(
    pipeline: Pipeline, strategy: Strategy, index: int, donors: Donors, purpose: Purpose = "candidate"
) -> Recipe:
    """Draw the recipe of composite `index`."""
    rng = generator(pipeline.seed, strategy, purpose, index)
    if strategy == "mosaic":
        return sample_mosaic(rng, index, donors, pipeline)
    return sample_bezier(rng, index, donors, pipeline)


def render(recipe: Recipe, donors: Donors, image: Image | None = None, mask: Mask | None = None) -> Composite:
    """Render a recipe: pure, needs no random generator.

    Parameters
    ----------
    recipe : Recipe
        What to render.
    donors : Donors
        Must hold the recipe's donors.
    image : (H, W, 3) uint8, optional
        Where to put the image; must be C-contiguous. A new array by default.
    mask : (H, W) uint8, optional
        Where to put the mask, likewise.
    """
    image = np.empty((*recipe.canvas, 3), np.uint8) if image is None else image
    mask = np.empty(recipe.canvas, np.uint8) if mask is None else mask
    if isinstance(recipe, MosaicRecipe):
        render_mosaic(recipe, donors, image, mask)
    else:
        render_bezier(recipe, donors, image, mask)
    return Composite(recipe, image, mask)
