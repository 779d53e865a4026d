"""Jobs of a queue that ended are given up, so that an adaptive cluster submits others for them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distributed import SchedulerPlugin, Status
from tornado.ioloop import PeriodicCallback

from synthpipe.runtime.servers import Scheduler

_SECONDS_BETWEEN_LOOKS, _SECONDS_OF_ABSENCE = 2, 20  # a worker that a nanny starts again is back in some seconds
_MOST_DOUBLINGS = 5  # of the seconds between two questions to the queue


@contextmanager
def jobs_renewed(cluster: Any, note: Callable[[str], None]) -> Iterator[None]:
    """Give up jobs that lost all their workers, or ended before they had any, while the block runs.

    Dask itself takes no notice of the end of a job of several workers. Jobs that the queue does not take are submitted
    again and again; `note` is told why, once for each reason.
    """
    renewal = _Renewal(cluster, note)
    cluster.scheduler.add_plugin(renewal.attendance)
    callback = PeriodicCallback(renewal.look, _SECONDS_BETWEEN_LOOKS * 1000)
    cluster.loop.add_callback(callback.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(callback.stop)


class _Attendance(SchedulerPlugin):  # type: ignore[misc]
    """When workers left, by name."""

    name = "synthpipe-attendance"

    def __init__(self) -> None:
        self.left: dict[str, float] = {}
        self._names: dict[str, str] = {}

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self._names[worker] = str(scheduler.workers[worker].name)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        self.left[self._names.pop(worker)] = time.monotonic()


class _Renewal:
    """What is known of a cluster's jobs, from one look to the next."""

    def __init__(self, cluster: Any, note: Callable[[str], None]) -> None:
        self.attendance = _Attendance()
        self._cluster, self._note = cluster, note
        self._told = set[str]()
        self._asked = set[str]()  # jobs without workers, when the queue was last asked
        self._seen = frozenset[str]()  # jobs that the queue knew then
        self._next_look, self._failures = 0.0, 0

    async def look(self) -> None:
        cluster = self._cluster
        for name, job in list(cluster.workers.items()):
            if job.status != Status.created:  # it is among the workers once its first submission has ended
                continue
            async with cluster._lock:  # or it could be given up while it is submitted, and then be nobody's
                if cluster.workers.get(name) is job and name in cluster.worker_spec:
                    await self._submit(job)
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
        if any(job.job_id not in self._asked for _, job in absent) or (absent and time.monotonic() >= self._next_look):
            await self._look_into_queue(absent)

    async def _submit(self, job: Any) -> None:
        try:
            await job.start()
        except Exception as error:
            self._tell("the queue takes no job, and is asked again", str(error))

    async def _look_into_queue(self, absent: list[tuple[Any, Any]]) -> None:
        """Give up jobs without workers that the queue knew and knows no longer."""
        queued = await self._cluster.job_cls.in_queue()
        self._asked = {job.job_id for _, job in absent}
        if queued is not None:
            ended = [(name, job) for name, job in absent if job.job_id in self._seen - queued]
            for name, job in ended:
                what = f"job {job.job_id} ended before its workers came, and another is submitted"
                self._tell(what, "see the job's output")
                await self._give_up(name, job)
            self._seen = queued
            self._failures = min(self._failures + bool(ended), _MOST_DOUBLINGS)
        self._next_look = time.monotonic() + _SECONDS_OF_ABSENCE * 2**self._failures

    async def _give_up(self, name: Any, job: Any) -> None:
        if self._cluster.workers.pop(name, None) is job:
            await job.close()

    def _tell(self, what: str, reason: str) -> None:
        """Note something, once for each reason; the times and numbers of jobs in it change."""
        message = f"{what}: {' '.join(reason.split())}"
        kind = re.sub(r"\d+", "0", message)
        if kind not in self._told:
            self._told.add(kind)
            self._note(message)
