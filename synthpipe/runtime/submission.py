"""Submitting many tasks with bounded memory, to workers that come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar
from uuid import uuid4

from dask.utils import format_bytes, key_split
from distributed import Client, Future, KilledWorker, as_completed

from synthpipe.core.errors import ClusterError
from synthpipe.runtime.worker_plugin import on_fit_worker
from synthpipe.runtime.workers import GPU, WorkerPool

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_TASKS_A_SLOT = 3
# Workers that one task may lose. Those that were taken away count for every task that waited on them, so innocent tasks
# lose some; a task that ends its workers for want of memory is found out earlier, by the first error that Dask makes.
_LOSSES = 12
_SECONDS_BETWEEN_LOOKS = 0.1
_TASKS_TO_REMEMBER = 1000


def run_tasks(
    client: Client,
    pool: WorkerPool,
    function: Callable[[Argument], Result],
    arguments: Iterable[Argument],
    on_gpu: bool = False,
) -> Iterator[Result]:
    """Yield ``function(argument)`` for every argument, in order of completion.

    Only a few tasks a worker are known to the scheduler at a time, so memory does not grow with their number; workers
    that join widen the window, those that leave narrow it. Tasks must be idempotent: one that loses its worker runs
    again.

    Parameters
    ----------
    client : distributed.Client
        Connected to the cluster.
    pool : WorkerPool
        The cluster's workers.
    function, arguments
        What runs.
    on_gpu : bool
        Whether they are only for workers with a GPU.

    Raises
    ------
    ClusterError
        A task kept ending its workers, there were no workers for too long, or the scheduler is lost. What a task
        itself raises is raised unchanged, with a note that names the task. In any case the tasks that were not begun
        are dropped.
    """
    resources = {GPU: 1} if on_gpu else None
    waiting = iter(arguments)
    pending: dict[Future, tuple[Argument, int]] = {}
    # with results: a result that is gone with its worker is waited for there, while we look at the workers
    completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
    done = 0

    def submit(argument: Argument, losses: int) -> None:
        key = f"{function.__name__}-{uuid4().hex}"  # by which a dashboard sorts tasks
        future = client.submit(on_fit_worker, function, argument, key=key, pure=False, resources=resources)
        pending[future] = (argument, losses)
        completed.add(future)

    def fill() -> None:
        room = _TASKS_A_SLOT * pool.slots(on_gpu) - len(pending)
        # without a worker a few tasks wait: they show an adaptive cluster that there is work
        for argument in islice(waiting, max(room, 0 if pending else 1)):
            submit(argument, 0)

    try:
        fill()
        while pending:
            while not completed.has_ready():
                with completed.thread_condition:
                    completed.thread_condition.wait(_SECONDS_BETWEEN_LOOKS)
                fill()
            future, result = next(completed)
            pool.check_scheduler()
            argument, losses = pending.pop(future)
            if (lost := _losses(pool, future, argument)) and losses + lost <= _LOSSES:
                submit(argument, losses + lost)
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
        if client.status == "running":
            client.cancel(list(pending))


def _losses(pool: WorkerPool, future: Future, argument: object) -> int:
    """Return how many workers a task lost without a result."""
    if future.status in ("lost", "cancelled"):
        return 1
    if future.status != "error" or not isinstance(error := future.exception(), KilledWorker):
        return 0
    if held := pool.memory_kills.get(error.last_worker.address):
        raise ClusterError(
            f"{argument!r} ended {error.allowed_failures + 1} workers, the last one because it held "
            f"{format_bytes(held)}, all the memory that it may use. Finished work is kept; give workers more "
            "(--memory; of jobs, memory, or fewer processes), use fewer --workers, or a smaller store.shard, and build "
            "again"
        )
    return int(error.allowed_failures) + 1


def _killer(argument: object, losses: int) -> ClusterError:
    return ClusterError(
        f"{argument!r} lost {losses} workers, which ended while they had it. Either machines are taken away faster "
        "than a shard is made (use a smaller store.shard), or the system stopped them for want of memory (use more "
        "--memory, fewer --workers, or a smaller store.shard); their logs tell more. Finished work is kept: build again"
    )


def _noted(pool: WorkerPool, future: Future, argument: object) -> BaseException:
    """Return what a task raised, with a note that names the task."""
    pool.check_scheduler()
    error: BaseException = future.exception()
    error.add_note(f"in {argument!r}")
    return error
