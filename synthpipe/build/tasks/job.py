"""The pipeline, run and donors that all tasks of a build share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose import Purpose
from synthpipe.config.pipeline import Pipeline
from synthpipe.files.locations import Location
from synthpipe.patches.shared_bank import BankLocation
from synthpipe.storage.run import RunDirectory, read_json


@dataclass(frozen=True, slots=True)
class Job:
    """The pipeline, run directory and donor bank of a build."""

    pipeline: Pipeline
    run: RunDirectory
    bank: BankLocation

    def composites(self, purpose: Purpose) -> Location:
        """Return the Zarr store of the composites of a purpose."""
        return self.run.training if purpose == "filter" else self.run.candidates


def read_split(run: RunDirectory) -> dict[str, frozenset[str]]:
    """Return the groups on each side of the filter's split: ``train``, then ``validation``."""
    split = read_json(run.split_file)
    return {side: frozenset(split[side]) for side in ("train", "validation")}


def training_composites(pipeline: Pipeline) -> int:
    """Return how many of the filter's composites train it; the others validate it."""
    return round(pipeline.filter.candidates * pipeline.filter.train_share)


def group_numbers(groups: Sequence[str]) -> NDArray[np.int32]:
    """Return the index of each donor's group among the sorted groups of all donors."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int32)
