from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from synthpipe.segment.augmentation import IDENTITY, apply_views, draw_view
from synthpipe.segment.settings import AugmentationSection

STILL = AugmentationSection(crop=(1.0, 1.0), flip=0, affine=0, distort=0)
IGNORE = 3


def pictures(count: int = 4, height: int = 24, width: int = 36) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8))
    return images, torch.from_numpy(rng.integers(0, 3, (count, height, width), dtype=np.uint8))


def views(settings: AugmentationSection, count: int = 4, size: tuple[int, int] = (24, 36)) -> torch.Tensor:
    drawn = [draw_view(np.random.default_rng(seed), settings, size) for seed in range(count)]
    return torch.from_numpy(np.stack(drawn))


def test_nothing_drawn_leaves_everything_as_it_is() -> None:
    images, masks = pictures()
    assert torch.equal(views(STILL), torch.from_numpy(IDENTITY).expand(4, 7))
    seen, labels = apply_views(images, masks, views(STILL), IGNORE)
    assert torch.allclose(seen, images.float(), atol=1e-3) and torch.equal(labels, masks)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_flips_move_pixels_and_their_classes_alike(across: bool, down: bool) -> None:
    images, masks = pictures(1)
    view = IDENTITY.copy()
    view[0], view[4] = (-1 if across else 1), (-1 if down else 1)
    dims = [dim for dim, flip in ((-1, across), (-2, down)) if flip]
    seen, labels = apply_views(images, masks, torch.from_numpy(view)[None], IGNORE)
    assert torch.allclose(seen, images.flip(dims).float(), atol=1e-3) and torch.equal(labels, masks.flip(dims))


def test_each_of_the_four_flips_comes_as_often() -> None:
    settings = STILL.model_copy(update={"flip": 0.5})
    signs = np.sign(views(settings, 2000).numpy()[:, [0, 4]])
    counts = [np.sum((signs == pair).all(1)) for pair in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    assert min(counts) > 400


def test_a_rotation_keeps_shapes_on_a_canvas_that_is_no_square() -> None:
    """A disc stays a disc, since pixels are square whatever the canvas."""
    height, width = 60, 100
    y, x = np.mgrid[:height, :width] + 0.5
    disc = (np.hypot(y - height / 2, x - width / 2) < 20).astype(np.uint8)
    settings = AugmentationSection(crop=(1.0, 1.0), flip=0, affine=1, shift=0, scale=0, rotation=90, distort=0)
    count = 8
    _, labels = apply_views(
        torch.zeros((count, 3, height, width)),
        torch.from_numpy(disc).expand(count, -1, -1),
        views(settings, count, (height, width)),
        IGNORE,
    )
    assert (labels.numpy() == 1).sum((1, 2)) == pytest.approx(disc.sum(), rel=0.02)
    assert all(np.array_equal(found[20:40, 40:60], disc[20:40, 40:60]) for found in labels.numpy())


def test_every_border_that_a_view_opens_is_ignored_and_nothing_else() -> None:
    images, masks = pictures(16)
    settings = AugmentationSection(affine=1, distort=1)
    drawn = views(settings, 16)
    seen, labels = apply_views(images, masks, drawn, IGNORE)
    assert 0 < float((labels == IGNORE).float().mean()) < 0.5
    for view, found in zip(drawn.numpy(), labels.numpy(), strict=True):
        assert np.array_equal(found == IGNORE, outside(view, 24, 36))
    assert seen.min() >= 0 and seen.max() <= 255


def outside(view: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of a view that lie beyond the source, from the definition in `Views`, pixel by pixel."""
    result = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
            r2 = (x / 2) ** 2 + (y / 2) ** 2
            factor = 1 + view[6] * (r2 + r2**2)
            place = view[:6].reshape(2, 3) @ np.array([x * factor, y * factor, 1])
            result[row, column] = (np.abs(place) > 1).any()
    return result


def test_crops_take_the_share_of_the_area_that_was_asked_for() -> None:
    settings = AugmentationSection(crop=(0.25, 0.5), flip=0, affine=0, distort=0)
    drawn = views(settings, 400).numpy()
    shares = drawn[:, 0] * drawn[:, 4]
    assert 0.25 <= shares.min() < 0.27 and 0.48 < shares.max() <= 0.5
    images, masks = pictures(4)
    assert not (apply_views(images, masks, views(settings), IGNORE)[1] == IGNORE).any()
    corners = np.abs(drawn[:, [2, 5]]) + drawn[:, [0, 4]]
    assert corners.max() <= 1 + 1e-6 and np.abs(drawn[:, 2]).max() > 0.3


def test_a_view_is_a_function_of_its_generator() -> None:
    settings = AugmentationSection()
    assert torch.equal(views(settings), views(settings))
    assert len(np.unique(views(settings, 50).numpy(), axis=0)) == 50
