"""Clusters for the tests, with workers that need nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from synthpipe.core.errors import CatalogError
from synthpipe.runtime import ClusterSettings, DaskExecutor, Demand, Local, announce
from synthpipe.runtime.cluster import open_cluster


@dataclass(frozen=True)
class Bare:
    """A worker that needs nothing; it leaves a mark where it is prepared, if there is a place for marks."""

    marks: Path | None = None

    @property
    def key(self) -> str:
        return "bare"

    def problems(self) -> list[str]:
        return []

    @contextmanager
    def prepared(self, on_steps: Callable[[int], None]) -> Iterator[str]:
        if self.marks:
            import os

            (self.marks / str(os.getpid())).touch()
        on_steps(1)
        yield "bare"


def square(state: str, number: int) -> int:
    return number * number


def own_state(state: str | None, number: int) -> str | None:
    return state


def fail_at_seven(state: str, number: int) -> int:
    if number == 7:
        raise CatalogError("patch 'seven' is broken")
    return number


def three_steps(state: str, number: int) -> int:
    for _ in range(3):
        announce(2)
    return number


@contextmanager
def cluster_of(settings: ClusterSettings, setup: Bare | None = None) -> Iterator[DaskExecutor]:
    """Open a cluster and prepare its workers."""
    with (
        open_cluster(settings, Demand(), lambda message: None) as cluster,
        cluster.prepared(setup or Bare(), lambda steps: None),
    ):
        yield cluster


def two(memory: int | None = None) -> ClusterSettings:
    """Two workers on this machine."""
    return ClusterSettings(Local(workers=2, memory=memory))
