"""Interfaces of executors and of worker setups. An executor runs the tasks of a build."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class WorkerSetup(Protocol):
    """The setup of a process before its first task. The setup is pickled and sent to worker processes."""

    @property
    def key(self) -> str:
        """A text that differs between the setups of different builds."""

    def problems(self) -> list[str]:
        """Return the reasons why this worker cannot run the build, or an empty list if there are none."""

    def prepared(self, on_steps: Callable[[int], None]) -> AbstractContextManager[Any]:
        """Prepare this process to run tasks inside the block, and yield the state that the tasks share.

        `on_steps` is called with numbers of finished steps. The block may end in another thread.
        """


class Executor(Protocol):
    """Run the tasks of a build, in this process (`SerialExecutor`) or on a Dask cluster (`DaskExecutor`)."""

    def hosts(self) -> int:
        """Return the number of machines that run tasks."""

    def uses_gpus(self) -> bool:
        """Return whether tasks that ask for a GPU run on a GPU."""

    def prepared(self, setup: WorkerSetup, on_steps: Callable[[int], None]) -> AbstractContextManager[None]:
        """Prepare every process that runs tasks inside the block. Call `on_steps` with numbers of finished steps."""

    def announced(self, advance: Callable[[int], None]) -> AbstractContextManager[None]:
        """Call `advance` with the steps that tasks announce while the block runs."""

    def run(
        self, function: Callable[[Any, Argument], Result], arguments: Iterable[Argument], gpu: bool = False
    ) -> Iterator[Result]:
        """Yield ``function(state, argument)`` for every argument, in order of completion.

        Arguments are read only as fast as tasks finish, so memory does not grow with their number. Tasks must be
        idempotent, because a task runs again if its worker is lost. The exception of a task is raised unchanged, with a
        note that names the task. Tasks that have not started are then dropped.

        Parameters
        ----------
        function, arguments
            A task is one call of the function with the worker's state and one argument. The state is what
            `WorkerSetup.prepared` yielded in the task's process, or None without a setup.
        gpu : bool
            Whether the tasks use a GPU if the executor has one.
        """
