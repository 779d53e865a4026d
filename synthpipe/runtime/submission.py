"""Submit many tasks with bounded memory, to workers that join and leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar
from uuid import uuid4

from dask.utils import format_bytes, key_split
from distributed import Client, Future, KilledWorker, as_completed

from synthpipe.core.errors import ClusterError
from synthpipe.runtime.worker_plugin import on_fit_worker
from synthpipe.runtime.workers import GPU, WorkerPool

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_TASKS_A_SLOT = 3
# Largest number of workers that one task may lose. A lost worker counts for every task that waited on it, so sound
# tasks lose workers too. A task that needs too much memory is found earlier, by the first error that Dask raises.
_LOSSES = 12
_SECONDS_BETWEEN_CHECKS = 0.1
_TASKS_TO_REMEMBER = 1000


def run_tasks(
    client: Client,
    pool: WorkerPool,
    function: Callable[[Any, Argument], Result],
    arguments: Iterable[Argument],
    on_gpu: bool = False,
) -> Iterator[Result]:
    """Yield ``function(state, argument)`` for every argument, in order of completion; see `Executor.run`.

    The scheduler knows only a few tasks for each worker at a time, so the number of submitted tasks follows the number
    of workers.

    Raises
    ------
    ClusterError
        A task lost too many workers, there were no workers for too long, or the scheduler is lost.
    """
    waiting = iter(arguments)
    submitted = _Submitted(client, function, on_gpu)
    done = 0

    def fill() -> None:
        free = _TASKS_A_SLOT * pool.slots(on_gpu) - len(submitted.tasks)
        # without workers one task is submitted, so that an adaptive cluster sees work
        for argument in islice(waiting, max(free, 0 if submitted.tasks else 1)):
            submitted.add(argument, losses=0)

    try:
        fill()
        while submitted.tasks:
            while not submitted.wait():
                fill()
            future, argument, losses, result = submitted.next()
            pool.check_scheduler()
            if (lost := _losses(pool, future, argument)) and losses + lost <= _LOSSES:
                submitted.add(argument, losses + lost)
                continue
            if lost:
                raise _killer(argument, losses + lost)
            if future.status == "error":
                raise _noted(pool, future, argument)
            yield result
            done += 1
            if done % _TASKS_TO_REMEMBER == 0:
                key_split.cache_clear()  # Dask keeps the names of the last hundred thousand tasks
            fill()
    finally:
        submitted.cancel()


class _Submitted(Generic[Argument, Result]):
    """The submitted tasks, with their arguments and the number of workers that each task lost."""

    def __init__(self, client: Client, function: Callable[[Any, Argument], Result], on_gpu: bool) -> None:
        self.tasks: dict[Future, tuple[Argument, int]] = {}
        self._client, self._function = client, function
        self._resources = {GPU: 1} if on_gpu else None
        # with results: Dask then waits for a result that was lost with its worker, while we check the workers
        self._completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)

    def add(self, argument: Argument, losses: int) -> None:
        """Submit a task that already lost `losses` workers."""
        key = f"{self._function.__name__}-{uuid4().hex}"  # dashboards sort tasks by this name
        future = self._client.submit(
            on_fit_worker,
            *(self._client.id, self._function, argument),
            key=key,
            pure=False,
            resources=self._resources,
        )
        self.tasks[future] = (argument, losses)
        self._completed.add(future)

    def wait(self) -> bool:
        """Wait a moment, and return whether a task has completed."""
        if not self._completed.has_ready():
            with self._completed.thread_condition:
                self._completed.thread_condition.wait(_SECONDS_BETWEEN_CHECKS)
        return bool(self._completed.has_ready())

    def next(self) -> tuple[Future, Argument, int, Result]:
        """Remove a completed task. Return its future, its argument, the number of lost workers, and its result."""
        future, result = next(self._completed)
        return future, *self.tasks.pop(future), result

    def cancel(self) -> None:
        """Drop all tasks."""
        if self._client.status == "running":
            self._client.cancel(list(self.tasks))


def _losses(pool: WorkerPool, future: Future, argument: object) -> int:
    """Return the number of workers that a task lost without a result."""
    if future.status in ("lost", "cancelled"):
        return 1
    if future.status != "error" or not isinstance(error := future.exception(), KilledWorker):
        return 0
    if held := pool.memory_kills.get(error.last_worker.address):
        raise ClusterError(
            f"{error.allowed_failures + 1} workers were lost while they ran {argument!r}. The last worker used "
            f"{format_bytes(held)}, its whole limit. Finished work is kept. Give each worker more memory (--memory; in "
            "job settings: raise memory or lower processes), use fewer --workers, or lower store.shard; build again"
        )
    return int(error.allowed_failures) + 1


def _killer(argument: object, losses: int) -> ClusterError:
    return ClusterError(
        f"{argument!r} was lost with {losses} workers, one after the other. Either machines leave before they finish "
        "a shard (lower store.shard), or the system stopped workers because memory was full (use more --memory, fewer "
        "--workers, or a smaller store.shard). The workers' logs may show why. Finished work is kept; build again"
    )


def _noted(pool: WorkerPool, future: Future, argument: object) -> BaseException:
    """Return a task's exception, with a note that names the task."""
    pool.check_scheduler()
    error: BaseException = future.exception()
    error.add_note(f"in {argument!r}")
    return error
