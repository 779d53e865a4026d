"""Results on the disk: one small JSON file a data set, trainer, size, row and seed; what is there is not made again."""

from __future__ import annotations

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

from benchmarks.datacomp.rows import ROWS, Predict, Samples
from benchmarks.datacomp.sets import DataSet
from benchmarks.datacomp.trainer import Trainer, fit, measure, predict
from synthpipe.config.fields import differences
from synthpipe.core.errors import ConfigError
from synthpipe.core.records import Image, Mask
from synthpipe.files.writing import write_atomically
from synthpipe.segment.metrics import Counts
from synthpipe.storage.run import versions

FORMAT_VERSION = 1
"""Raised whenever the same settings come to mean other results."""


@dataclass(frozen=True)
class Cell:
    """Which result: a place in all tables."""

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
    """What one training reached.

    Attributes
    ----------
    cell : Cell
        Which one.
    classes : tuple of str
        Names, in index order.
    confusions : (N, C, C) int64
        Of every test image.
    boundaries : (N, C, 4) int64
        `metrics.boundary_counts` of every test image.
    about : mapping
        The file's other keys.
    """

    cell: Cell
    classes: tuple[str, ...]
    confusions: Counts
    boundaries: Counts
    about: Mapping[str, Any]


def read(path: Path) -> Result:
    """Read one file."""
    found = json.loads(path.read_text(encoding="utf-8"))
    confusions, boundaries = (np.array(found.pop(key), np.int64) for key in ("confusions", "boundaries"))
    return Result(Cell(**found["cell"]), tuple(found["classes"]), confusions, boundaries, found)


def read_all(folder: Path) -> Iterator[Result]:
    """Read all files of a folder, sorted by name."""
    return (read(path) for path in sorted(folder.glob("*.json")))


@dataclass(frozen=True)
class Bench:
    """One data set, and where its results and its builds lie."""

    data: DataSet
    results: Path
    runs: Path

    @cached_property
    def _images(self) -> dict[str, list[tuple[Image, Mask]]]:
        taxonomy = self.data.description.taxonomy
        return {part: [each.read(taxonomy) for each in self.data.images(part)] for part in ("validation", "test")}

    def identity(self, cell: Cell, trainer: Trainer) -> dict[str, Any]:
        """Return what a result depends on, JSON-ready, the machine aside."""
        return {
            "format_version": FORMAT_VERSION,
            "recipe": repr(ROWS[cell.row].recipe),
            "pipeline": self.data.description.fingerprint,
            "data": self.data.digests,
            "trainer": trainer.identity(),
        }

    def check(self, cell: Cell, trainer: Trainer) -> bool:
        """Return whether a result is there.

        Raises
        ------
        ConfigError
            It was made by other settings.
        """
        path = self.results / cell.file
        if not path.exists():
            return False
        changes = list(differences(read(path).about["made by"], self.identity(cell, trainer)))
        if changes:
            raise ConfigError(
                f"{path}: was made by other settings ({'; '.join(changes)[:400]}); choose another folder with -o, "
                "delete the file, or undo the change"
            )
        return True

    def run(self, cells: Sequence[tuple[Cell, Trainer]], threads: int) -> None:
        """Measure the cells of one row, size and seed by several trainers; results that are there are kept."""
        missing = [(cell, trainer) for cell, trainer in cells if not self.check(cell, trainer)]
        if not missing:
            return
        first = missing[0][0]
        run = self.runs / f"{first.data}-{first.size}-{first.row}-{first.seed}"
        for cell, trainer in missing:  # a build of the row is made once, and found finished by the next trainer
            start = time.monotonic()
            train = partial(self._predictor, trainer, cell.seed, threads)
            samples = ROWS[cell.row].recipe(self.data, cell.size, cell.seed, run, train)
            self._train(cell, trainer, samples, time.monotonic() - start, threads)
        shutil.rmtree(run, ignore_errors=True)

    def _predictor(self, trainer: Trainer, seed: int, threads: int, samples: Samples) -> Predict:
        torch.set_num_threads(threads)
        network, _ = fit(trainer, samples, self._images["validation"], len(self.data.description.taxonomy), seed)
        return partial(predict, network)

    def _train(self, cell: Cell, trainer: Trainer, samples: Samples, made: float, threads: int) -> None:
        torch.set_num_threads(threads)  # the filter's training chose its own
        taxonomy = self.data.description.taxonomy
        start = time.monotonic()
        network, looked = fit(trainer, samples, self._images["validation"], len(taxonomy), cell.seed)
        confusions, boundaries = measure(network, self._images["test"], len(taxonomy))
        result = {
            "cell": vars(cell),
            "made by": self.identity(cell, trainer),
            "classes": taxonomy.names,
            "samples": len(samples.masks),
            "validation": looked,
            "confusions": confusions.tolist(),
            "boundaries": boundaries.tolist(),
            "seconds": {"samples": round(made), "training": round(time.monotonic() - start)},
            "threads": threads,
            "versions": versions(),
        }
        write_atomically(self.results / cell.file, json.dumps(result) + "\n")
