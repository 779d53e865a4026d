"""Remove ended and refused jobs from a Dask cluster, so that Dask submits new ones."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distributed import SchedulerPlugin, Status
from tornado.ioloop import PeriodicCallback

from synthpipe.runtime.servers import Scheduler

_SECONDS_BETWEEN_CHECKS, _SECONDS_OF_ABSENCE = 2, 20  # a nanny restarts a worker within some seconds
_MOST_DOUBLINGS = 5  # of the time between two requests to the queue


@contextmanager
def jobs_renewed(cluster: Any, note: Callable[[str], None]) -> Iterator[None]:
    """Remove ended and refused jobs from a Dask cluster while the block runs.

    Dask's adaptive scaling submits missing jobs. But Dask does not see that a job is missing in three cases: a job with
    several workers has ended, a job has left the queue before its workers came, or the queue has refused a job. `note`
    receives each reason once.
    """
    renewal = _Renewal(cluster, note)
    cluster.scheduler.add_plugin(renewal.attendance)
    callback = PeriodicCallback(renewal.check, _SECONDS_BETWEEN_CHECKS * 1000)
    cluster.loop.add_callback(callback.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(callback.stop)


class _Attendance(SchedulerPlugin):  # type: ignore[misc]
    """Record the times at which workers left, by their names."""

    name = "synthpipe-attendance"

    def __init__(self) -> None:
        self.left: dict[str, float] = {}
        self._names: dict[str, str] = {}

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self._names[worker] = str(scheduler.workers[worker].name)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        self.left[self._names.pop(worker)] = time.monotonic()


class _Renewal:
    """The state of a cluster's jobs between two checks."""

    def __init__(self, cluster: Any, note: Callable[[str], None]) -> None:
        self.attendance = _Attendance()
        self._cluster, self._note = cluster, note
        self._noted = set[str]()
        self._asked = set[str]()  # jobs without workers at the last request to the queue
        self._seen = frozenset[str]()  # jobs that the queue listed at that request
        self._next_question, self._failures = 0.0, 0

    async def check(self) -> None:
        cluster = self._cluster
        for name, job in list(cluster.workers.items()):
            # the submission failed; while Dask holds the job's lock, Dask tries again itself
            if job.status == Status.created and not job.lock.locked():
                self._note_once("the queue refuses jobs; trying again", job.refusal)
                await self._give_up(name, job)
        present = {str(worker.name) for worker in cluster.scheduler.workers.values()}
        absent = []
        for name, job in list(cluster.workers.items()):
            group = cluster.worker_spec.get(name, {}).get("group", [""])
            workers = {f"{name}{suffix}" for suffix in group}
            left = [self.attendance.left[worker] for worker in workers & self.attendance.left.keys()]
            if workers & present:
                self._failures = 0
            elif not left:
                absent.append((name, job))
            elif time.monotonic() - max(left) > _SECONDS_OF_ABSENCE:
                for worker in workers:
                    self.attendance.left.pop(worker, None)
                await self._give_up(name, job)
        if any(job.job_id not in self._asked for _, job in absent) or (
            absent and time.monotonic() >= self._next_question
        ):
            await self._check_queue(absent)

    async def _check_queue(self, absent: list[tuple[Any, Any]]) -> None:
        """Remove jobs that left the queue before their workers came."""
        listed = await self._cluster.job_cls.in_queue()
        self._asked = {job.job_id for _, job in absent}
        if listed is not None:
            ended = [(name, job) for name, job in absent if job.job_id in self._seen - listed]
            for name, job in ended:
                what = f"job {job.job_id} ended before its workers came; submitting another job"
                self._note_once(what, "see the job's output")
                await self._give_up(name, job)
            self._seen = listed
            self._failures = min(self._failures + bool(ended), _MOST_DOUBLINGS)
        self._next_question = time.monotonic() + _SECONDS_OF_ABSENCE * 2**self._failures

    async def _give_up(self, name: Any, job: Any) -> None:
        if self._cluster.workers.pop(name, None) is job:
            await job.close()

    def _note_once(self, what: str, reason: str) -> None:
        """Note a problem and its reason once. Texts that differ only in numbers are the same problem."""
        message = f"{what}: {' '.join(reason.split())}"
        kind = re.sub(r"\d+", "0", message)
        if kind not in self._noted:
            self._noted.add(kind)
            self._note(message)
