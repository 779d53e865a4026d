"""Stored results: one small JSON file for each data set, trainer, size, row and seed; existing ones are kept."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.datacomp.rows import ROWS
from benchmarks.datacomp.samples import Predict, Samples
from benchmarks.datacomp.sets import DataSet
from benchmarks.datacomp.trainer import Network, Trainer, fit, measure, predict
from synthpipe.config.fields import differences
from synthpipe.core.errors import ConfigError
from synthpipe.core.records import Image, Mask
from synthpipe.files.writing import write_atomically
from synthpipe.segment.metrics import Counts
from synthpipe.storage.run import versions

FORMAT_VERSION = 1
"""Version of the results; it is raised when the same settings give other results."""


@dataclass(frozen=True)
class Cell:
    """The key of a result: its data set, trainer, size, row and seed."""

    data: str
    trainer: str
    size: int
    row: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.data}-{self.trainer}-{self.size}-{self.row}-{self.seed}.json"


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one training.

    Attributes
    ----------
    cell : Cell
        The key of the result.
    classes : tuple of str
        Class names in the order of their indices.
    confusions : (N, C, C) int64
        The confusion matrix of every test image.
    boundaries : (N, C, 4) int64
        `metrics.boundary_counts` of every test image.
    about : mapping
        The other keys of the file.
    """

    cell: Cell
    classes: tuple[str, ...]
    confusions: Counts
    boundaries: Counts
    about: Mapping[str, Any]


def read(path: Path) -> Result:
    """Read a stored result."""
    found = json.loads(path.read_text(encoding="utf-8"))
    confusions, boundaries = (np.array(found.pop(key), np.int64) for key in ("confusions", "boundaries"))
    return Result(Cell(**found["cell"]), tuple(found["classes"]), confusions, boundaries, found)


def read_all(folder: Path) -> Iterator[Result]:
    """Read all results in a folder, sorted by file name."""
    return (read(path) for path in sorted(folder.glob("*.json")))


@dataclass(frozen=True)
class Bench:
    """One data set, with the folders of its results and its builds."""

    data: DataSet
    results: Path
    runs: Path

    @cached_property
    def _images(self) -> dict[str, list[tuple[Image, Mask]]]:
        taxonomy = self.data.description.taxonomy
        return {part: [each.read(taxonomy) for each in self.data.images(part)] for part in ("validation", "test")}

    def identity(self, cell: Cell, trainer: Trainer) -> dict[str, Any]:
        """Return everything except the machine that a result depends on, JSON-ready."""
        return {
            "format_version": FORMAT_VERSION,
            "recipe": repr(ROWS[cell.row].recipe),
            "pipeline": self.data.description.fingerprint,
            "data": self.data.digests,
            "trainer": trainer.identity(),
        }

    def check(self, cell: Cell, trainer: Trainer) -> bool:
        """Return whether a result exists.

        Raises
        ------
        ConfigError
            The existing result comes from other settings.
        """
        path = self.results / cell.file
        if not path.exists():
            return False
        changes = list(differences(read(path).about["made by"], self.identity(cell, trainer)))
        if changes:
            raise ConfigError(
                f"{path}: comes from other settings ({'; '.join(changes)[:400]}); choose another folder with -o, "
                "delete the file, or undo the change"
            )
        return True

    def run(self, cells: Sequence[tuple[Cell, Trainer]], threads: int) -> None:
        """Measure one row, size and seed with several trainers; existing results are kept."""
        missing = [(cell, trainer) for cell, trainer in cells if not self.check(cell, trainer)]
        if not missing:
            return
        first = missing[0][0]
        run = self.runs / f"{first.data}-{first.size}-{first.row}-{first.seed}"
        for cell, trainer in missing:  # the first trainer builds the row's run, and the next ones reuse it
            start = time.monotonic()
            train = partial(self._predictor, trainer, cell.seed, threads)
            samples = ROWS[cell.row].recipe(self.data, cell.size, cell.seed, run, train)
            self._train(cell, trainer, samples, time.monotonic() - start, threads)
        shutil.rmtree(run, ignore_errors=True)

    def _predictor(self, trainer: Trainer, seed: int, threads: int, samples: Samples) -> Predict:
        return partial(predict, self._fitted(trainer, samples, seed, threads)[0])

    def _fitted(self, trainer: Trainer, samples: Samples, seed: int, threads: int) -> tuple[Network, dict[str, Any]]:
        """Return a trained network, with its validation scores and the seconds of its training.

        An equal training that was done before gives its weights: self-training repeats the trainings of other rows.
        """
        torch.set_num_threads(threads)  # the filter's training has changed it
        identity = [trainer.identity(), self.data.digests, seed, threads, versions()]
        arrays = [samples.images, samples.masks]
        if samples.real:
            identity.append(samples.real.teacher.model_dump(mode="json"))
            arrays += samples.real[:3]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        for each in arrays:
            digest.update(each.tobytes())
        path, classes = (
            self.runs.with_name("networks") / f"{digest.hexdigest()}.pt",
            len(self.data.description.taxonomy),
        )
        if path.exists():
            network = Network(trainer, classes)
            weights, about = torch.load(path, weights_only=True)
            network.load_state_dict(weights)
            return network, about
        start = time.monotonic()
        network, scores = fit(trainer, samples, self._images["validation"], classes, seed)
        about = {"validation": scores, "seconds": round(time.monotonic() - start)}
        with io.BytesIO() as file:
            torch.save((network.state_dict(), about), file)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, file.getvalue())
        return network, about

    def _train(self, cell: Cell, trainer: Trainer, samples: Samples, made: float, threads: int) -> None:
        taxonomy = self.data.description.taxonomy
        network, about = self._fitted(trainer, samples, cell.seed, threads)
        confusions, boundaries = measure(network, self._images["test"], len(taxonomy))
        result = {
            "cell": vars(cell),
            "made by": self.identity(cell, trainer),
            "classes": taxonomy.names,
            "samples": len(samples.masks) + (len(samples.real.images) if samples.real else 0),
            "validation": about["validation"],
            "confusions": confusions.tolist(),
            "boundaries": boundaries.tolist(),
            "seconds": {"samples": round(made), "training": about["seconds"]},
            "threads": threads,
            "versions": versions(),
        }
        write_atomically(self.results / cell.file, json.dumps(result) + "\n")
