"""The state of a worker process, which all tasks of one build share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from synthpipe.build.tasks.job import Job, group_numbers, read_split
from synthpipe.compose import Donors, Purpose
from synthpipe.core.errors import GpuError
from synthpipe.core.packages import GPU, absent
from synthpipe.core.records import Strategy
from synthpipe.patches.bank import open_bank
from synthpipe.patches.shared_bank import hold_bank
from synthpipe.storage.stores import CompositeStore

if TYPE_CHECKING:
    from synthpipe.compose.gpu import Renderer
    from synthpipe.filtering.scoring import Scorer

_LOGGER = logging.getLogger("synthpipe")
_MOST = 0.5  # share of a GPU's free memory for donors; the filter needs the rest


class WorkerState:
    """The job of a build, and the objects that a process opens when a task first needs them.

    Attributes
    ----------
    job : Job
        The job of the build.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._stores: dict[tuple[Strategy, Purpose], CompositeStore] = {}
        self._scorers: dict[Strategy, Scorer] = {}
        self._renderer: Renderer | None = None
        self._renders_on_cpu = False

    @cached_property
    def donors(self) -> Donors:
        """The donors of this node's bank, which a process of the node must hold."""
        return Donors(*open_bank(self.job.bank.directory))

    @cached_property
    def donors_of_sides(self) -> dict[str, Donors]:
        """The donors on each side of the filter's split, ``train`` and ``validation``."""
        return {side: self.donors.within(groups) for side, groups in read_split(self.job.run).items()}

    @cached_property
    def group_numbers(self) -> NDArray[np.int32]:
        """The index of each donor's group among the sorted groups of all donors, (D,)."""
        return group_numbers([donor.group for donor in self.donors.listed])

    def store(self, strategy: Strategy, purpose: Purpose) -> CompositeStore:
        """Return the store of a strategy's composites, open for writing shards."""
        key = strategy, purpose
        if key not in self._stores:
            self._stores[key] = CompositeStore.open(self.job.composites(purpose), strategy, writable=True)
        return self._stores[key]

    def scorer(self, strategy: Strategy) -> Scorer:
        """Return the trained filter of a strategy. This imports torch."""
        from synthpipe.filtering.scoring import Scorer

        if strategy not in self._scorers:
            settings = self.job.pipeline.filter
            self._scorers[strategy] = Scorer.load(
                self.job.run.weights(strategy), threads=settings.threads, mixed=settings.precision == "mixed"
            )
        return self._scorers[strategy]

    def renderer(self, strategy: Strategy) -> Renderer | None:
        """Return the renderer on the GPU of a strategy's filter, or None if the CPU renders.

        The CPU renders if the filter is on the CPU, numba-cuda is not installed, or the donors take more than half of
        the GPU's free memory. The log explains the last reason, once per worker.
        """
        from synthpipe.compose.gpu import Renderer, is_simulated

        device = self.scorer(strategy).network.device
        has_gpu = is_simulated() or (device.type == "cuda" and not absent(*GPU))
        if self._renders_on_cpu or not has_gpu:
            return None
        try:
            self._renderer = self._renderer or Renderer(self.donors, device.index or 0, _MOST)
            if strategy == "bezier":
                self._renderer.hold_resized(self.job.pipeline.canvas)
        except GpuError as error:
            _LOGGER.warning("virtual composites are rendered on the CPU: %s", error)
            self._renders_on_cpu, self._renderer = True, None
        return self._renderer


@contextmanager
def open_worker_state(job: Job, build: Callable[[Path], None]) -> Iterator[WorkerState]:
    """Hold the donor bank of a job for the block, and yield the state with its donors; see `hold_bank` for `build`."""
    held = hold_bank(job.bank, build)
    try:
        state = WorkerState(job)
        _ = state.donors  # report damage before the first task
        yield state
    finally:
        held.release()
