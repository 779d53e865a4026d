"""Submitting many tasks with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from distributed import Client, Future, KilledWorker, as_completed

from synthpipe.errors import SynthpipeError

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_LOST_LIMIT = 3  # times that one task may be submitted again after its worker was lost


def run_tasks(
    client: Client, function: Callable[[Argument], Result], arguments: Iterable[Argument]
) -> Iterator[Result]:
    """Yield ``function(argument)`` for every argument, in order of completion.

    Only a few tasks a worker are known to the scheduler at a time, so memory does not grow with their number. Tasks
    must be idempotent: one whose worker dies is run again.

    Raises
    ------
    SynthpipeError
        A task kept killing its workers. What a task itself raises is raised unchanged. Either way the tasks that were
        not begun are dropped.
    """
    waiting = iter(arguments)
    pending: dict[Future, tuple[Argument, int]] = {}
    completed = as_completed()

    def submit(argument: Argument, losses: int) -> None:
        future = client.submit(function, argument, pure=False)
        pending[future] = (argument, losses)
        completed.add(future)

    try:
        for argument in islice(waiting, 3 * max(1, len(client.nthreads()))):
            submit(argument, 0)
        for future in completed:
            argument, losses = pending.pop(future)
            if future.status in ("lost", "cancelled") and losses < _LOST_LIMIT:
                submit(argument, losses + 1)
                continue
            result: Result = _result(future, argument)
            yield result
            for following in islice(waiting, 1):
                submit(following, 0)
    finally:
        client.cancel(list(pending))


def _result(future: Future, argument: object) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        raise SynthpipeError(
            f"task {argument!r} killed {error.allowed_failures + 1} workers, most likely for want of memory; "
            "use fewer --workers or smaller store.shard, then build again: finished shards are kept"
        ) from error
