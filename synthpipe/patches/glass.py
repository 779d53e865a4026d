"""Glass: the white parts of a patch where the slide has no tissue."""

from __future__ import annotations

import cv2
import numpy as np

from synthpipe.config.pipeline import GlassSection
from synthpipe.core.records import Image, Mask


def glass_mask(image: Image, settings: GlassSection) -> Mask:
    """Return the mask of a patch's glass (method section 2).

    Glass is a 4-connected area of at least `min_area` pixels whose grey levels are above `threshold`.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    settings : GlassSection
        Threshold and smallest area.

    Returns
    -------
    (H, W) uint8
        1 for glass, 0 elsewhere.
    """
    bright = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) > settings.threshold).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= settings.min_area
    large[0] = False
    glass: Mask = large.astype(np.uint8)[labels]
    return glass
