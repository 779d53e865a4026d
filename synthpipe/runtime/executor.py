"""The interfaces of an executor, which runs the tasks of a build, and of the setup of its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class WorkerSetup(Protocol):
    """What a process needs before its first task. It travels to worker processes by pickle."""

    @property
    def key(self) -> str:
        """Tell the setups of different builds apart."""

    def problems(self) -> list[str]:
        """List why this worker cannot take part; the list is empty if it can."""

    def prepared(self, on_steps: Callable[[int], None]) -> AbstractContextManager[Any]:
        """Get this process ready for the block and yield the state that its tasks share.

        `on_steps` is called with the number of steps as they are done. The block may end in another thread.
        """


class Executor(Protocol):
    """Runs the tasks of a build: in this process (`SerialExecutor`), or on a Dask cluster (`DaskExecutor`)."""

    def hosts(self) -> int:
        """Return the number of machines that tasks run on."""

    def uses_gpus(self) -> bool:
        """Return whether tasks for GPUs run on one."""

    def prepared(self, setup: WorkerSetup, on_steps: Callable[[int], None]) -> AbstractContextManager[None]:
        """Prepare every process that runs tasks for the block; call `on_steps` with the number of steps done."""

    def announced(self, advance: Callable[[int], None]) -> AbstractContextManager[None]:
        """Call `advance` with the steps that tasks announce while the block runs."""

    def run(
        self, function: Callable[[Any, Argument], Result], arguments: Iterable[Argument], gpu: bool = False
    ) -> Iterator[Result]:
        """Yield ``function(state, argument)`` for every argument, in order of completion.

        Arguments are taken only as results are made, so memory does not grow with their number. Tasks must be
        idempotent: one whose worker is lost runs again. A task's own exception is raised unchanged, with a note that
        names the task; the tasks that did not start are dropped.

        Parameters
        ----------
        function, arguments
            What runs. The state is what `WorkerSetup.prepared` yielded in the process of the task; None if no setup
            prepared it.
        gpu : bool
            Whether the tasks are for GPUs, where the executor has any.
        """
