"""The pipeline, run and donors that all tasks of a build share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from synthpipe.compose import Donors
from synthpipe.config.pipeline import Pipeline
from synthpipe.patches.bank import open_bank
from synthpipe.patches.shared_bank import BankLocation
from synthpipe.storage.run import RunDirectory, read_json


@dataclass(frozen=True, slots=True)
class Job:
    """The pipeline, run directory and donor bank of a build."""

    pipeline: Pipeline
    run: RunDirectory
    bank: BankLocation


@lru_cache(maxsize=1)
def open_donors(bank: BankLocation) -> Donors:
    """Map this node's donor bank, which a process of the node must hold; once in each process."""
    return Donors(*open_bank(bank.directory))


@lru_cache(maxsize=2)
def donors_of_side(bank: BankLocation, run: RunDirectory, side: str) -> Donors:
    """Return the donors on one side of the filter's split, ``train`` or ``validation``."""
    return open_donors(bank).within(read_split(run)[side])


def release_donors() -> None:
    """Forget the donors, so that the memory of a removed bank is free."""
    donors_of_side.cache_clear()
    open_donors.cache_clear()


def read_split(run: RunDirectory) -> dict[str, frozenset[str]]:
    """Return the groups on each side of the filter's split: ``train``, then ``validation``."""
    split = read_json(run.split_file)
    return {side: frozenset(split[side]) for side in ("train", "validation")}


def training_composites(pipeline: Pipeline) -> int:
    """Return how many of the filter's composites train it; the others validate it."""
    return round(pipeline.filter.candidates * pipeline.filter.train_share)
