"""One epoch of a filter's training: its images, batches, steps and validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import binary_auroc

from synthpipe.core.errors import FilterError
from synthpipe.core.threads import in_threads
from synthpipe.filtering.inference import from_array, infer
from synthpipe.filtering.network import REAL, FilterNetwork, Images, check_images

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class FilterData:
    """The training and validation images of a filter: (N, H, W, 3) uint8 RGB images of equal size.

    Attributes
    ----------
    synthetic_train, synthetic_val : (N, H, W, 3) uint8
        Composites. No slide may donate to both.
    real_train : callable
        Function that takes the epoch, counted from 0, and returns new views of real patches, (N, H, W, 3) uint8.
    real_val : (N, H, W, 3) uint8
        Views of real patches from the slides that donated to `synthetic_val`.
    """

    synthetic_train: Images
    synthetic_val: Images
    real_train: Callable[[int], Images]
    real_val: Images


def balanced_batches(
    rng: np.random.Generator, synthetic: int, real: int, batch: int
) -> Iterator[tuple[Indices, Indices]]:
    """Yield the batches of an epoch, each as the indices of its composites and the indices of its real views.

    An epoch uses equal numbers of composites and real views. It uses each image of the larger side once, and repeats
    the smaller side in a new order each time. The sizes of batches differ by at most one, and no size is above `batch`.
    This avoids a last batch of one image, which batch normalisation cannot handle.
    """
    count = max(synthetic, real)
    indices = np.concatenate([_cycled(rng, synthetic, count), synthetic + _cycled(rng, real, count)])
    for part in np.array_split(rng.permutation(indices), steps_per_epoch(synthetic, real, batch)):
        yield part[part < synthetic], part[part >= synthetic] - synthetic


def steps_per_epoch(synthetic: int, real: int, batch: int) -> int:
    """Return the number of batches in an epoch."""
    return math.ceil(2 * max(synthetic, real) / batch)


def _cycled(rng: np.random.Generator, size: int, count: int) -> Indices:
    return np.concatenate([rng.permutation(size) for _ in range(math.ceil(count / size))])[:count]


def train_epoch(
    network: FilterNetwork,
    optimizer: torch.optim.Optimizer,
    data: FilterData,
    epoch: int,
    batch: int,
    rng: np.random.Generator,
    on_steps: Callable[[int], None],
) -> tuple[int, float]:
    """Train for one epoch; return the number of real views and the mean loss."""
    synthetic, real = data.synthetic_train, data.real_train(epoch)
    check_alike(real, "real_train", synthetic)
    network.module.train()
    total, seen = torch.zeros((), dtype=torch.float64, device=network.device), 0

    def drawn() -> Iterator[tuple[Indices, Indices, NDArray[np.bool_]]]:
        for composites, views in balanced_batches(rng, len(synthetic), len(real), batch):
            yield composites, views, rng.random((2, len(composites) + len(views))) < 0.5

    def read(each: tuple[Indices, Indices, NDArray[np.bool_]]) -> tuple[Tensor, Tensor]:
        composites, views, flips = each
        images = np.concatenate([synthetic[composites], real[views]])
        _flip(images, *flips)
        labels = torch.full((len(images),), REAL)
        labels[: len(composites)] = 1 - REAL
        return network.to_device(images), labels.to(network.device)

    for images, labels in in_threads(read, drawn(), 1):  # a thread reads the next batches meanwhile
        loss = cross_entropy(network.logits(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(images)
        seen += len(images)
        on_steps(1)
    return len(real), total.item() / seen


def _flip(images: Images, across: NDArray[np.bool_], down: NDArray[np.bool_]) -> None:
    """Flip some images horizontally and some vertically, in place."""
    images[across] = images[across, :, ::-1]
    images[down] = images[down, ::-1]


def validate(network: FilterNetwork, data: FilterData, batch: int) -> tuple[float, float, float, float, float]:
    """Validate the network; return the values of `EpochMetrics` from the field `val_loss` on."""
    losses, accuracies, scores = [], [], []
    for label, images in ((1 - REAL, data.synthetic_val), (REAL, data.real_val)):
        logits = infer(network, from_array(images), len(images), images.shape[1:3], batch).cpu()
        losses.append(cross_entropy(logits, torch.full((len(logits),), label)).item())
        p_real = logits.softmax(1)[:, REAL]
        accuracies.append(((p_real > 0.5) == (label == REAL)).double().mean().item())
        scores.append(p_real)
    truth = torch.cat([torch.zeros(len(scores[0]), dtype=torch.int), torch.ones(len(scores[1]), dtype=torch.int)])
    auroc = binary_auroc(torch.cat(scores), truth).item()
    return sum(losses) / 2, sum(accuracies) / 2, auroc, *best_threshold(*(each.numpy() for each in scores))


def best_threshold(synthetic: NDArray[np.float32], real: NDArray[np.float32]) -> tuple[float, float]:
    """Return the highest balanced accuracy, and the threshold with this accuracy that is nearest to 0.5.

    Both sides have equal weight in the accuracy. The function tries 0, 0.5, 1 and the midpoints between neighbouring
    scores, because no other threshold is better.
    """
    ordered = np.unique(np.concatenate([synthetic, real]).astype(np.float64))
    thresholds = np.append((ordered[1:] + ordered[:-1]) / 2, [0, 0.5, 1])
    below, missed = (
        np.searchsorted(np.sort(scores), thresholds, side="right") / len(scores) for scores in (synthetic, real)
    )
    accuracies = (below + 1 - missed) / 2
    best = np.flatnonzero(accuracies == accuracies.max())
    chosen = best[np.abs(thresholds[best] - 0.5).argmin()]
    return float(accuracies[chosen]), float(thresholds[chosen])


def check_alike(images: Images, name: str, other: Images) -> None:
    """Check that there are images in `name`, of the same size as those of `other`."""
    check_images(images, name)
    if not len(images):
        raise FilterError(
            f"the filter has no images in {name}; add patches with several classes (for real images) and with one "
            "class (for composites) to both sides of the split, or set filter.enabled: false"
        )
    if images.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"{name}: its images have shape {images.shape[1:]}, expected {other.shape[1:]} like synthetic_train"
        )
