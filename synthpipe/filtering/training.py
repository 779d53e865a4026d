"""Training the filter (method section 3): real patches of several classes against composites, evenly."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import binary_auroc

from synthpipe.config.fields import digest
from synthpipe.config.pipeline import FilterSection
from synthpipe.core.display import printable
from synthpipe.core.errors import FilterError, StoreError
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.core.threads import in_threads
from synthpipe.files.locations import Location
from synthpipe.files.writing import write_atomically
from synthpipe.filtering.checkpoint import TrainingState, load_state, save_state
from synthpipe.filtering.inference import from_array, infer
from synthpipe.filtering.network import (
    REAL,
    FilterNetwork,
    Images,
    check_images,
    initial_network,
    save_weights,
)
from synthpipe.filtering.reproducible import choose_device, explained_memory, reproducible
from synthpipe.storage.filter_report import EpochMetrics, FilterReport, load_report

__all__ = ["EpochMetrics", "FilterData", "FilterReport", "balanced_batches", "load_report", "train_filter"]

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class FilterData:
    """What a filter learns from; all images (N, H, W, 3) uint8 RGB of one height and width.

    Attributes
    ----------
    synthetic_train, synthetic_val : (N, H, W, 3) uint8
        Composites. No slide may have donated to both.
    real_train : callable
        Takes the epoch, counted from 0, and returns views of real patches that are new in each.
    real_val : (N, H, W, 3) uint8
        Views of real patches of the slides of `synthetic_val`.
    """

    synthetic_train: Images
    synthetic_val: Images
    real_train: Callable[[int], Images]
    real_val: Images


def train_filter(
    settings: FilterSection,
    strategy: Strategy,
    data: FilterData,
    seed: int,
    directory: Location,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> FilterReport:
    """Train the filter of a strategy; write ``STRATEGY.safetensors`` and then ``STRATEGY.json`` to `directory`.

    The same data, settings and seed give the same weights, bit by bit, on one kind of machine. After each epoch
    ``STRATEGY.training`` has what the next ones depend on, so an interrupted training goes on to the same end. The
    report is written last: where there is one, the training is finished.

    Parameters
    ----------
    settings : FilterSection
        Of the pipeline.
    strategy : str
        Whose composites `data` holds.
    data : FilterData
        Need not be balanced: each epoch shows as many real views as composites.
    seed : int
        The pipeline's; decides weights at the start, order and flips.
    directory : Path or UPath
        Made if it is not there.
    on_epoch : callable, optional
        Gets the metrics of each epoch as it ends, and at once those of epochs that were done before an interruption.
    on_note : callable, optional
        Gets a note if an interrupted training cannot be resumed and starts again, and one if images are not normalised
        as the settings say.

    Raises
    ------
    ConfigError
        The file of weights that the settings name cannot be used.
    FilterError
        There is nothing to learn from, timm has no such network, the loss is no longer finite, or the device has too
        little memory.
    StoreError
        The files cannot be written.
    ValueError
        An array of `data` has another shape or type than the rest.
    """
    started = time.perf_counter()
    _check(settings, data)
    device, code = choose_device(), STRATEGIES.index(strategy)
    unfinished = directory / f"{strategy}.training"
    decisive = settings.model_dump(mode="json", exclude={"weights"})  # their digest counts
    belongs_to = digest([decisive, strategy, seed, _digests(data), str(device), torch.__version__])
    initial = int(np.random.SeedSequence([seed, code]).generate_state(1, np.uint64)[0])
    doing = f"{settings.network} is trained on filter.batch {settings.batch} images a step"
    with (
        reproducible(settings.threads, device, initial),
        explained_memory(device, doing, "lower filter.batch, or choose a smaller filter.network"),
    ):
        network = initial_network(settings, device)
        architecture = network.architecture
        if on_note and (architecture.mean, architecture.std) != (settings.mean, settings.std):
            on_note(
                f"note: the {strategy} filter's images are normalised as the weights of {settings.network} expect, by "
                f"mean {list(architecture.mean)} and std {list(architecture.std)}"
            )
        optimizer = torch.optim.Adam(network.module.parameters(), lr=settings.learning_rate)
        state = _resume(unfinished, belongs_to, network, optimizer, on_note)
        epochs = list(state.epochs) if state else []
        best = state.best if state else None
        weights: Mapping[str, Tensor] = state.weights if state else {}
        before = state.seconds if state else 0.0
        real_count = state.real_train if state else 0
        if on_epoch:
            for metrics in epochs:
                on_epoch(metrics)
        for epoch in range(len(epochs), settings.epochs[strategy]):
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, code, epoch])))
            real_count, train_loss = _train_epoch(network, optimizer, data, epoch, settings.batch, rng)
            metrics = EpochMetrics(epoch, train_loss, *_validate(network, data, settings.batch))
            _check_finite(metrics, settings)
            epochs.append(metrics)
            if best is None or metrics.val_accuracy > best.val_accuracy:
                best, weights = metrics, {name: value.clone() for name, value in network.module.state_dict().items()}
            seconds = before + time.perf_counter() - started
            module, adam = network.module.state_dict(), optimizer.state_dict()
            state = TrainingState(
                tuple(epochs),
                best,
                module if best is metrics else weights,
                module,
                adam,
                _random(device),
                real_count,
                seconds,
            )
            save_state(unfinished, belongs_to, state)
            if on_epoch:
                on_epoch(metrics)
    assert best is not None  # nosec B101 # for mypy: there is at least one epoch
    path = directory / f"{strategy}.json"
    try:
        path.unlink(missing_ok=True)  # an old report must not vouch for new weights
    except OSError as error:
        raise StoreError(f"{path}: cannot be replaced: {error}") from error
    sha256 = save_weights(directory / f"{strategy}.safetensors", architecture, weights)
    report = FilterReport(
        strategy=strategy,
        network=settings.network,
        epochs=tuple(epochs),
        best_epoch=best.epoch,
        accuracy=best.val_accuracy,
        auroc=best.val_auroc,
        synthetic_train=len(data.synthetic_train),
        synthetic_val=len(data.synthetic_val),
        real_train=real_count,
        real_val=len(data.real_val),
        model_sha256=sha256,
        seconds=before + time.perf_counter() - started,
        device=str(device),
    )
    write_atomically(path, report.to_json().encode(), durable=True)
    unfinished.unlink(missing_ok=True)
    return report


def _resume(
    path: Location,
    belongs_to: str,
    network: FilterNetwork,
    optimizer: torch.optim.Optimizer,
    on_note: Callable[[str], None] | None,
) -> TrainingState | None:
    """Bring all to where an interrupted training stopped; None where there is none that can be resumed."""
    fresh = _random(network.device)
    try:
        state = load_state(path, belongs_to, network.module, fresh)
        if state:
            _set_random(network.device, state.random)
    except (RuntimeError, ValueError) as error:  # RuntimeError: torch's, of a generator's state
        _set_random(network.device, fresh)
        if on_note:
            on_note(f"note: {path}: is damaged ({printable(error)}), so this training of a filter began anew")
        return None
    if state:
        network.module.load_state_dict(state.module)
        optimizer.load_state_dict({**optimizer.state_dict(), **state.optimizer})
    return state


def _digests(data: FilterData) -> list[str]:
    images = (data.synthetic_train, data.synthetic_val, data.real_val)
    return [hashlib.sha256(np.ascontiguousarray(each).data).hexdigest() for each in images]


def _random(device: torch.device) -> tuple[Tensor, ...]:
    """Return the state of torch's generators, which dropout hangs on."""
    on_gpu = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return torch.get_rng_state(), *on_gpu


def _set_random(device: torch.device, state: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def balanced_batches(
    rng: np.random.Generator, synthetic: int, real: int, batch: int
) -> Iterator[tuple[Indices, Indices]]:
    """Yield the batches of an epoch: the indices of its composites, and those of its real views.

    An epoch shows as many of the one as of the other. All of the larger side are shown once; the smaller side is
    repeated, in a new order each time. Batches are as even as can be, and none is larger than `batch`: a last batch
    of one image would give batch normalisation nothing to normalise.
    """
    count = max(synthetic, real)
    places = np.concatenate([_cycled(rng, synthetic, count), synthetic + _cycled(rng, real, count)])
    for part in np.array_split(rng.permutation(places), math.ceil(len(places) / batch)):
        yield part[part < synthetic], part[part >= synthetic] - synthetic


def _cycled(rng: np.random.Generator, size: int, count: int) -> Indices:
    return np.concatenate([rng.permutation(size) for _ in range(math.ceil(count / size))])[:count]


def _train_epoch(
    network: FilterNetwork,
    optimizer: torch.optim.Optimizer,
    data: FilterData,
    epoch: int,
    batch: int,
    rng: np.random.Generator,
) -> tuple[int, float]:
    """Train one epoch; return the number of real views and the mean loss."""
    synthetic, real = data.synthetic_train, data.real_train(epoch)
    _check_like(real, "real_train", synthetic)
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

    for images, labels in in_threads(read, drawn(), 1):  # the next batches are read meanwhile
        loss = cross_entropy(network.logits(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(images)
        seen += len(images)
    return len(real), total.item() / seen


def _flip(images: Images, across: NDArray[np.bool_], down: NDArray[np.bool_]) -> None:
    """Flip some images horizontally and some vertically, in place."""
    images[across] = images[across, :, ::-1]
    images[down] = images[down, ::-1]


def _validate(network: FilterNetwork, data: FilterData, batch: int) -> tuple[float, float, float, float, float]:
    """Return the fields of `EpochMetrics` from `val_loss` on."""
    losses, accuracies, scores = [], [], []
    for label, images in ((1 - REAL, data.synthetic_val), (REAL, data.real_val)):
        logits = infer(network, from_array(images), len(images), images.shape[1:3], batch).cpu()
        losses.append(cross_entropy(logits, torch.full((len(logits),), label)).item())
        p_real = logits.softmax(1)[:, REAL]
        accuracies.append(((p_real > 0.5) == (label == REAL)).double().mean().item())
        scores.append(p_real)
    truth = torch.cat([torch.zeros(len(scores[0]), dtype=torch.int), torch.ones(len(scores[1]), dtype=torch.int)])
    auroc = binary_auroc(torch.cat(scores), truth).item()
    return sum(losses) / 2, sum(accuracies) / 2, auroc, *_best_threshold(*(each.numpy() for each in scores))


def _best_threshold(synthetic: NDArray[np.float32], real: NDArray[np.float32]) -> tuple[float, float]:
    """Return the highest accuracy, with equal weight on both sides, and the threshold nearest to 0.5 that has it.

    It tries 0, 0.5, 1 and the middles between neighbouring scores: no other threshold is better.
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


def _check(settings: FilterSection, data: FilterData) -> None:
    if settings.batch < 2:
        raise FilterError(f"filter.batch is {settings.batch}, expected at least 2: batches are normalised; raise it")
    check_images(data.synthetic_train, "synthetic_train")
    for name in ("synthetic_train", "synthetic_val", "real_val"):
        _check_like(getattr(data, name), name, data.synthetic_train)


def _check_like(images: Images, name: str, other: Images) -> None:
    check_images(images, name)
    if not len(images):
        raise FilterError(
            f"the filter has no images in {name}; add patches with more than one class (real) and single-class ones "
            "(synthetic) on both sides of the split, or set filter.enabled: false"
        )
    if images.shape[1:] != other.shape[1:]:
        raise ValueError(f"{name}: its images are {images.shape[1:]}, those of synthetic_train {other.shape[1:]}")


def _check_finite(metrics: EpochMetrics, settings: FilterSection) -> None:
    if not (math.isfinite(metrics.train_loss) and math.isfinite(metrics.val_loss)):
        raise FilterError(
            f"the filter's loss in epoch {metrics.epoch} is {metrics.train_loss} in training and {metrics.val_loss} "
            f"in validation, expected finite numbers; lower filter.learning_rate ({settings.learning_rate:g})"
        )
