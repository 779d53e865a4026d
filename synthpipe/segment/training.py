"""Training a segmentation network on composites and real patches (method section 4), on one device or several.

A training is a row of steps. What a step sees, and every random number in it, follows from the seed and the step's
number, so one that was stopped anywhere goes on from its last checkpoint as if it had never been stopped.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.fabric import Fabric
from torch import Tensor

from synthpipe.config.fields import differences
from synthpipe.core.errors import ConfigError, StaleRunError, StoreError
from synthpipe.core.progress import Reporter, Silent
from synthpipe.core.records import Image, Mask
from synthpipe.curated import Description
from synthpipe.files.folders import is_marked, resolved, sweep
from synthpipe.files.lock import held
from synthpipe.files.writing import write_atomically
from synthpipe.pretrained.weights import Weights
from synthpipe.segment.augmentation import apply_views
from synthpipe.segment.batches import Batch, Steps, batches, steps_per_epoch
from synthpipe.segment.board import EXAMPLES, triple
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.devices import (
    Hardware,
    deterministic,
    device_name,
    has_bfloat16,
    on_rank_zero,
    open_fabric,
    peak_device_memory,
)
from synthpipe.segment.journal import Journal, Rows
from synthpipe.segment.losses import Losses, losses
from synthpipe.segment.masks import MaskedImage
from synthpipe.segment.metrics import SegmentationMetrics, confusion_matrix, measure
from synthpipe.segment.network import (
    SegmentationNetwork,
    check_canvas,
    pretrained_network,
    read_file,
    with_own_normalisation,
)
from synthpipe.segment.outputs import TRAINING
from synthpipe.segment.references import constant
from synthpipe.segment.settings import TrainSettings, WindowSection
from synthpipe.segment.sliding_window import predict_mask
from synthpipe.segment.sources import Source

Pictures = Mapping[str, Sequence[Image]]
"""Pictures of an epoch's end, by what they show."""

_WEIGHTS = "encoder weights"  # among the sources: a file's digest
_ROWS_AT_ONCE = 50  # steps whose losses are fetched from the device at once


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a network is trained on, and chosen by.

    Attributes
    ----------
    description : Description
        Classes, canvas and layout.
    composites, real : Source or None
        Images with masks; patches with labels. One of them must be there.
    validation : tuple of MaskedImage
        By whose mIoU the best weights are chosen.
    sources : mapping
        Digests of all of it, by name.
    """

    description: Description
    composites: Source | None
    real: Source | None
    validation: tuple[MaskedImage, ...]
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended.

    Attributes
    ----------
    finished : bool
        False where it was asked to stop before the last step.
    step, steps : int
        Steps done, of how many.
    best_miou : float
        Of validation; NaN before the first epoch's end.
    best_epoch : int
        Counted from 0; -1 before the first epoch's end.
    first_process : bool
        False in the processes of all devices but the first: they have nothing to tell.
    """

    finished: bool
    step: int
    steps: int
    best_miou: float
    best_epoch: int
    first_process: bool


def train(
    settings: TrainSettings,
    data: TrainingData,
    directory: Path,
    hardware: Hardware,
    reporter: Reporter,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a network, or go on training it, in `directory`.

    There will be ``settings.yaml``, ``last.ckpt`` (goes on from there), ``best.ckpt`` (of the highest validation mIoU),
    ``steps.csv``, ``epochs.csv``, ``tensorboard/`` and, at the end, ``report.json``.

    Parameters
    ----------
    settings : TrainSettings
        Every constant.
    data : TrainingData
        What it is trained on.
    directory : Path
        New, or of this very training.
    hardware : Hardware
        Where.
    reporter : Reporter
        Told of progress.
    should_stop : callable, optional
        Asked after every step; when it says so, a checkpoint is written and training ends.

    Raises
    ------
    ConfigError
        The network cannot be made, or cannot take such images, or the loss is no number any more.
    StaleRunError
        The directory belongs to another training; the message lists what differs. Or another process trains into it.
    """
    directory = resolved(directory)
    fabric = open_fabric(hardware, settings.precision == "mixed")
    with _held(fabric, directory), deterministic(fabric.device):
        run = _Run(fabric, settings, data, directory, reporter if fabric.is_global_zero else Silent())
        return run.train(hardware.readers, should_stop)


@contextmanager
def _held(fabric: Fabric, directory: Path) -> Iterator[None]:
    """Hold the folder while the block trains into it."""
    with ExitStack() as stack:

        def hold() -> None:
            stack.enter_context(held(directory, TRAINING))
            if not is_marked(directory, TRAINING):
                stack.push(partial(_discard, directory))
            sweep(directory, deep=False)

        on_rank_zero(fabric, hold)
        yield


def _discard(directory: Path, error: type[BaseException] | None, *_: object) -> None:
    """Remove what a training has written that fails before its first checkpoint: it could not be resumed."""
    if error and not is_marked(directory, TRAINING):
        for name in ("settings.yaml", "steps.csv", "epochs.csv"):
            (directory / name).unlink(missing_ok=True)
        shutil.rmtree(directory / "tensorboard", ignore_errors=True)


class _Run:
    """One process's part in a training."""

    def __init__(
        self, fabric: Fabric, settings: TrainSettings, data: TrainingData, directory: Path, reporter: Reporter
    ) -> None:
        settings = settings.model_copy(update={"network": with_own_normalisation(settings.network)})
        self.fabric, self.settings, self.data = fabric, settings, data
        self.directory, self.reporter = directory, reporter
        sources = [source for source in (data.composites, data.real) if source is not None]
        self.epoch_steps = steps_per_epoch(settings, sources)
        self.total = settings.epochs * self.epoch_steps
        self.ignore = data.description.taxonomy.background
        self.windows = settings.validation or WindowSection(size=data.description.size, stride=data.description.size)
        self.last, self.best = directory / "last.ckpt", directory / "best.ckpt"
        for name, source in (("composites", data.composites), ("real", data.real)):
            count = getattr(settings, name)
            if source is not None and 0 < count < fabric.world_size:
                raise ConfigError(
                    f"{name}: {count} a step cannot be shared by {fabric.world_size} devices; give each one at least"
                )
        weights = settings.loss
        if not (weights.labels or (data.composites and weights.dice) or (data.real and weights.consistency)):
            raise ConfigError(
                f"loss: dice {weights.dice:g} (of composites), labels {weights.labels:g}, consistency "
                f"{weights.consistency:g} (of real patches) leave nothing to learn from the images that there are; "
                "give one of them a weight above 0"
            )
        # of the CPUs: to ask whether any process was told to stop, no device has to be waited for
        self.processes = torch.distributed.new_group(backend="gloo") if fabric.world_size > 1 else None
        self.step = 0
        self.progress: dict[str, Any] = {"best_miou": math.nan, "best_epoch": -1}
        self.examples: list[tuple[Image, Mask]] | None = None  # composites that are shown
        self.constant: dict[str, Any] | None = None  # of the validation images
        self.encoder_weights = settings.network.weights or "random"
        initial = read_file(settings.network)
        self.sources = dict(data.sources) | ({_WEIGHTS: initial.sha256} if initial else {})
        self._begin(initial)

    def _begin(self, initial: Weights | None) -> None:
        """Make the network and its optimizer, as they were where training stopped; else with a file's weights."""
        fabric, settings = self.fabric, self.settings
        kept = Checkpoint.load(self.last) if self.last.exists() else None
        torch.manual_seed(_seed(settings.seed, 0, 0))
        if kept:
            self._check(kept)
            network = kept.network(torch.device("cpu"))
        else:
            network, why = pretrained_network(settings.network, len(self.data.description.taxonomy), initial)
            if why:
                self.encoder_weights = "random"
                self.reporter.note(f"note: {why}")
        if settings.precision == "mixed" and fabric.device.type == "cuda" and not has_bfloat16(fabric.device):
            self.reporter.note(f"note: {device_name(fabric.device)} has no bfloat16 of its own; it trains in float32")
        check_network(network, self.data, settings, fabric.world_size)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.optimizer.learning_rate, weight_decay=settings.optimizer.weight_decay
        )
        self.network: Any
        self.optimizer: Any
        self.network, self.optimizer = fabric.setup(network, optimizer)
        if kept and kept.optimizer:
            # to where the weights are now; the optimizer's settings are those of the training's
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), **kept.optimizer})
            self.step = kept.progress["step"]
            self.progress = {key: kept.progress[key] for key in ("best_miou", "best_epoch")}
            self.encoder_weights = kept.progress.get("encoder_weights", self.encoder_weights)
        self.module: SegmentationNetwork = network
        self.journal: Journal | None = None  # of the first process
        on_rank_zero(fabric, self._open_journal)

    def _open_journal(self) -> None:
        sweep(self.directory, deep=False)
        self.journal = Journal(self.directory, self.step, self.step // self.epoch_steps, self._settings_text())

    def _settings_text(self) -> str:
        text: str = yaml.safe_dump(self.settings.dump(), sort_keys=False)
        return text

    def _check(self, kept: Checkpoint) -> None:
        """Refuse to resume what is another training, or cannot be resumed."""
        old, new = kept.settings.dump(), self.settings.dump()
        if new["optimizer"]["schedule"] == "constant" and new["epochs"] >= old["epochs"]:
            old["epochs"] = new["epochs"]  # longer, and else the same
        old["save_steps"] = new["save_steps"]  # changes no number
        if _WEIGHTS in kept.sources and _WEIGHTS in self.sources:
            old["network"]["weights"] = new["network"]["weights"]  # wherever the file lies: its digest counts
        found = list(differences(old, new))
        found += differences({"data": dict(kept.sources)}, {"data": self.sources})
        found += differences(kept.description.to_json(), self.data.description.to_json())
        if found:
            raise StaleRunError(
                "\n  ".join([f"{self.directory}: is another training; train into another folder, or undo:", *found])
            )
        if not kept.optimizer or not 0 < kept.progress["step"] <= self.total:
            raise StoreError(
                f"{self.last}: cannot be resumed: its step is {kept.progress['step']}, and it has "
                f"{'the' if kept.optimizer else 'no'} state of the optimizer; expected a step from 1 to {self.total} "
                "and that state; use a copy of the file that is sound, or train into another folder"
            )

    def train(self, workers: int, should_stop: Callable[[], bool]) -> Outcome:
        """Take the steps that are left, and tell how it ended."""
        with ExitStack() as stack:
            if self.journal:
                stack.callback(self.journal.close)  # its thread writes: it ends before the folder is removed
            if self.step < self.total:
                on_rank_zero(
                    self.fabric, lambda: write_atomically(self.directory / "settings.yaml", self._settings_text())
                )
                self._take_steps(workers, should_stop)
        finished = self.step == self.total
        return Outcome(finished, self.step, self.total, **self.progress, first_process=self.fabric.is_global_zero)

    def _take_steps(self, workers: int, should_stop: Callable[[], bool]) -> None:
        rank, world = self.fabric.global_rank, self.fabric.world_size
        steps = Steps(self.settings, self.data.composites, self.data.real, rank, world)
        prepared = batches(steps, self.step, self.total, workers, pin_memory=self.fabric.device.type == "cuda")
        rows = Rows(self.fabric, self.journal)
        if self.fabric.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.fabric.device)  # another training of this process had its own
        started, first = time.perf_counter(), self.step
        with closing(prepared), self.reporter.stage("training", self.total - self.step) as advance:
            self.network.train()
            while self.step < self.total:
                begun = time.perf_counter()
                batch = next(prepared)
                waited = time.perf_counter() - begun
                rate = learning_rate(self.settings, self.step, self.total)
                terms, total = self._take_step(batch, rate)
                rows.add(self.step, self.step // self.epoch_steps, rate, terms, total, begun, waited)
                self.step += 1
                advance(1)
                ends = self.step % self.epoch_steps == 0
                stopping = self._any(should_stop())
                if ends or stopping or len(rows) >= _ROWS_AT_ONCE:
                    self._check_finite(rows.flush())
                if ends:
                    self._end_epoch()
                if ends or stopping or self.step % (self.settings.save_steps or self.total) == 0:
                    self._check_finite(rows.flush())
                    took = (time.perf_counter() - started, self.step - first) if self.step == self.total else None
                    on_rank_zero(self.fabric, partial(self._save, took))
                if stopping:
                    break

    def _take_step(self, batch: Batch, rate: float) -> tuple[Losses, Tensor]:
        torch.manual_seed(_seed(self.settings.seed, 1 + self.step, self.fabric.global_rank))
        device = self.fabric.device
        images, masks, labels, views = (
            batch[name].to(device, non_blocking=True) for name in ("images", "masks", "labels", "views")
        )
        images, masks = apply_views(images, masks, views, self.ignore)
        terms = losses(
            self.network(images.contiguous(memory_format=torch.channels_last)),
            masks,
            labels,
            batch["composites"],
            self.ignore,
            self.settings.loss,
            self.settings.consistency,
        )
        total = terms.total(self.settings.loss)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        self.fabric.backward(total)
        self.optimizer.step()
        return terms, total.detach()

    def _end_epoch(self) -> None:
        confusion, pictures = self._validate()
        found = measure(confusion)
        self.constant = constant(confusion, self.data.description.taxonomy)
        epoch = self.step // self.epoch_steps - 1
        better = not found.miou <= self.progress["best_miou"]  # also where there was none yet
        if better:
            self.progress = {"best_miou": found.miou, "best_epoch": epoch}
        on_rank_zero(self.fabric, lambda: self._tell_epoch(epoch, found, better, pictures))

    def _tell_epoch(self, epoch: int, found: SegmentationMetrics, better: bool, pictures: Pictures) -> None:
        """Tell what an epoch came to, and keep its weights if they are the best so far."""
        assert self.journal  # nosec B101 # for mypy: the first process has one
        names = self.data.description.taxonomy.names
        by_class = {f"iou/{name}": value for name, value in zip(names, found.iou, strict=True)}
        steps = [row for row in self.journal.steps.rows if row["epoch"] == epoch]
        means = {f"train_{name}": float(np.mean([row[name] for row in steps])) for name in ("loss", *Losses._fields)}
        metrics = {"val_miou": found.miou, "val_fwiou": found.fwiou, **by_class}
        self.journal.add_epoch({"epoch": epoch, "step": self.step, **means, **metrics}, pictures)
        best = ", the best so far" if better else ""
        self.reporter.note(f"epoch {epoch}: loss {means['train_loss']:.4f}, validation mIoU {found.miou:.4f}{best}")
        if better:
            self._checkpoint(None).save(self.best)

    def _validate(self) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Pictures]:
        """Return the confusion matrix of the validation images, and in the first process pictures of some.

        Each device predicts its share of the images.
        """
        taxonomy = self.data.description.taxonomy
        confusion = np.zeros((len(taxonomy), len(taxonomy)), np.int64)
        if self.fabric.world_size > 1:  # running means of batches differ by device: those of the first are saved
            for buffer in self.module.buffers():
                torch.distributed.broadcast(buffer, 0)
        self.module.eval()
        with self.fabric.autocast():
            shown: list[Image] = []
            for source in self.data.validation[self.fabric.global_rank :: self.fabric.world_size]:
                image, truth = source.read(taxonomy)
                predicted = self._predict(image, self.windows)
                if self.journal and self.journal.board.on and len(shown) < EXAMPLES:
                    shown.append(triple(image, truth, predicted, taxonomy))
                confusion += confusion_matrix(truth, predicted, len(taxonomy))
            pictures = {"validation: image, truth, prediction": shown, **self._composites_seen()}
        self.network.train()
        if self.fabric.world_size == 1:
            return confusion, pictures
        summed = self.fabric.all_reduce(torch.from_numpy(confusion).to(self.fabric.device), reduce_op="sum")
        return np.asarray(summed.cpu()), pictures  # type: ignore[union-attr]

    def _predict(self, image: Image, windows: WindowSection) -> Mask:
        by_cam, classes = self.data.composites is None, len(self.data.description.taxonomy)
        return predict_mask(lambda part: self.module.segment(part, by_cam), image, windows, classes, self.fabric.device)

    def _composites_seen(self) -> Pictures:
        """Return pictures of the same few composites after each epoch, in the first process."""
        source, size = self.data.composites, self.data.description.size
        if source is None or not (self.journal and self.journal.board.on):
            return {}
        if self.examples is None:
            places = np.linspace(0, len(source) - 1, min(EXAMPLES, len(source))).astype(int).tolist()
            images, masks, _ = source.read(places, [np.random.default_rng(place) for place in places])
            self.examples = list(zip(images, masks, strict=True))
        whole = WindowSection(size=size, stride=size)
        pairs = ((image, mask, self._predict(image, whole)) for image, mask in self.examples)
        pictures = [triple(*each, self.data.description.taxonomy) for each in pairs]
        return {"composites: image, mask, prediction": pictures}

    def _save(self, took: tuple[float, int] | None) -> None:
        """Write where training is, and before its last step's what it came to: it `took` so many seconds and steps."""
        if took:
            self._report(*took)
        self._checkpoint(self.optimizer.state_dict()).save(self.last)

    def _checkpoint(self, optimizer: Mapping[str, Any] | None) -> Checkpoint:
        return Checkpoint(
            self.settings,
            self.data.description,
            self.sources,
            self.data.composites is None,
            {"step": self.step, **self.progress, "encoder_weights": self.encoder_weights},
            self.module.state_dict(),
            optimizer,
        )

    def _any(self, stop: bool) -> bool:
        """Whether any device's process was asked to stop."""
        if self.processes is None:
            return stop
        asked = torch.tensor(int(stop))
        torch.distributed.all_reduce(asked, group=self.processes)  # type: ignore[arg-type]
        return bool(asked)

    def _check_finite(self, rows: list[dict[str, float]]) -> None:
        for row in rows:
            if not math.isfinite(row["loss"]):
                raise ConfigError(
                    f"the loss of step {row['step']} is {row['loss']}, expected a finite number; lower "
                    f"optimizer.learning_rate ({self.settings.optimizer.learning_rate:g}), or set precision: '32', and "
                    "train into another folder"
                )

    def _report(self, seconds: float, steps: int) -> None:
        """Write what the training came to, and what its last `steps` took, which ran in one piece."""
        assert self.journal  # nosec B101 # for mypy: the first process has one
        rows = self.journal.steps.rows[len(self.journal.steps.rows) - steps :]
        rows = rows[_ROWS_AT_ONCE:] or rows[1:]  # once everything is warm
        images = self.settings.composites * (self.data.composites is not None)
        images += self.settings.real * (self.data.real is not None)
        busy = sum(row["seconds"] for row in rows)
        report = {
            "steps": self.total,
            "epochs": self.settings.epochs,
            "parameters": sum(weights.numel() for weights in self.module.parameters()),
            "device": device_name(self.fabric.device),
            "devices": self.fabric.world_size,
            "precision": str(self.fabric._precision.precision),
            "encoder_weights": self.encoder_weights,
            **self.progress,
            "constant": self.constant,
            "seconds": seconds,
            "images_a_second": images * len(rows) / busy if busy else None,
            "waiting_share": sum(row["waiting"] for row in rows) / busy if busy else None,
            "peak_device_memory": peak_device_memory(self.fabric.device),
        }
        path = self.directory / "report.json"
        write_atomically(path, json.dumps(report, indent=1) + "\n")


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Return the learning rate of a step: it rises over the warm-up, then follows the schedule to the last step."""
    chosen = settings.optimizer
    rate = chosen.learning_rate
    if step < chosen.warmup_steps:
        return rate * (step + 1) / chosen.warmup_steps
    done = (step - chosen.warmup_steps) / max(1, steps - chosen.warmup_steps)
    if chosen.schedule == "cosine":
        return rate * (1 + math.cos(math.pi * done)) / 2
    if chosen.schedule == "poly":
        return float(rate * (1 - done) ** 0.9)
    return rate


def _seed(seed: int, word: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, word, rank]).generate_state(1, np.uint64)[0])


def check_network(network: SegmentationNetwork, data: TrainingData, settings: TrainSettings, devices: int) -> None:
    """Refuse a network that cannot take a device's share of a step before anything is trained; it is left as it was.

    Raises
    ------
    ConfigError
        The images, or so few of them, are nothing for it.
    """
    check_canvas(data.description.size)
    height, width = data.description.size
    counts = ((data.composites, settings.composites), (data.real, settings.real))
    share = sum(count // devices for source, count in counts if source is not None)
    state, training = {name: values.clone() for name, values in network.state_dict().items()}, network.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.eval()(torch.zeros((1, 3, height, width)))
            # more are no other case, and may take long
            network.train()(torch.zeros((min(share, 2), 3, height, width)))
    except Exception as error:  # each network has its own way to fail
        raise ConfigError(
            f"network: {settings.network.architecture} with {settings.network.encoder} cannot take {share} images of "
            f"{height} x {width} a step and device: {' '.join(str(error).split())}; choose another network, a larger "
            "canvas, or more composites and real patches a step"
        ) from error
    network.load_state_dict(state)  # training moved its running means
    network.train(training)
