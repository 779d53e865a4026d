"""The losses of segmentation training (method section 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from synthpipe.segment.mean_teacher import Taught, taught_loss
from synthpipe.segment.network import Outputs, reflect
from synthpipe.segment.settings import ConsistencySection, LossSection


class Losses(NamedTuple):
    """The unweighted terms of a step's loss, each a scalar; a term is 0 if its weight is 0 or no image counts."""

    dice: Tensor
    labels: Tensor
    consistency: Tensor

    def total(self, weights: LossSection) -> Tensor:
        """Return the weighted sum of the terms, a scalar."""
        return weights.dice * self.dice + weights.labels * self.labels + weights.consistency * self.consistency


def losses(
    outputs: Outputs,
    masks: Tensor,
    labels: Tensor,
    composites: int,
    ignore: int,
    weights: LossSection,
    consistency: ConsistencySection,
    taught: Taught | None = None,
) -> Losses:
    """Return the losses of a batch: Dice on composites, consistency on real patches, image labels on both.

    The cross-entropy of image labels is the sum of the composites' mean and the real patches' mean.

    Parameters
    ----------
    outputs : Outputs
        The network's outputs, first for the composites, then for the real patches.
    masks : (B, H, W) uint8
        For composites: class indices, or `ignore` and above. For real patches: `ignore` on white background and on
        borders that a transform opened, else 0.
    labels : (B, C) uint8
        1 where a class occurs in the image.
    composites : int
        Number of composites in the batch.
    ignore : int
        The index of ignored pixels; no loss counts pixels with this index or a higher index.
    weights : LossSection
        Weights of the terms; terms of weight 0 are not computed.
    consistency : ConsistencySection
        The form of the consistency loss.
    taught : Taught, optional
        The teacher's masks of the real patches, if the form is ``mean_teacher``; without them, this loss is 0.
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
    if taught:
        agreement = taught_loss(outputs.masks[composites:], taught)
    elif weights.consistency and consistency.form == "published" and composites < len(labels):
        agreement = consistency_loss(
            outputs.masks[composites:], outputs.cam[composites:], masks[composites:] == ignore, labels[composites:],
            consistency,
        )  # fmt: skip
    return Losses(dice, by_labels, agreement)


def consistency_loss(
    logits: Tensor, cam: Tensor, ignored: Tensor, labels: Tensor, settings: ConsistencySection
) -> Tensor:
    """Return the mean absolute difference between the probabilities of the decoder and of the CAM.

    Both are compared at the CAM's resolution. The published form is ``mean |softmax(logits) - softmax(CAM)|`` (method
    section 4). `settings` can choose a sigmoid for the CAM, make one of the two a fixed target, and exclude glass and
    classes that are not in the label.

    Parameters
    ----------
    logits : (N, C, H, W)
        The decoder's pixel logits.
    cam : (N, C, h, w)
        Logits of the class activation map.
    ignored : (N, H, W) bool
        White background and opened borders; they count unless ``settings.glass`` is ``mask``.
    labels : (N, C) uint8
        1 where a class occurs.
    settings : ConsistencySection
        The form of the loss, as described above.
    """
    size = cam.shape[-2:]  # the CAM shows the image after reflection to a size that the encoder can halve
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
