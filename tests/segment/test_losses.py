from __future__ import annotations

import numpy as np
import pytest
import torch

from synthpipe.core.taxonomy import LOST
from synthpipe.segment.losses import consistency_loss, losses
from synthpipe.segment.network import Outputs, reflect
from synthpipe.segment.settings import ConsistencySection, LossSection

IGNORE = 3


def batch(composites: int = 2, real: int = 3) -> tuple[Outputs, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    count = composites + real
    cam = torch.randn(count, 3, 4, 4)
    outputs = Outputs(torch.randn(count, 3, 32, 32), cam, cam.mean((2, 3)))
    labels = torch.randint(0, 2, (count, 3), dtype=torch.uint8)
    return outputs, torch.randint(0, 4, (count, 32, 32), dtype=torch.uint8), labels


def test_dice_is_that_of_the_composites_pixels_that_count() -> None:
    outputs, masks, labels = batch()
    found = losses(outputs, masks, labels, 2, IGNORE, LossSection(), ConsistencySection())
    probabilities = outputs.masks[:2].softmax(1).numpy()
    scores = []
    for label in range(3):
        truth, counts = (masks[:2] == label).numpy(), (masks[:2] != IGNORE).numpy()
        overlap = (probabilities[:, label] * truth).sum()
        scores.append(1 - 2 * overlap / ((probabilities[:, label] * counts).sum() + truth.sum()))
    assert float(found.dice) == pytest.approx(np.mean(scores), abs=1e-5)


def test_label_loss_adds_the_means_of_composites_and_real_patches() -> None:
    outputs, masks, labels = batch()
    found = losses(outputs, masks, labels, 2, IGNORE, LossSection(), ConsistencySection())
    p = outputs.labels.sigmoid().numpy()
    truth = labels.numpy()
    entropy = -(truth * np.log(p) + (1 - truth) * np.log(1 - p))
    assert float(found.labels) == pytest.approx(entropy[:2].mean() + entropy[2:].mean(), abs=1e-5)


def test_consistency_as_published_is_the_mean_difference_of_two_softmaxes() -> None:
    outputs, masks, labels = batch()
    found = losses(outputs, masks, labels, 2, IGNORE, LossSection(), ConsistencySection()).consistency
    small = torch.nn.functional.interpolate(outputs.masks[2:], (4, 4), mode="bilinear", align_corners=False)
    expected = (small.softmax(1) - outputs.cam[2:].softmax(1)).abs().mean()
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "masks_move", "cam_moves"),
    [({}, True, True), ({"stop_gradient": "cam"}, True, False), ({"stop_gradient": "segmentation"}, False, True)],
)
def test_a_stopped_gradient_leaves_one_side_alone(settings: dict[str, str], masks_move: bool, cam_moves: bool) -> None:
    outputs, masks, labels = batch()
    outputs.masks.requires_grad_()
    outputs.cam.requires_grad_()
    section = ConsistencySection.model_validate(settings)
    weights = LossSection(dice=0, labels=0)
    losses(outputs, masks, labels, 2, IGNORE, weights, section).consistency.backward()  # type: ignore[no-untyped-call]
    assert (outputs.masks.grad is not None) == masks_move
    assert (outputs.cam.grad is not None) == cam_moves


def test_a_sigmoid_asks_each_class_by_itself() -> None:
    logits, cam = torch.zeros(1, 2, 32, 32), torch.full((1, 2, 2, 2), 100.0)  # both classes everywhere
    nothing, labels = torch.zeros(1, 32, 32, dtype=torch.bool), torch.ones(1, 2)
    soft = consistency_loss(logits, cam, nothing, labels, ConsistencySection())
    own = consistency_loss(logits, cam, nothing, labels, ConsistencySection(cam="sigmoid"))
    assert float(soft) == pytest.approx(0) and float(own) == pytest.approx(0.5)


def test_masked_classes_and_glass_have_no_say() -> None:
    torch.manual_seed(1)
    logits, cam = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 4, 4)
    ignored = torch.zeros(2, 32, 32, dtype=torch.bool)
    ignored[:, :, :16] = True
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]])
    section = ConsistencySection(cam="sigmoid", absent_classes="mask", glass="mask")
    found = consistency_loss(logits, cam, ignored, labels, section)
    cam[0, 1] += 9  # an absent class
    cam[:, :, :, :2] -= 9  # glass
    assert float(consistency_loss(logits, cam, ignored, labels, section)) == pytest.approx(float(found), abs=1e-6)
    assert (
        float(consistency_loss(logits, cam, ignored, labels, ConsistencySection(cam="sigmoid"))) > float(found) * 1.05
    )


def test_what_has_no_weight_or_no_image_costs_nothing() -> None:
    outputs, masks, labels = batch(0, 3)
    found = losses(outputs, masks, labels, 0, IGNORE, LossSection(consistency=0), ConsistencySection())
    assert float(found.dice) == 0 and float(found.consistency) == 0 and float(found.labels) > 0
    assert float(found.total(LossSection(dice=5, labels=2))) == pytest.approx(2 * float(found.labels))
    outputs, masks, labels = batch(2, 0)
    only = losses(outputs, masks, labels, 2, IGNORE, LossSection(), ConsistencySection())
    assert float(only.consistency) == 0 and torch.isfinite(only.labels)


def test_a_mask_that_is_all_ignored_gives_no_dice() -> None:
    outputs, masks, labels = batch(2, 0)
    found = losses(outputs, torch.full_like(masks, IGNORE), labels, 2, IGNORE, LossSection(), ConsistencySection())
    assert float(found.dice) == 0


def test_lost_pixels_are_ignored_as_background_is() -> None:
    outputs, masks, labels = batch(2, 0)
    found = losses(outputs, masks, labels, 2, IGNORE, LossSection(), ConsistencySection())
    lost = torch.where(masks == IGNORE, LOST, masks)
    assert float(losses(outputs, lost, labels, 2, IGNORE, LossSection(), ConsistencySection()).dice) == float(
        found.dice
    )


@pytest.mark.parametrize("size", [(48, 48), (64, 32), (112, 80)])
def test_consistency_holds_masks_against_the_map_of_the_same_place(size: tuple[int, int]) -> None:
    """A network whose two heads agree on an object costs next to nothing, also where the image was reflected."""
    height, width = size
    image = torch.zeros(1, 1, *size)
    image[..., : height // 2, : width // 2] = 1
    logits = torch.cat([20 * image - 10, 10 - 20 * image], 1)
    cam = torch.nn.functional.interpolate(reflect(logits), scale_factor=1 / 16, mode="bilinear")
    ignored, labels = image[:, 0] == 0, torch.ones(1, 2)
    section = ConsistencySection(glass="mask")
    assert float(consistency_loss(logits, cam, ignored, labels, section)) < 0.01
    cam[..., height // 32 + 1 : -(-height // 16), :] = 0  # below the object, where glass is: it does not count
    assert float(consistency_loss(logits, cam, ignored, labels, section)) < 0.01
