"""Check and prepare every worker before its first task, including workers that join late or restart."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

from distributed import Client, Reschedule, Scheduler, Worker, WorkerPlugin, get_worker
from distributed.protocol.pickle import dumps

from synthpipe.core.errors import ClusterError, SynthpipeError
from synthpipe.runtime.executor import WorkerSetup
from synthpipe.runtime.progress import warnings_to
from synthpipe.runtime.workers import WorkerPool

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_LOGGER, _OWN_LOGGER = logging.getLogger("distributed.worker"), logging.getLogger("synthpipe")

PREPARED, REFUSED, WARNED = "synthpipe-prepared", "synthpipe-refused", "synthpipe-warned"
"""Topics of messages from workers: finished steps, reasons why a worker cannot run the build, and warnings."""

_SECONDS_BEFORE_ANOTHER = 0.5
_SECONDS_BETWEEN_SIGNS_OF_LIFE = 20
_TRIES, _LISTED = 5, 5


class SetupPlugin(WorkerPlugin):  # type: ignore[misc]
    """Check and prepare a worker, and hold the state of its tasks. An unfit worker leaves the cluster.

    Attributes
    ----------
    client : str
        The driver's id at the scheduler. If the driver has ended, workers that join are not prepared.
    is_ready : bool
        Whether the worker is prepared. An unprepared worker runs no task.
    state
        The state that `WorkerSetup.prepared` yielded.
    work : asyncio.Task
        The task that checks and prepares the worker, once it has begun.
    """

    work: asyncio.Task[None]

    def __init__(self, setup: WorkerSetup, client: str) -> None:
        self.name = plugin_name(setup)
        self.client = client
        self.is_ready, self.state = False, None
        self._setup, self._held = setup, ExitStack()

    async def setup(self, worker: Worker) -> None:
        self._level = _LOGGER.level
        self.work = asyncio.ensure_future(self._set_up(worker))
        await self.work

    async def _set_up(self, worker: Worker) -> None:
        joins = not worker.periodic_callbacks["heartbeat"].is_running()
        if joins and await _is_abandoned(worker, self.client, self.name):
            return
        # the driver shows the errors of tasks, so Dask's own tracebacks are not needed
        _LOGGER.setLevel(logging.CRITICAL)
        try:
            if problems := await asyncio.to_thread(self._setup.problems):
                raise ClusterError("; ".join(problems))
            await self._prepare(worker)
        except Exception as error:
            if joins:  # Dask hides this exception and still sends tasks to the worker
                message = f"worker {worker.address}: {error}"
                _OWN_LOGGER.error("stopped a worker that cannot run the build: %s", message)
                worker.log_event(REFUSED, message)
                worker.loop.call_later(1, worker.close, reason="cannot run synthpipe's build")
            raise

    async def _prepare(self, worker: Worker) -> None:
        work = asyncio.ensure_future(
            asyncio.to_thread(
                self._held.enter_context, self._setup.prepared(lambda steps: worker.log_event(PREPARED, steps))
            )
        )
        with warnings_to(lambda message: worker.log_event(WARNED, message)):
            # a worker that joins late sends no heartbeats before its setup ends
            while not (await asyncio.wait({work}, timeout=_SECONDS_BETWEEN_SIGNS_OF_LIFE))[0]:
                await worker.heartbeat()
            self.state = await work
        self.is_ready = True

    async def teardown(self, worker: Worker) -> None:
        _LOGGER.setLevel(self._level)
        await asyncio.wait({self.work})  # a worker may leave while it is being prepared
        self.is_ready, self.state = False, None
        self._held.close()


async def _is_abandoned(worker: Worker, client: str, plugin: str) -> bool:
    """Return whether the driver that registered a plugin has ended. If so, unregister the plugin."""
    with suppress(Exception):  # the scheduler may refuse to run functions
        answer = await worker.scheduler.run_function(function=dumps(_let_go), args=dumps((client, plugin)))
        return bool(answer.get("result"))
    return False


def _let_go(client: str, plugin: str, dask_scheduler: Scheduler) -> bool:
    if client in dask_scheduler.clients:
        return False
    dask_scheduler.worker_plugins.pop(plugin, None)
    return True


def on_fit_worker(client: str, function: Callable[[Any, Argument], Result], argument: Argument) -> Result:
    """Run a driver's task with the state of this worker. If this worker is not ready, send the task to another."""
    plugins = (plugin for plugin in get_worker().plugins.values() if isinstance(plugin, SetupPlugin))
    plugin = next((plugin for plugin in plugins if plugin.client == client), None)
    if plugin and not plugin.is_ready:
        time.sleep(_SECONDS_BEFORE_ANOTHER)  # otherwise the task comes back at once
        raise Reschedule
    return function(plugin and plugin.state, argument)


def plugin_name(setup: WorkerSetup) -> str:
    """Return the name of a build's plugin. A plugin replaces that of an earlier, killed process of the same build."""
    return f"synthpipe-{setup.key}"


def check_scheduler(client: Client, setup: WorkerSetup) -> None:
    """Check that the scheduler can read the build's tasks.

    Raises
    ------
    ClusterError
        The scheduler's environment has no synthpipe, or another version of synthpipe.
    """
    try:
        client.run_on_scheduler(_read, setup)
    except Exception as error:
        if _has_died(error):
            raise
        raise ClusterError(
            f"the scheduler at {client.scheduler.address} cannot read the build's tasks: {type(error).__name__}: "
            f"{error}; start it from the same environment as this machine and the workers"
        ) from error


def check_workers(client: Client, setup: WorkerSetup) -> None:
    """Check that all workers can run the build.

    Raises
    ------
    ClusterError
        Some workers cannot run the build. The message lists their differences from this machine.
    """
    found = client.run(_ask, setup, on_error="return")
    problems = {
        address: "; ".join(answer) if isinstance(answer, list) else f"cannot run the build: {answer!r}"
        for address, answer in found.items()
        if answer and not _has_died(answer)
    }
    if problems:
        lines = [f"worker {address}: {what}" for address, what in sorted(problems.items())]
        more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
        raise ClusterError(
            "\n  ".join(
                [
                    f"{len(lines)} of {len(found)} workers differ from this machine; start them from the same "
                    "environment, on machines that see the same files:",
                    *lines[:_LISTED],
                    *more,
                ]
            )
        )


def prepare_workers(client: Client, pool: WorkerPool, setup: WorkerSetup) -> None:
    """Prepare all workers, including workers that join later. Exceptions of `WorkerSetup.prepared` pass unchanged.

    Raises
    ------
    ClusterError
        Workers end again and again before they are ready, or there are no workers.
    """
    try:
        client.register_plugin(SetupPlugin(setup, client.id))
        return
    except Exception as error:
        if not _has_died(error):
            raise
    # a worker ended meanwhile; the others still prepare themselves, and so does a restarted worker
    tries = 0
    while tries < _TRIES:
        pool.wait()
        if not (answers := client.run(_prepare, setup, client.id, on_error="return")):
            continue  # all workers have just ended
        tries += 1
        failures = [answer for answer in answers.values() if isinstance(answer, Exception)]
        for failure in failures:
            if not _has_died(failure):
                raise failure
        if not failures:
            return
    raise ClusterError(
        f"workers ended {_TRIES} times before they were ready, most likely because memory was full; give each "
        "worker more memory, or use fewer workers per machine (--memory, --workers; in job settings: memory, processes)"
    )


def _read(setup: WorkerSetup) -> None:
    """Do nothing: a scheduler that can unpickle the setup can also read the tasks of the build."""


async def _ask(setup: WorkerSetup) -> list[str]:
    return await asyncio.to_thread(setup.problems)


async def _prepare(setup: WorkerSetup, client: str, dask_worker: Worker) -> None:
    """Wait until a worker is prepared. If the plugin did not reach the worker, add the plugin first."""
    plugin = dask_worker.plugins.get(plugin_name(setup))
    if plugin is None:
        await dask_worker.plugin_add(SetupPlugin(setup, client), catch_errors=False)
    else:
        await asyncio.shield(plugin.work)


def _has_died(answer: object) -> bool:
    """Return whether an answer means that the worker ended before it answered."""
    return isinstance(answer, OSError) and not isinstance(answer, SynthpipeError)
