"""The Dask client: a local cluster of processes."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin

_KEPT_BYTES = 256 << 20


class Preparation(WorkerPlugin):  # type: ignore[misc]
    """What every worker process does once, before its first task; also one that joins late or is started again."""

    name = "synthpipe-preparation"

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare

    def setup(self, worker: Worker) -> None:
        # what fails in a task reaches its user through the task, without Dask's own traceback before it
        logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
        self._prepare()


@contextmanager
def local_client(workers: int | None, prepare: Callable[[], None]) -> Iterator[Client]:
    """Yield a client of a cluster on this machine: one single-threaded process a worker, on the loopback address.

    Parameters
    ----------
    workers : int or None
        Number of processes; by default one a core.
    prepare : callable
        Runs once in every worker process; must be picklable.
    """
    count = workers or available_cores()
    # a worker that holds the interpreter while it decodes or trains is not lost: give it time to answer
    settings = {
        "distributed.comm.timeouts.connect": "120s",
        "distributed.scheduler.worker-ttl": None,
        # of its messages, and so of the tasks in them, the scheduler remembers a thousand a worker for debugging
        "distributed.admin.low-level-log-length": 100,
        # Dask has workers give freed memory back at once, to get it again, page by page, for the next shard
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": _KEPT_BYTES,
        # what its dashboard samples takes a tenth of the cores from the work
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.interval": "5s",
        "distributed.admin.tick.interval": "1s",
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        with _interrupts_held():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    # tasks leave nothing in Dask's memory, and training needs more than an even share of the machine's
                    memory_limit=0,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.ERROR,
                )
            )
            client = stack.enter_context(Client(cluster))
            client.register_plugin(Preparation(prepare))
        yield client


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while the block runs; processes that it starts never see it: who started them stops them."""
    resource_tracker.ensure_running()  # which starting processes needs, and which lets Ctrl-C through while it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
