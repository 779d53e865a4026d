"""What the stages of a build share: the state, progress, and the journal that becomes ``build.json``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from synthpipe.config.pipeline import Pipeline
from synthpipe.patches.catalog import Catalog
from synthpipe.core.progress import Reporter
from synthpipe.core.records import Strategy
from synthpipe.runtime import Executor
from synthpipe.storage.run import RunDirectory
from synthpipe.build.tasks import Job


@dataclass(frozen=True, slots=True)
class BuildState:
    """What the stages share; `journal` is what ``build.json`` will hold."""

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
    """Return the journal's entry of a strategy, to be written to."""
    entry: dict[str, Any] = state.journal["strategies"].setdefault(strategy, {})
    return entry


@contextmanager
def timed(journal: dict[str, Any], stage: str) -> Iterator[None]:
    """Add the seconds spent to the stage's."""
    start = time.monotonic()
    try:
        yield
    finally:
        spent = journal["stages"].get(stage, 0.0) + time.monotonic() - start
        journal["stages"][stage] = round(spent, 3)
