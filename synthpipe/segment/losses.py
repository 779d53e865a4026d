"""The losses of segmentation training (method section 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from synthpipe.segment.network import Outputs, reflect
from synthpipe.segment.settings import ConsistencySection, LossSection


class Losses(NamedTuple):
    """The terms of a step's loss, before their weights; each a scalar, 0 where nothing counts or its weight is 0."""

    dice: Tensor
    labels: Tensor
    consistency: Tensor

    def total(self, weights: LossSection) -> Tensor:
        """Return the weighted sum."""
        return weights.dice * self.dice + weights.labels * self.labels + weights.consistency * self.consistency


def losses(
    outputs: Outputs,
    masks: Tensor,
    labels: Tensor,
    composites: int,
    ignore: int,
    weights: LossSection,
    consistency: ConsistencySection,
) -> Losses:
    """Return the losses of a batch: Dice on composites, consistency on real patches, image labels on both.

    The cross-entropy of image labels is the sum of the composites' mean and the real patches' mean.

    Parameters
    ----------
    outputs : Outputs
        Of the composites, then of the real patches.
    masks : (B, H, W) uint8
        Of the composites, class indices, or `ignore` and more; of the real patches, `ignore` where there is white
        background or a transform opened a border, else 0.
    labels : (B, C) uint8
        1 where a class occurs in the image.
    composites : int
        How many of the batch are composites.
    ignore : int
        The index that no loss counts, nor any above it: lost pixels.
    weights : LossSection
        Only what has a weight is computed.
    consistency : ConsistencySection
        The form of the consistency loss.
    """
    zero = outputs.labels.new_zeros((), dtype=torch.float32)
    dice = by_labels = agreement = zero
    if weights.dice and composites:
        dice = DiceLoss("multiclass", ignore_index=ignore)(
            outputs.masks[:composites].float(), masks[:composites].clamp(max=ignore).long()
        )
    if weights.labels:
        for part in (slice(0, composites), slice(composites, None)):
            if len(labels[part]):
                by_labels = by_labels + binary_cross_entropy_with_logits(
                    outputs.labels[part].float(), labels[part].float()
                )
    if weights.consistency and composites < len(labels):
        agreement = consistency_loss(
            outputs.masks[composites:], outputs.cam[composites:], masks[composites:] == ignore, labels[composites:],
            consistency,
        )  # fmt: skip
    return Losses(dice, by_labels, agreement)


def consistency_loss(
    logits: Tensor, cam: Tensor, ignored: Tensor, labels: Tensor, settings: ConsistencySection
) -> Tensor:
    """Return the mean absolute difference of the network's probabilities, at the CAM's resolution, and the CAM's.

    As published, ``mean |softmax(logits) - softmax(CAM)|`` (method section 4); `settings` offer a sigmoid for the CAM,
    one side as a fixed target of the other, and to count neither classes that the label excludes nor glass.

    Parameters
    ----------
    logits : (N, C, H, W)
        Of pixels.
    cam : (N, C, h, w)
        Logits of the class activation map.
    ignored : (N, H, W) bool
        White background and opened borders; counted unless ``settings.glass`` is mask.
    labels : (N, C) uint8
        1 where a class occurs.
    settings : ConsistencySection
        As above.
    """
    size = cam.shape[-2:]  # the map is of the image reflected up to a size that the encoder can halve
    masks = interpolate(reflect(logits.float()), size, mode="bilinear", align_corners=False).softmax(1)
    activation = cam.float().softmax(1) if settings.cam == "softmax" else cam.float().sigmoid()
    if settings.stop_gradient == "cam":
        activation = activation.detach()
    if settings.stop_gradient == "segmentation":
        masks = masks.detach()
    weight = torch.ones_like(activation)
    if settings.absent_classes == "mask":
        weight = weight * labels[:, :, None, None]
    if settings.glass == "mask":
        weight = weight * (1 - interpolate(reflect(ignored[:, None].float()), size, mode="area"))
    return ((masks - activation).abs() * weight).sum() / weight.sum().clamp(min=1)
