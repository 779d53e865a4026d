"""Train the filter (method section 3) to tell composites from real patches with several classes, in equal numbers."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from synthpipe.filtering.reproducible import explained_memory, reproducible
from synthpipe.pretrained.devices import choose_device
from synthpipe.storage.filter_report import EpochMetrics, FilterReport, load_report

__all__ = [
    "EpochMetrics",
    "FilterData",
    "FilterReport",
    "balanced_batches",
    "load_report",
    "steps_per_epoch",
    "train_filter",
]

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


def train_filter(
    settings: FilterSection,
    strategy: Strategy,
    data: FilterData,
    seed: int,
    directory: Location,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    on_note: Callable[[str], None] = lambda note: None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> FilterReport:
    """Train the filter of a strategy; write ``STRATEGY.safetensors`` and then ``STRATEGY.json`` to `directory`.

    The same data, settings and seed give the same weights, bit by bit, on one kind of machine. After each epoch
    ``STRATEGY.training`` stores the state of the training, so an interrupted one resumes and gives the same weights.
    The report is written last: a training with a report is finished.

    Parameters
    ----------
    settings : FilterSection
        The section of the pipeline.
    strategy : str
        The strategy whose composites `data` has.
    data : FilterData
        The images. An epoch uses equal numbers of real views and composites, even if `data` has more of one.
    seed : int
        The seed of the pipeline; it determines the initial weights, the order and the flips.
    directory : Path or UPath
        Created if it does not exist.
    on_epoch : callable, optional
        Called with the metrics of each epoch at its end, and for epochs done before an interruption at the start.
    on_note : callable, optional
        Called with a note if an interrupted training cannot be resumed and starts again, and if pretrained weights
        replace the normalisation of the settings.
    on_steps : callable, optional
        Called with the number of newly finished steps (batches); on resuming, first with those already finished.

    Raises
    ------
    ConfigError
        The weights file of the settings cannot be used.
    FilterError
        ``filter.batch`` is below 2, a set of images is empty, timm has no such network, the loss is not finite, or the
        device has too little memory.
    StoreError
        The files cannot be written.
    ValueError
        An array of `data` is not (N, H, W, 3) uint8, or its images have another size than the others.
    """
    _check(settings, data)
    with _training_setup(settings, np.random.SeedSequence([seed, STRATEGIES.index(strategy)])):
        training = _Training(settings, strategy, data, seed, directory, on_steps)
        training.note_normalisation(on_note)
        training.resume(on_note)
        for metrics in training.epochs:
            on_epoch(metrics)
        while len(training.epochs) < settings.epochs[strategy]:
            on_epoch(training.run_epoch())
    return training.finish()


@contextmanager
def _training_setup(settings: FilterSection, seed: np.random.SeedSequence) -> Iterator[None]:
    """Make the block reproducible; an error for lack of memory names the settings that need less."""
    device, initial = choose_device(), int(seed.generate_state(1, np.uint64)[0])
    work = f"{settings.network} is trained on filter.batch {settings.batch} images per step"
    with (
        reproducible(settings.threads, device, initial),
        explained_memory(device, work, "lower filter.batch, or choose a smaller filter.network"),
    ):
        yield


class _Training:
    """One training, with its current state, on the device of this process."""

    def __init__(
        self,
        settings: FilterSection,
        strategy: Strategy,
        data: FilterData,
        seed: int,
        directory: Location,
        on_steps: Callable[[int], None],
    ) -> None:
        self.started = time.perf_counter()
        self.settings, self.strategy, self.data, self.on_steps = settings, strategy, data, on_steps
        self.directory, self.unfinished = directory, directory / f"{strategy}.training"
        self.seeds = (seed, STRATEGIES.index(strategy))
        self.device = choose_device()
        decisive = settings.model_dump(mode="json", exclude={"weights"})  # the file's SHA-256 is a setting too
        versions = (str(self.device), torch.__version__)
        self.key = digest([decisive, strategy, seed, _digests(data), *versions])
        self.network = initial_network(settings, self.device)
        self.optimizer = torch.optim.Adam(self.network.module.parameters(), lr=settings.learning_rate)
        self.epochs: list[EpochMetrics] = []
        self.best: EpochMetrics | None = None
        self.weights: Mapping[str, Tensor] = {}
        self.real_count, self.seconds_before = 0, 0.0

    def note_normalisation(self, on_note: Callable[[str], None]) -> None:
        """Write a note if the pretrained weights need another normalisation than the settings have."""
        architecture = self.network.architecture
        if (architecture.mean, architecture.std) != (self.settings.mean, self.settings.std):
            on_note(
                f"note: the {self.strategy} filter normalises images by mean {list(architecture.mean)} and std "
                f"{list(architecture.std)}, as the weights of {self.settings.network} expect"
            )

    def resume(self, on_note: Callable[[str], None]) -> None:
        """Load the state of an interrupted training, if there is one."""
        state = _load(self.unfinished, self.key, self.network, self.optimizer, on_note)
        if state:
            self.epochs, self.best, self.weights = list(state.epochs), state.best, state.weights
            self.real_count, self.seconds_before = state.real_train, state.seconds
            self.on_steps(
                len(self.epochs) * steps_per_epoch(len(self.data.synthetic_train), self.real_count, self.batch)
            )

    @property
    def batch(self) -> int:
        return self.settings.batch

    def run_epoch(self) -> EpochMetrics:
        """Train and validate for one epoch, and store the state."""
        network, data, epoch = self.network, self.data, len(self.epochs)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([*self.seeds, epoch])))
        self.real_count, loss = _train_epoch(network, self.optimizer, data, epoch, self.batch, rng, self.on_steps)
        metrics = EpochMetrics(epoch, loss, *_validate(network, data, self.batch))
        _check_finite(metrics, self.settings)
        self.epochs.append(metrics)
        if self.best is None or metrics.val_accuracy > self.best.val_accuracy:
            self.best = metrics
            self.weights = {name: value.clone() for name, value in network.module.state_dict().items()}
        module = network.module.state_dict()
        state = TrainingState(
            tuple(self.epochs),
            self.best,
            module if self.best is metrics else self.weights,
            module,
            self.optimizer.state_dict(),
            _random(self.device),
            self.real_count,
            self._seconds(),
        )
        save_state(self.unfinished, self.key, state)
        return metrics

    def finish(self) -> FilterReport:
        """Write the best weights, then the report, and remove the stored state."""
        assert self.best is not None  # nosec B101 # for mypy: there is at least one epoch
        path = self.directory / f"{self.strategy}.json"
        try:
            path.unlink(missing_ok=True)  # an old report must not vouch for new weights
        except OSError as error:
            raise StoreError(f"{path}: cannot be replaced: {error}") from error
        weights = self.directory / f"{self.strategy}.safetensors"
        report = FilterReport(
            strategy=self.strategy,
            network=self.settings.network,
            epochs=tuple(self.epochs),
            best_epoch=self.best.epoch,
            accuracy=self.best.val_accuracy,
            auroc=self.best.val_auroc,
            synthetic_train=len(self.data.synthetic_train),
            synthetic_val=len(self.data.synthetic_val),
            real_train=self.real_count,
            real_val=len(self.data.real_val),
            model_sha256=save_weights(weights, self.network.architecture, self.weights),
            seconds=self._seconds(),
            device=str(self.device),
        )
        write_atomically(path, report.to_json().encode(), durable=True)
        self.unfinished.unlink(missing_ok=True)
        return report

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started


def _load(
    path: Location,
    belongs_to: str,
    network: FilterNetwork,
    optimizer: torch.optim.Optimizer,
    on_note: Callable[[str], None],
) -> TrainingState | None:
    """Load the state of an interrupted training into network and optimizer; return None if there is no valid state."""
    fresh = _random(network.device)
    try:
        state = load_state(path, belongs_to, network.module, fresh)
        if state:
            _set_random(network.device, state.random)
    except (RuntimeError, ValueError) as error:  # torch raises RuntimeError for an invalid generator state
        _set_random(network.device, fresh)
        on_note(f"note: {path}: is damaged ({printable(error)}), so the training of this filter starts again")
        return None
    if state:
        network.module.load_state_dict(state.module)
        optimizer.load_state_dict({**optimizer.state_dict(), **state.optimizer})
    return state


def _digests(data: FilterData) -> list[str]:
    images = (data.synthetic_train, data.synthetic_val, data.real_val)
    return [hashlib.sha256(np.ascontiguousarray(each).data).hexdigest() for each in images]


def _random(device: torch.device) -> tuple[Tensor, ...]:
    """Return the state of torch's random generators; dropout, for example, uses them."""
    on_gpu = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return torch.get_rng_state(), *on_gpu


def _set_random(device: torch.device, state: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


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


def _train_epoch(
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


def _validate(network: FilterNetwork, data: FilterData, batch: int) -> tuple[float, float, float, float, float]:
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
    return sum(losses) / 2, sum(accuracies) / 2, auroc, *_best_threshold(*(each.numpy() for each in scores))


def _best_threshold(synthetic: NDArray[np.float32], real: NDArray[np.float32]) -> tuple[float, float]:
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


def _check(settings: FilterSection, data: FilterData) -> None:
    if settings.batch < 2:
        raise FilterError(
            f"filter.batch is {settings.batch}, expected at least 2 for batch normalisation; raise filter.batch"
        )
    check_images(data.synthetic_train, "synthetic_train")
    for name in ("synthetic_train", "synthetic_val", "real_val"):
        _check_like(getattr(data, name), name, data.synthetic_train)


def _check_like(images: Images, name: str, other: Images) -> None:
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


def _check_finite(metrics: EpochMetrics, settings: FilterSection) -> None:
    if not (math.isfinite(metrics.train_loss) and math.isfinite(metrics.val_loss)):
        raise FilterError(
            f"the filter's loss in epoch {metrics.epoch} is {metrics.train_loss} in training and {metrics.val_loss} "
            f"in validation, expected finite numbers; lower filter.learning_rate ({settings.learning_rate:g})"
        )
