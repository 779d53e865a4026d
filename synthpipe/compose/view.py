"""Views of real patches, which the filter compares with composites.

The pixels of a composite are transformed: those of a Mosaic are warped with its grid images, those of a Bezier are
resized with its donors. A view is a real patch after the same transformation. Without it, the filter would learn to
recognize the resampling instead of the seams.
"""

from __future__ import annotations

import numpy as np

from synthpipe.compose.geometry import source_map, warp_into, window_range
from synthpipe.compose.mosaic import sample_transform
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import Image, Strategy
from synthpipe.core.resizing import fit


def real_view(rng: np.random.Generator, image: Image, strategy: Strategy, pipeline: Pipeline) -> Image:
    """Return a view of a real patch: its pixels at canvas size, transformed as the strategy transforms its donors.

    A Mosaic's view is random; a Bezier's is the resized patch.

    Parameters
    ----------
    rng : Generator
        The view's own generator.
    image : (H, W, 3) uint8
        The patch.
    strategy : {"mosaic", "bezier"}
        The strategy whose composites the filter compares with the view.
    pipeline : Pipeline
        Gives the canvas and the strategy's constants.
    """
    size = pipeline.canvas
    if strategy == "bezier" or pipeline.mosaic is None:
        return fit(image, size)
    draws = rng.random(9).tolist()
    flip, warp = sample_transform(draws, pipeline.mosaic)
    ys, xs = window_range(image.shape, size)
    # a patch smaller than the canvas is reflected, as tiles are; the filter would notice a resized one
    top, left = (min((length - wanted) // 2, 0) for length, wanted in zip(image.shape, size, strict=False))
    view = np.empty((*size, 3), np.uint8)
    affine = source_map(image.shape[:2], flip, warp, top + int(draws[7] * ys), left + int(draws[8] * xs))
    warp_into(view, image, affine)
    return view
