"""Run tasks on a Dask cluster that synthpipe starts or joins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dask
from distributed import Client

from synthpipe.core.errors import ClusterError
from synthpipe.core.strict_json import parse_json
from synthpipe.files.reading import read_regular
from synthpipe.files.scratch import private_directory
from synthpipe.runtime.executor import WorkerSetup
from synthpipe.runtime.jobs import WORKER_MEMORY, WORKER_SETTINGS, check_queue, job_cluster
from synthpipe.runtime.keys import made_keys, security
from synthpipe.runtime.local import NO_GPU, local_cluster
from synthpipe.runtime.progress import ANNOUNCED, subscribed
from synthpipe.runtime.renewal import jobs_renewed
from synthpipe.runtime.settings import ClusterSettings, Demand, ExistingCluster, JobQueue, Local
from synthpipe.runtime.site import starting
from synthpipe.runtime.submission import run_tasks
from synthpipe.runtime.terminal import interrupts_held, quiet
from synthpipe.runtime.worker_plugin import (
    PREPARED,
    REFUSED,
    WARNED,
    check_scheduler,
    check_workers,
    plugin_name,
    prepare_workers,
)
from synthpipe.runtime.workers import WorkerPool

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_SETTINGS = {
    **WORKER_SETTINGS,
    **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in WORKER_MEMORY.items()},
    "distributed.scheduler.worker-ttl": None,
    # otherwise Dask removes a worker for good while its nanny or the job renewal restarts it
    "distributed.deploy.lost-worker-timeout": "3650 days",
    # by default the scheduler keeps a thousand debugging messages for each worker, with their tasks
    "distributed.admin.low-level-log-length": 100,
}
_REMOTE_SETTINGS = {
    # a machine that fails does not close its connection
    "distributed.scheduler.worker-ttl": "10m",
    "distributed.comm.timeouts.connect": "30s",
}
_GENTLE_ADAPTING = {
    "interval": "2s",
    "wait_count": 30,  # a job ends after a minute without work
    "target_duration": "10ms",  # the scheduler knows few tasks at a time, so each task may start a worker
}
_SECONDS_TO_CONNECT, _SECONDS_TO_RELEASE = 20, 10
_LOCAL_PATIENCE = 60.0
_MOST_BYTES = 2**20  # bytes of a scheduler's file


@dataclass(frozen=True, slots=True)
class DaskExecutor:
    """Run tasks on the workers of a Dask cluster.

    Attributes
    ----------
    client : distributed.Client
        Client that is connected to the cluster.
    pool : WorkerPool
        The cluster's workers.
    settings : ClusterSettings
        The settings that the cluster was started or joined with.
    """

    client: Client
    pool: WorkerPool
    settings: ClusterSettings

    def hosts(self) -> int:
        """Return the number of machines that have workers now."""
        return self.pool.snapshot().hosts

    def uses_gpus(self) -> bool:
        """Return whether tasks that use a GPU run only on workers with a GPU."""
        use = self.settings.device
        return use == "cuda" or (use == "auto" and self.pool.snapshot(fresh=True).slots(gpu=True) > 0)

    def run(
        self, function: Callable[[Any, Argument], Result], arguments: Iterable[Argument], gpu: bool = False
    ) -> Iterator[Result]:
        """Yield ``function(state, argument)`` for every argument, in order of completion; see `Executor.run`.

        Raises
        ------
        ClusterError
            A task lost too many workers, there were no workers for too long, or the scheduler is lost.
        """
        return run_tasks(self.client, self.pool, function, arguments, gpu and self.uses_gpus())

    def announced(self, advance: Callable[[int], None]) -> AbstractContextManager[None]:
        """Call `advance` with the steps that tasks announce while the block runs."""
        return subscribed(self.client, ANNOUNCED, advance)

    @contextmanager
    def prepared(self, setup: WorkerSetup, on_steps: Callable[[int], None]) -> Iterator[None]:
        """Check and prepare all workers for the block, including workers that join later.

        `on_steps` receives the steps that the first workers announce during their setup.

        Raises
        ------
        ClusterError
            Some workers or the scheduler cannot run the build.
        """
        if isinstance(self.settings.where, ExistingCluster):
            self.pool.answer(lambda: check_scheduler(self.client, setup))
        self.pool.answer(lambda: check_workers(self.client, setup))
        try:
            with subscribed(self.client, PREPARED, on_steps):
                self.pool.answer(lambda: prepare_workers(self.client, self.pool, setup))
            yield
        finally:
            with suppress(Exception):  # the cluster may have ended, or may not answer
                if self.client.status == "running":
                    self.client.sync(self._release, plugin_name(setup), callback_timeout=_SECONDS_TO_RELEASE)

    async def _release(self, plugin: str) -> None:
        await self.client.scheduler.unregister_worker_plugin(name=plugin)


def check_reachable(settings: ClusterSettings) -> None:
    """Check that the scheduler answers, or that this machine can submit jobs to the queue.

    Raises
    ------
    ClusterError
        The scheduler does not answer, or the queue's command is missing.
    """
    if isinstance(settings.where, ExistingCluster):
        with dask.config.set(_REMOTE_SETTINGS), quiet():
            _join(settings.where).close()
    elif isinstance(settings.where, JobQueue):
        check_queue(settings.where)


@contextmanager
def open_cluster(
    settings: ClusterSettings, demand: Demand, note: Callable[[str], None], shared: Path | None = None
) -> Iterator[DaskExecutor]:
    """Start or join a cluster, and wait for its first worker. The parameters are as for `opening.open_executor`."""
    where = settings.where
    remote = {} if isinstance(where, Local) else _REMOTE_SETTINGS
    # a local worker that does not restart soon never restarts
    patience = min(settings.patience, _LOCAL_PATIENCE) if isinstance(where, Local) else settings.patience
    with ExitStack() as stack:
        # Dask loads code from its temporary directory; in a shared folder, another user could own that directory
        private = (
            {}
            if isinstance(where, ExistingCluster)
            else {"temporary-directory": str(stack.enter_context(private_directory()))}
        )
        stack.enter_context(dask.config.set(_SETTINGS | remote | private))
        stack.enter_context(quiet())
        with interrupts_held():
            client = stack.enter_context(_client(settings, demand, note, shared or Path.cwd(), stack))
        client.subscribe_topic(REFUSED, lambda event: note(f"stopped a worker that cannot run the build: {event[1]}"))
        client.subscribe_topic(WARNED, _once(note))
        executor = DaskExecutor(client, WorkerPool(client, patience), settings)
        if not executor.pool.snapshot().workers:
            note(f"waiting at most {patience:.0f} s for workers")
        executor.pool.wait()
        if settings.device == "cuda":
            if isinstance(where, Local) and not executor.pool.snapshot().slots(gpu=True):
                raise ClusterError(NO_GPU)
            executor.pool.wait(gpu=True)
        yield executor


def _once(note: Callable[[str], None]) -> Callable[[tuple[float, str]], None]:
    """Return a function that passes messages of events to `note`. A message from several workers is passed once."""
    noted = set[str]()

    def note_once(event: tuple[float, str]) -> None:
        if event[1] not in noted:
            noted.add(event[1])
            note(event[1])

    return note_once


def _client(
    settings: ClusterSettings, demand: Demand, note: Callable[[str], None], shared: Path, stack: ExitStack
) -> Client:
    where = settings.where
    if isinstance(where, ExistingCluster):
        return _join(where)
    if isinstance(where, Local):
        cluster = local_cluster(where, settings.device, demand)
        stack.callback(_close, cluster)
        return _client_of(cluster)
    check_queue(where)
    jobs = stack.enter_context(
        job_cluster(
            where,
            demand,
            security=security(where.tls or stack.enter_context(made_keys(shared))),
            silence_logs=logging.CRITICAL,
        )
    )
    stack.enter_context(jobs_renewed(jobs, note))
    jobs.adapt(
        minimum_jobs=where.jobs.minimum_jobs or where.jobs.jobs, maximum_jobs=where.jobs.jobs, **_GENTLE_ADAPTING
    )
    return _client_of(jobs)


def _close(cluster: Any) -> None:
    """Close a cluster on this machine; its tasks are done, so workers that end too slowly are no error of the build."""
    with suppress(TimeoutError):  # on a busy machine, Dask stops waiting for workers that it has killed
        cluster.close()


def _client_of(cluster: Any) -> Client:
    with starting("this process cannot connect to its own workers"):
        return Client(cluster)


def _join(existing: ExistingCluster) -> Client:
    address = _address(existing.scheduler)
    with starting(f"--scheduler {address}: no connection", "check that a scheduler runs there and uses the same TLS"):
        return Client(address, security=security(existing.tls), timeout=_SECONDS_TO_CONNECT)


def _address(scheduler: str) -> str:
    """Return a scheduler's address. `scheduler` is an address, or a file that contains the address."""
    if "://" in scheduler:
        return scheduler
    try:
        address = parse_json(read_regular(Path(scheduler), _MOST_BYTES))["address"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ClusterError(
            f"--scheduler {scheduler}: neither an address such as tcp://host:8786 nor a file that "
            f"`dask scheduler --scheduler-file` wrote: {reason}"
        ) from error
    return str(address)
