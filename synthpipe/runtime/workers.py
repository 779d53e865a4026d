"""Watch the workers of a cluster, their resources, and the connection to the scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from distributed import Client
from distributed.comm.core import CommClosedError

from synthpipe.core.errors import ClusterError
from synthpipe.runtime.site import suspects

Answer = TypeVar("Answer")

GPU = "GPU"
_LEAST_SECONDS_BETWEEN_CHECKS, _MOST_SECONDS_BETWEEN_CHECKS, _SECONDS_TO_ANSWER = 0.5, 10.0, 30.0
_CHECKING_SHARE = 0.05  # largest share of the driver's time for checks of the workers


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """The workers of a cluster at one moment, by their addresses."""

    workers: Mapping[str, Mapping[str, Any]]

    @property
    def hosts(self) -> int:
        """Number of machines with workers."""
        return len({worker["host"] for worker in self.workers.values()})

    def slots(self, gpu: bool) -> int:
        """Return the number of tasks that can run at once. With `gpu`, count only tasks that need the resource GPU."""
        if not gpu:
            return sum(worker["nthreads"] for worker in self.workers.values())
        return sum(min(worker["nthreads"], int(worker["resources"].get(GPU, 0))) for worker in self.workers.values())


class WorkerPool:
    """The workers of a cluster, which are checked regularly. Missing workers and a lost scheduler raise `ClusterError`.

    Attributes
    ----------
    memory_kills : dict
        The workers that were stopped because they used too much memory: their addresses, and their memory in bytes.
    """

    def __init__(self, client: Client, patience: float) -> None:
        self._client, self._patience = client, patience
        self._address = client.scheduler.address
        self._snapshot = WorkerSnapshot({})
        self._next_check = 0.0
        self._missing_since: dict[bool, float] = {}
        self.memory_kills: dict[str, int] = {}
        client.subscribe_topic("worker-restart-memory", self._note_kill)

    def snapshot(self, fresh: bool = False) -> WorkerSnapshot:
        """Return the workers as of the last check. With `fresh`, check the workers now.

        Raises
        ------
        ClusterError
            The scheduler is lost.
        """
        self.check_scheduler()
        start = time.monotonic()
        if fresh or start >= self._next_check:
            try:
                found = self._client.sync(self._identity, callback_timeout=_SECONDS_TO_ANSWER)
                self._snapshot = WorkerSnapshot(found["workers"])
            except TimeoutError:
                pass  # the scheduler is busy: use the previous snapshot
            except (OSError, CommClosedError) as error:
                raise self.lost() from error
            spent = time.monotonic() - start
            pause = min(_MOST_SECONDS_BETWEEN_CHECKS, spent / _CHECKING_SHARE)
            self._next_check = time.monotonic() + max(_LEAST_SECONDS_BETWEEN_CHECKS, pause)
        return self._snapshot

    def slots(self, gpu: bool, fresh: bool = False) -> int:
        """Return `WorkerSnapshot.slots` of `snapshot`.

        Raises
        ------
        ClusterError
            There was no such worker for longer than `patience`, or the scheduler is lost.
        """
        slots = self.snapshot(fresh).slots(gpu)
        if slots:
            self._missing_since.pop(gpu, None)
            return slots
        since = self._missing_since.setdefault(gpu, time.monotonic())
        if time.monotonic() - since > self._patience:
            raise ClusterError(self._no_worker_text(gpu))
        return 0

    def wait(self, gpu: bool = False) -> None:
        """Wait until a worker is there. With `gpu`, wait for a worker with the resource GPU.

        Raises
        ------
        ClusterError
            No such worker came in time, or the scheduler is lost.
        """
        while not self.slots(gpu, fresh=True):
            time.sleep(_LEAST_SECONDS_BETWEEN_CHECKS / 2)

    def answer(self, ask: Callable[[], Answer]) -> Answer:
        """Call `ask`, which asks all workers, and return its result. Wait as long as the workers send heartbeats.

        Raises
        ------
        ClusterError
            A worker has sent no heartbeat for longer than `patience`, or the scheduler is lost.
        """
        answer = Future[Answer]()

        def work() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        signs: dict[str, tuple[float, float]] = {}
        while not wait((answer,), _LEAST_SECONDS_BETWEEN_CHECKS).done:
            now = time.monotonic()
            for address, worker in self.snapshot().workers.items():
                if signs.get(address, (None, now))[0] != worker["last_seen"]:
                    signs[address] = worker["last_seen"], now
                elif now - signs[address][1] > self._patience:
                    raise ClusterError(
                        f"worker {address} has not answered for {self._patience:.0f} s (--patience): it is stopped, or "
                        "its machine hangs; end this worker, then run the command again. Finished work is kept"
                    )
        return answer.result()

    def check_scheduler(self) -> None:
        """Raise `ClusterError` if the connection to the scheduler is lost."""
        if self._client.status != "running":
            raise self.lost()

    def lost(self) -> ClusterError:
        """Return the error to raise if the scheduler is lost."""
        return ClusterError(
            f"the scheduler at {self._address} is gone; start a scheduler, then run the command again. Finished work "
            "is kept"
        )

    def _no_worker_text(self, gpu: bool) -> str:
        waited = f"for {self._patience:.0f} s (--patience)"
        finished = "finished work is kept: run the command again when there are workers"
        if not self._snapshot.workers:
            reason = (
                f"{len(self.memory_kills)} workers were stopped because they used their whole memory limit: give "
                "each worker more memory (--memory; in job settings: raise memory or lower processes), or use fewer "
                "--workers"
                if self.memory_kills
                else "; ".join(filter(None, ("look at the workers' logs, or at the queue", suspects())))
            )
            return f"the scheduler at {self._address} has had no worker {waited}; {reason}; {finished}"
        return (
            f"none of the {len(self._snapshot.workers)} workers has had the resource GPU {waited}; start workers "
            f"with --resources GPU=1, or give --device cpu; {finished}"
        )

    def _note_kill(self, event: tuple[float, Mapping[str, Any]]) -> None:
        self.memory_kills[event[1]["worker"]] = event[1]["rss"]

    async def _identity(self) -> Any:
        return await self._client.scheduler.identity(n_workers=-1)
