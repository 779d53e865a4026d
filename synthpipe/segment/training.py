"""Train a segmentation network on composites and real patches (method section 4), on one or more devices.

A training is a sequence of steps. The seed and the step's number determine the batch and all random numbers of a step.
So an interrupted training resumes from its last checkpoint with the same results as without the interruption.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.fabric import Fabric
from torch import Tensor

from synthpipe.core.progress import Reporter, Silent
from synthpipe.files.folders import is_marked, resolved, sweep
from synthpipe.files.lock import held
from synthpipe.files.writing import write_atomically
from synthpipe.pretrained.weights import Weights
from synthpipe.segment.augmentation import apply_views
from synthpipe.segment.averaging import WeightAverage
from synthpipe.segment.batches import Batch, Steps, batches, steps_per_epoch
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.devices import (
    Hardware,
    deterministic,
    device_name,
    has_bfloat16,
    on_rank_zero,
    open_fabric,
)
from synthpipe.segment.journal import Journal, Rows
from synthpipe.segment.losses import Losses, losses
from synthpipe.segment.mean_teacher import MeanTeacher
from synthpipe.segment.metrics import SegmentationMetrics, measure
from synthpipe.segment.network import (
    SegmentationNetwork,
    pretrained_network,
    read_file,
    with_own_normalisation,
)
from synthpipe.segment.outputs import TRAINING
from synthpipe.segment.references import constant
from synthpipe.segment.settings import TrainSettings, learning_rate
from synthpipe.segment.training_checks import (
    ENCODER_WEIGHTS,
    check_data,
    check_finite,
    check_network,
    check_resumable,
    taught_on,
)
from synthpipe.segment.training_records import Outcome, TrainingData
from synthpipe.segment.training_report import write_report
from synthpipe.segment.validation import Pictures, Validation

_ROWS_AT_ONCE = 50  # largest number of steps whose losses are fetched from the device together


def train(
    settings: TrainSettings,
    data: TrainingData,
    directory: Path,
    hardware: Hardware,
    reporter: Reporter,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a network in `directory`, or resume the training that is there.

    Writes ``settings.yaml``, ``last.ckpt`` (to resume from), ``best.ckpt`` (the highest validation mIoU),
    ``steps.csv``, ``epochs.csv``, ``tensorboard/`` and, at the end, ``report.json``.

    Parameters
    ----------
    settings : TrainSettings
        All settings of the training.
    data : TrainingData
        The images to train on and to validate with.
    directory : Path
        A new or empty folder, or the folder of this training.
    hardware : Hardware
        The devices, and the number of reading processes.
    reporter : Reporter
        Reports the progress.
    should_stop : callable, optional
        Called after each step; if it returns True, training writes a checkpoint and ends.

    Raises
    ------
    ConfigError
        The network cannot be made or cannot take these images, or the loss is not finite.
    StaleRunError
        The folder has another training (the message lists the differences), or another process is training in it.
    """
    directory = resolved(directory)
    fabric = open_fabric(hardware, settings.precision == "mixed")
    with _held(fabric, directory), deterministic(fabric.device):
        run = _Run(fabric, settings, data, directory, reporter if fabric.is_global_zero else Silent())
        return run.train(hardware.readers, should_stop)


@contextmanager
def _held(fabric: Fabric, directory: Path) -> Iterator[None]:
    """Lock the folder for the duration of the block, and remove useless files if the training fails early."""
    with ExitStack() as stack:

        def hold() -> None:
            stack.enter_context(held(directory, TRAINING))
            if not is_marked(directory, TRAINING):
                stack.push(partial(_discard, directory))
            sweep(directory, deep=False)

        on_rank_zero(fabric, hold)
        yield


def _discard(directory: Path, error: type[BaseException] | None, *_: object) -> None:
    """Remove the files of a training that fails before its first checkpoint, because it cannot be resumed."""
    if error and not is_marked(directory, TRAINING):
        for name in ("settings.yaml", "steps.csv", "epochs.csv"):
            (directory / name).unlink(missing_ok=True)
        shutil.rmtree(directory / "tensorboard", ignore_errors=True)


class _Run:
    """The work of one process in a training."""

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
        self.last, self.best = directory / "last.ckpt", directory / "best.ckpt"
        check_data(data, settings, fabric.world_size)
        # a group on the CPUs: asking whether any process has to stop does not wait for the devices
        self.processes = torch.distributed.new_group(backend="gloo") if fabric.world_size > 1 else None
        self.step = 0
        self.progress: dict[str, Any] = {"best_miou": math.nan, "best_epoch": -1}
        self.constant: dict[str, Any] | None = None  # best constant prediction of the validation images
        self.encoder_weights = settings.network.weights or "random"
        initial = read_file(settings.network)
        self.sources = dict(data.sources) | ({ENCODER_WEIGHTS: initial.sha256} if initial else {})
        self._begin(initial)

    def _begin(self, initial: Weights | None) -> None:
        """Restore network and optimizer from the last checkpoint, or make new ones, with `initial` weights if given."""
        fabric, settings = self.fabric, self.settings
        kept = Checkpoint.load(self.last) if self.last.exists() else None
        torch.manual_seed(_seed(settings.seed, 0, 0))
        if kept:
            check_resumable(kept, self.last, settings, self.data, self.sources, self.total)
            network = kept.trained_network()
        else:
            network, why = pretrained_network(settings.network, len(self.data.description.taxonomy), initial)
            if why:
                self.encoder_weights = "random"
                self.reporter.note(f"note: {why}")
        if settings.precision == "mixed" and fabric.device.type == "cuda" and not has_bfloat16(fabric.device):
            name = device_name(fabric.device)
            self.reporter.note(f"note: {name} does not support bfloat16, so the network trains in float32")
        check_network(network, self.data, settings, fabric.world_size)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.optimizer.learning_rate, weight_decay=settings.optimizer.weight_decay
        )
        self.network: Any
        self.optimizer: Any
        self.network, self.optimizer = fabric.setup(network, optimizer)
        if kept and kept.optimizer:
            # moves the optimizer's state to the weights' device; its settings stay those of this training
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), **kept.optimizer})
            self.step = kept.progress["step"]
            self.progress = {key: kept.progress[key] for key in ("best_miou", "best_epoch")}
            self.encoder_weights = kept.progress.get("encoder_weights", self.encoder_weights)
        self.module: SegmentationNetwork = network
        self.average = None
        if decay := settings.optimizer.average:
            self.average = WeightAverage(network, decay)
            if kept:
                self.average.network.load_state_dict(kept.weights)
        self.predicting = self.average.network if self.average else network
        self.teacher = None
        if taught_on(settings, self.data):
            self.teacher = MeanTeacher(fabric, network, settings.consistency, kept.teacher if kept else None)
        self.validation = Validation(fabric, self.predicting, self.data, settings.validation)
        self.journal: Journal | None = None  # only in the first process
        on_rank_zero(fabric, self._open_journal)

    def _open_journal(self) -> None:
        sweep(self.directory, deep=False)
        self.journal = Journal(self.directory, self.step, self.step // self.epoch_steps, self._settings_text())

    def _settings_text(self) -> str:
        text: str = yaml.safe_dump(self.settings.dump(), sort_keys=False)
        return text

    def train(self, workers: int, should_stop: Callable[[], bool]) -> Outcome:
        """Take the remaining steps, and return the outcome."""
        with ExitStack() as stack:
            if self.journal:
                stack.callback(self.journal.close)  # its thread must end before the folder can be removed
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
            torch.cuda.reset_peak_memory_stats(self.fabric.device)  # forget the peak of an earlier training
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
                    check_finite(rows.flush(), self.settings)
                if ends:
                    self._end_epoch()
                if ends or stopping or self.step % (self.settings.save_steps or self.total) == 0:
                    check_finite(rows.flush(), self.settings)
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
        composites, taught = batch["composites"], None
        if self.teacher and self.step >= self.settings.consistency.warmup_steps:
            taught = self.teacher.teach(images, masks, labels[composites:])
            images = torch.cat((images[:composites], taught.images))
            labels = torch.cat((labels[:composites], taught.labels))
        terms = losses(
            self.network(images.contiguous(memory_format=torch.channels_last)),
            masks,
            labels,
            composites,
            self.ignore,
            self.settings.loss,
            self.settings.consistency,
            taught,
        )
        total = terms.total(self.settings.loss)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        self.fabric.backward(total)
        self.optimizer.step()
        for average in (self.average, self.teacher and self.teacher.average):
            if average:
                average.update(self.module, self.step)
        return terms, total.detach()

    def _end_epoch(self) -> None:
        confusion, pictures = self.validation.run(draws=self.journal is not None and self.journal.board.on)
        self.network.train()
        found = measure(confusion)
        self.constant = constant(confusion, self.data.description.taxonomy)
        epoch = self.step // self.epoch_steps - 1
        better = not found.miou <= self.progress["best_miou"]  # True if best_miou is NaN
        if better:
            self.progress = {"best_miou": found.miou, "best_epoch": epoch}
        on_rank_zero(self.fabric, lambda: self._report_epoch(epoch, found, better, pictures))

    def _report_epoch(self, epoch: int, found: SegmentationMetrics, better: bool, pictures: Pictures) -> None:
        """Record and report the results of an epoch, and save its weights if they are the best so far."""
        assert self.journal  # nosec B101 # for mypy: the first process has a journal
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

    def _save(self, took: tuple[float, int] | None) -> None:
        """Save a checkpoint; after the last step, `took` has the seconds and steps of this run for the report."""
        if took:
            self._report(*took)
        self._checkpoint(self.optimizer.state_dict()).save(self.last)

    def _report(self, seconds: float, steps: int) -> None:
        assert self.journal  # nosec B101 # for mypy: the first process has a journal
        settings, data, rows = self.settings, self.data, self.journal.steps.rows
        images = settings.composites * (data.composites is not None) + settings.real * (data.real is not None)
        facts = {
            "steps": self.total,
            "epochs": settings.epochs,
            "parameters": sum(weights.numel() for weights in self.module.parameters()),
            "encoder_weights": self.encoder_weights,
            **self.progress,
            "constant": self.constant,
        }
        write_report(self.directory / "report.json", facts, self.fabric, images, seconds, rows[len(rows) - steps :])

    def _checkpoint(self, optimizer: Mapping[str, Any] | None) -> Checkpoint:
        return Checkpoint(
            self.settings,
            self.data.description,
            self.sources,
            self.data.composites is None,
            {"step": self.step, **self.progress, "encoder_weights": self.encoder_weights},
            self.predicting.state_dict(),
            optimizer,
            self.module.state_dict() if optimizer and self.average else None,
            self.teacher.average.network.state_dict() if optimizer and self.teacher else None,
        )

    def _any(self, stop: bool) -> bool:
        """Return whether any process of the training has to stop."""
        if self.processes is None:
            return stop
        asked = torch.tensor(int(stop))
        torch.distributed.all_reduce(asked, group=self.processes)  # type: ignore[arg-type]
        return bool(asked)


def _seed(seed: int, word: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, word, rank]).generate_state(1, np.uint64)[0])
