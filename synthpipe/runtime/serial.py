"""Run tasks one after the other in this process, without Dask and without other processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from synthpipe.core.errors import ClusterError
from synthpipe.runtime.executor import WorkerSetup
from synthpipe.runtime.local import NO_GPU, VISIBLE, devices_of
from synthpipe.runtime.progress import announcements_to, warnings_to
from synthpipe.runtime.settings import ClusterSettings, Demand, Local

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class SerialExecutor:
    """Run tasks in the process and thread that asks for their results."""

    def __init__(self, on_gpu: bool, note: Callable[[str], None]) -> None:
        self._on_gpu, self._note = on_gpu, note
        self._state: Any = None  # from the setup that prepared this process

    def hosts(self) -> int:
        """Return 1, because all tasks run on this machine."""
        return 1

    def uses_gpus(self) -> bool:
        """Return whether this process has a GPU."""
        return self._on_gpu

    @contextmanager
    def prepared(self, setup: WorkerSetup, on_steps: Callable[[int], None]) -> Iterator[None]:
        """Prepare this process to run tasks inside the block. Call `on_steps` with numbers of finished steps."""
        with ExitStack() as stack:
            stack.callback(setattr, self, "_state", None)
            with warnings_to(self._note):
                self._state = stack.enter_context(setup.prepared(on_steps))
            yield

    def announced(self, advance: Callable[[int], None]) -> AbstractContextManager[None]:
        """Call `advance` with the steps that tasks announce while the block runs."""
        return announcements_to(advance)

    def run(
        self, function: Callable[[Any, Argument], Result], arguments: Iterable[Argument], gpu: bool = False
    ) -> Iterator[Result]:
        """Yield ``function(state, argument)`` for every argument, in order; see `Executor.run`."""
        for argument in arguments:
            try:
                result = function(self._state, argument)
            except Exception as error:
                error.add_note(f"in {argument!r}")
                raise
            yield result


@contextmanager
def open_serial(
    settings: ClusterSettings, local: Local, demand: Demand, note: Callable[[str], None]
) -> Iterator[SerialExecutor]:
    """Open an executor that runs tasks in this process, with at most one GPU.

    Raises
    ------
    ClusterError
        The settings require a GPU, but torch sees no GPU.
    """
    devices = devices_of(local, settings.device, demand)[:1]
    if settings.device == "cuda" and not devices:
        raise ClusterError(NO_GPU)
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(devices)
    try:
        yield SerialExecutor(bool(devices), note)
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
