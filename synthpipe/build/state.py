"""The state that all steps of a build share, and the journal that becomes ``build.json``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from synthpipe.build.tasks import Job
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.progress import Reporter
from synthpipe.core.records import Strategy
from synthpipe.patches.catalog import Catalog
from synthpipe.runtime import Executor
from synthpipe.storage.run import RunDirectory


@dataclass(frozen=True, slots=True)
class BuildState:
    """The state that the steps of a build share; `journal` is the future content of ``build.json``."""

    job: Job
    catalog: Catalog
    executor: Executor
    reporter: Reporter
    journal: dict[str, Any]

    @property
    def pipeline(self) -> Pipeline:
        return self.job.pipeline

    @property
    def run(self) -> RunDirectory:
        return self.job.run


def journal_entry(state: BuildState, strategy: Strategy) -> dict[str, Any]:
    """Return the journal's entry of a strategy, for changes."""
    entry: dict[str, Any] = state.journal["strategies"].setdefault(strategy, {})
    return entry


@contextmanager
def timed(journal: dict[str, Any], stage: str) -> Iterator[None]:
    """Add the seconds that the block takes to those of a stage."""
    start = time.monotonic()
    try:
        yield
    finally:
        spent = journal["stages"].get(stage, 0.0) + time.monotonic() - start
        journal["stages"][stage] = round(spent, 3)
