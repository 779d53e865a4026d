from __future__ import annotations

import cv2
import numpy as np
import pytest

from synthpipe.compose import generator
from synthpipe.compose.view import real_view
from synthpipe.core.records import Image
from tests.conftest import pipeline


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(1).integers(1, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(64, 64), (120, 90), (40, 50), (20, 100)])
def test_a_mosaic_view_shows_the_patch_as_it_is(shape: tuple[int, int]) -> None:
    """Without a transformation, every view is a window of the patch, which is reflected if it is too small."""
    image = noise(*shape)
    around = cv2.copyMakeBorder(image, 64, 64, 64, 64, cv2.BORDER_REFLECT_101)
    positions = set()
    for index in range(30):
        view = real_view(generator(0, "mosaic", "view", index), image, "mosaic", pipeline("mosaic.probability=0"))
        found = np.argwhere((around[:-63, :-63] == view[0, 0]).all(-1))
        # a reflection may show the same again elsewhere
        positions.add(next((y, x) for y, x in found.tolist() if np.array_equal(around[y : y + 64, x : x + 64], view)))
    assert len(positions) == 1 if max(shape) <= 64 else len(positions) > 5


def test_a_mosaic_view_is_transformed_as_grid_images_are() -> None:
    image = noise(90, 90)
    views = [real_view(generator(0, "mosaic", "view", index), image, "mosaic", pipeline()) for index in range(40)]
    assert len({view.tobytes() for view in views}) == 40 and min(view.min() for view in views) > 0
    contrast = np.array([view.std() for view in views])
    # four of five are warped, and interpolation smooths noise
    assert 0.6 < (contrast < 0.95 * image.std()).mean() < 0.95


def test_a_bezier_view_is_resized_as_donors_are() -> None:
    view = real_view(generator(0, "bezier", "view", 0), noise(90, 70), "bezier", pipeline())
    assert np.array_equal(view, cv2.resize(noise(90, 70), (64, 64), interpolation=cv2.INTER_AREA))
