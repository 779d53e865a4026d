"""Train the filter (method section 3) to tell composites from real patches with several classes, in equal numbers."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from synthpipe.config.fields import digest
from synthpipe.config.pipeline import FilterSection
from synthpipe.core.display import printable
from synthpipe.core.errors import FilterError, StoreError
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.files.locations import Location
from synthpipe.files.writing import write_atomically
from synthpipe.filtering.checkpoint import TrainingState, load_state, save_state
from synthpipe.filtering.epoch import FilterData, check_alike, steps_per_epoch, train_epoch, validate
from synthpipe.filtering.network import FilterNetwork, check_images, initial_network, save_weights
from synthpipe.filtering.reproducible import explained_memory, reproducible
from synthpipe.pretrained.devices import choose_device
from synthpipe.storage.filter_report import EpochMetrics, FilterReport, load_report

__all__ = ["EpochMetrics", "FilterReport", "load_report", "train_filter"]


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
        self.real_count, loss = train_epoch(network, self.optimizer, data, epoch, self.batch, rng, self.on_steps)
        metrics = EpochMetrics(epoch, loss, *validate(network, data, self.batch))
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


def _check(settings: FilterSection, data: FilterData) -> None:
    if settings.batch < 2:
        raise FilterError(
            f"filter.batch is {settings.batch}, expected at least 2 for batch normalisation; raise filter.batch"
        )
    check_images(data.synthetic_train, "synthetic_train")
    for name in ("synthetic_train", "synthetic_val", "real_val"):
        check_alike(getattr(data, name), name, data.synthetic_train)


def _check_finite(metrics: EpochMetrics, settings: FilterSection) -> None:
    if not (math.isfinite(metrics.train_loss) and math.isfinite(metrics.val_loss)):
        raise FilterError(
            f"the filter's loss in epoch {metrics.epoch} is {metrics.train_loss} in training and {metrics.val_loss} "
            f"in validation, expected finite numbers; lower filter.learning_rate ({settings.learning_rate:g})"
        )
