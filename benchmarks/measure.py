"""Timing: several rounds, in each of which everything that is compared runs once, so that noise meets all alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rate:
    """Composites a second, over several rounds."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def to_json(self) -> dict[str, Any]:
        return {"median": self.median, "low": min(self.runs), "high": max(self.runs), "runs": list(self.runs)}

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({min(self.runs):,.0f}-{max(self.runs):,.0f})"


def rates(subjects: Mapping[str, tuple[int, Callable[[], object]]], rounds: int) -> dict[str, Rate]:
    """Time subjects in turn, `rounds` times, after one run of each that does not count.

    Parameters
    ----------
    subjects : mapping
        Of each its name, how many composites one call does, and the call.
    rounds : int
        How often.
    """
    for _, call in subjects.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, (count, call) in subjects.items():
            start = time.perf_counter()
            call()
            found[name].append(count / (time.perf_counter() - start))
    return {name: Rate(tuple(runs)) for name, runs in found.items()}


def ratios(subject: Rate, baseline: Rate) -> float:
    """Return the median of the rounds' ratios: what disturbed a round disturbed both."""
    return statistics.median(a / b for a, b in zip(subject.runs, baseline.runs, strict=True))


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and the threads it starts, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
