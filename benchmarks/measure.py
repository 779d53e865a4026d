"""Timing in rounds: every compared program runs once per round, so that noise affects all of them alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Rate:
    """Composites per second in several rounds."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def to_json(self) -> dict[str, Any]:
        return {"median": self.median, "low": min(self.runs), "high": max(self.runs), "runs": list(self.runs)}

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({min(self.runs):,.0f}-{max(self.runs):,.0f})"


@dataclass(frozen=True, slots=True)
class Subject:
    """A program to time.

    Attributes
    ----------
    count : int
        The number of composites that one call processes.
    call : callable
        The program.
    before : callable
        Called before each `call`, and not timed.
    """

    count: int
    call: Callable[[], object]
    before: Callable[[], object] = lambda: None


def rates(subjects: Mapping[str, Subject], rounds: int) -> dict[str, Rate]:
    """Time all subjects in turn, for `rounds` rounds, after a first round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, subject in subjects.items():
            subject.before()
            start = time.perf_counter()
            subject.call()
            if number:
                found[name].append(subject.count / (time.perf_counter() - start))
    return {name: Rate(tuple(runs)) for name, runs in found.items()}


def ratios(subject: Rate, baseline: Rate) -> float:
    """Return the median of the rounds' ratios; a disturbance in a round affects both rates."""
    return statistics.median(a / b for a, b in zip(subject.runs, baseline.runs, strict=True))


@contextmanager
def one_core() -> Iterator[None]:
    """Pin this process and its threads to one core, with one thread for torch."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
