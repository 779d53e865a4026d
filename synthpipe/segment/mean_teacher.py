"""Train on real patches with masks that a teacher predicts: the mean teacher, ClassMix and masked images.

The teacher is the moving average of the trained network's weights. It predicts each real patch, and the network learns
from this prediction. Two options change the image that the network sees: half of a composite's classes are pasted on
the patch, or blocks of it are hidden. The method combines the mean teacher (Tarvainen and Valpola 2017,
arXiv:1703.01780), DACS (Tranheden et al. 2021, arXiv:2007.08702), DAFormer (Hoyer et al. 2022, arXiv:2111.14887) and
MIC (Hoyer et al. 2023, arXiv:2212.01322).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn.functional import cross_entropy

from synthpipe.segment.averaging import WeightAverage
from synthpipe.segment.confidence import Confidence, fit_confidence
from synthpipe.segment.devices import share_buffers
from synthpipe.segment.network import SegmentationNetwork
from synthpipe.segment.settings import ConsistencySection

_POINTS = 16  # number of points per side of a patch to which the balance of the classes is fitted
_LOWEST = math.log(1e-7)


class Taught(NamedTuple):
    """Real patches with the masks that a teacher predicted.

    ``images`` (N, 3, H, W) are the images that the network sees, ``labels`` (N, C) uint8 are their classes, ``masks``
    (N, H, W) int64 are class indices, or C where a pixel does not count, and ``weights`` (N, H, W) are the weights of
    the pixels, from 0 to 1.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    weights: Tensor


class MeanTeacher:
    """The teacher of a training, which predicts the masks of real patches.

    Parameters
    ----------
    fabric : Fabric
        The devices. All processes have the same teacher.
    network : SegmentationNetwork
        The trained network.
    settings : ConsistencySection
        The momentum, the threshold, and which changes of the images are on.
    weights : mapping of str to Tensor, optional
        The teacher's weights, if the training is resumed.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: SegmentationNetwork,
        settings: ConsistencySection,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._fabric, self._settings = fabric, settings
        self.average = WeightAverage(network, settings.momentum)
        self.average.network.eval()
        if weights:
            self.average.network.load_state_dict(weights)

    @torch.no_grad()
    def teach(self, images: Tensor, masks: Tensor, labels: Tensor) -> Taught:
        """Predict the real patches of a batch, and return them as `teach` does."""
        network = self.average.network
        share_buffers(self._fabric, network)
        real = images[len(images) - len(labels) :].contiguous(memory_format=torch.channels_last)
        with self._fabric.autocast():
            logits = network.segment(real)
        return teach(logits, images, masks, labels, network.mean, self._settings)


def teach(
    logits: Tensor, images: Tensor, masks: Tensor, labels: Tensor, fill: Tensor, settings: ConsistencySection
) -> Taught:
    """Return the real patches of a batch as the network sees them, and their masks by the teacher.

    All random numbers come from torch's generator of the CPU, so devices of any kind draw the same numbers.

    Parameters
    ----------
    logits : (N, C, H, W)
        The teacher's pixel logits of the real patches.
    images : (B, 3, H, W) float32
        The batch: first composites, then the N real patches.
    masks : (B, H, W) uint8 or int64
        For composites: class indices, or at least C for ignored pixels. For real patches: at least C on ignored pixels.
    labels : (N, C) uint8
        1 where a class occurs in the real patch.
    fill : (3, 1, 1)
        The colour of hidden blocks.
    settings : ConsistencySection
        The rule for the pixels' weights, and which changes of the images are on.
    """
    composites = len(images) - len(labels)
    ignored = masks[composites:] >= logits.shape[1]
    found = (
        sure_masks(logits, labels, ignored, settings.keep)
        if settings.keep
        else pseudo_masks(logits, labels, ignored, settings.threshold)
    )
    taught = Taught(images[composites:], labels, *found)
    if settings.class_mix:
        taught = class_mix(images[:composites], masks[:composites], taught)
    if settings.masked:
        taught = taught._replace(images=hide_blocks(taught.images, settings.masked, settings.block, fill))
    return taught


def pseudo_masks(logits: Tensor, labels: Tensor, ignored: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the most probable class of each pixel among the patch's labels, and the weights of the pixels.

    Probabilities are shared out among the classes of the label, so a patch of one class has this class everywhere, with
    weight 1. The weight of any other patch is the share of its pixels whose probability is above `threshold`.

    Parameters
    ----------
    logits : (N, C, H, W)
        The teacher's pixel logits.
    labels : (N, C) uint8
        1 where a class occurs in the patch. All pixels of a patch without a class are ignored.
    ignored : (N, H, W) bool
        Pixels that do not count, such as glass.
    threshold : float
        The lowest probability of a sure pixel.

    Returns
    -------
    masks : (N, H, W) int64
        Class indices, or C where a pixel does not count.
    weights : (N, H, W) float32
        From 0 to 1.
    """
    allowed = labels > 0
    labelled = allowed.any(1, keepdim=True)
    absent = (labelled & ~allowed)[:, :, None, None]  # of a patch without a class, all pixels are ignored below
    confidence, masks = logits.float().masked_fill(absent, -torch.inf).softmax(1).max(1)
    counts = ~ignored & labelled[:, :, None]
    sure = ((confidence >= threshold) & counts).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)
    return masks.masked_fill(~counts, logits.shape[1]), sure[:, None, None].expand(masks.shape)


def sure_masks(logits: Tensor, labels: Tensor, ignored: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return masks like `pseudo_masks`, but only the surest pixels of each class count, with weight 1.

    Before that, the classes are balanced over the mixed patches of the batch (see `fit_confidence`). So a class that
    the teacher favours does not displace the others.

    Parameters
    ----------
    logits, labels, ignored
        As for `pseudo_masks`.
    share : float
        Share of each class's pixels that count; more than 0, at most 1.

    Returns
    -------
    masks : (N, H, W) int64
        Class indices, or C where a pixel does not count.
    weights : (N, H, W) float32
        1 everywhere.
    """
    classes = logits.shape[1]
    scores = logits.float().log_softmax(1).clamp(min=_LOWEST)
    rule = _rule(scores, labels, ignored, share)
    bias, least = (torch.from_numpy(each).to(logits.device) for each in (rule.bias, rule.least))
    scores = (scores + bias[:, None, None]).masked_fill((labels == 0)[:, :, None, None], -torch.inf)
    best, masks = scores.max(1)
    second = scores.scatter(1, masks[:, None], -torch.inf).amax(1)
    counts = ~ignored & (best - second >= least[masks]) & labels.any(1).bool()[:, None, None]
    return masks.masked_fill(~counts, classes), torch.ones(masks.shape, device=logits.device)


def _rule(scores: Tensor, labels: Tensor, ignored: Tensor, share: float) -> Confidence:
    """Fit a `Confidence` to the mixed patches among (N, C, H, W) log probabilities, at points of a grid."""
    mixed = labels.sum(1) > 1
    rows, columns = (max(1, side // _POINTS) for side in scores.shape[2:])
    counts = ~ignored[mixed, ::rows, ::columns]  # (M, h, w)
    at = scores[mixed, :, ::rows, ::columns].exp().movedim(1, -1)[counts]
    of = labels[mixed][:, None, None].expand(*counts.shape, -1)[counts]
    if not len(at):
        return Confidence(*np.zeros((2, scores.shape[1]), np.float32))
    return fit_confidence(at.cpu().numpy(), of.cpu().numpy(), share)


def class_mix(images: Tensor, masks: Tensor, taught: Taught) -> Taught:
    """Paste half of a composite's classes on each real patch, with their masks and with weight 1 (ClassMix).

    Real patch `n` gets classes of composite `n`; if there are fewer composites, they are used again. Half of an odd
    number of classes is rounded up.

    Parameters
    ----------
    images : (M, 3, H, W)
        The composites.
    masks : (M, H, W) uint8 or int64
        Their class indices; pixels of C and above are not pasted.
    taught : Taught
        The real patches.
    """
    count, classes = taught.labels.shape
    partners = torch.arange(count, device=images.device) % len(images)
    source = masks[partners].clamp(max=classes).long()
    present = (source[:, None] == torch.arange(classes, device=source.device)[:, None, None]).any((2, 3))
    draws = torch.rand(present.shape).to(present.device).masked_fill(~present, 2)
    ranks = draws.argsort(1).argsort(1)
    chosen = present & (ranks < (present.sum(1, keepdim=True) + 1) // 2)
    with_ignored = torch.cat((chosen, torch.zeros_like(chosen[:, :1])), 1)
    pasted = with_ignored.gather(1, source.flatten(1)).view(source.shape)
    return Taught(
        torch.where(pasted[:, None], images[partners], taught.images),
        taught.labels | chosen.to(taught.labels.dtype),
        torch.where(pasted, source, taught.masks),
        torch.where(pasted, 1.0, taught.weights),
    )


def hide_blocks(images: Tensor, share: float, block: int, fill: Tensor) -> Tensor:
    """Return the images with `fill` (3, 1, 1) in each block of `block` pixels with probability `share` (MIC)."""
    height, width = images.shape[-2:]
    hidden = torch.rand(len(images), 1, -(-height // block), -(-width // block)) < share
    hidden = hidden.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :height, :width]
    return torch.where(hidden.to(images.device), fill, images)


def taught_loss(logits: Tensor, taught: Taught) -> Tensor:
    """Return the cross-entropy of (N, C, H, W) `logits` and the teacher's masks, a weighted mean over the pixels.

    The sum is divided by the number of pixels that count, not by the sum of the weights. So unsure patches train less.
    """
    classes = logits.shape[1]
    by_pixel = cross_entropy(logits.float(), taught.masks, ignore_index=classes, reduction="none")
    return (by_pixel * taught.weights).sum() / (taught.masks < classes).sum().clamp(min=1)
