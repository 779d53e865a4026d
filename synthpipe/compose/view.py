"""Views of real patches, for the filter to hold against composites.

A composite's pixels went through a transformation: warped with a Mosaic's grid images, resized with a Bezier's donors.
Real patches go through the same one, or the filter would learn to see the resampling instead of the seams.
"""

from __future__ import annotations

import numpy as np

from synthpipe.compose.geometry import source_map, warp_into, window_range
from synthpipe.compose.mosaic import sample_transform
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import Image, Strategy
from synthpipe.core.resizing import fit


def real_view(rng: np.random.Generator, image: Image, strategy: Strategy, pipeline: Pipeline) -> Image:
    """Return a view of a real patch at the canvas's size, processed as the strategy processes its donors.

    A Mosaic's view is random; a Bezier's is the resized patch.

    Parameters
    ----------
    rng : Generator
        The view's own generator.
    image : (H, W, 3) uint8
        The patch.
    strategy : {"mosaic", "bezier"}
        Whose composites the view is held against.
    pipeline : Pipeline
        Canvas, and the strategy's constants.
    """
    size = pipeline.canvas
    if strategy == "bezier" or pipeline.mosaic is None:
        return fit(image, size)
    draws = rng.random(9).tolist()
    flip, warp = sample_transform(draws, pipeline.mosaic)
    ys, xs = window_range(image.shape, size)
    # a patch smaller than the canvas is reflected around, as tiles are; resizing it would show
    top, left = (min((length - wanted) // 2, 0) for length, wanted in zip(image.shape, size, strict=False))
    view = np.empty((*size, 3), np.uint8)
    affine = source_map(image.shape[:2], flip, warp, top + int(draws[7] * ys), left + int(draws[8] * xs))
    warp_into(view, image, affine)
    return view
