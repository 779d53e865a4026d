"""Where long work tells how far it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Advance(Protocol):
    """Tells that some steps of a stage are done."""

    def __call__(self, steps: int, remark: str = "") -> None:
        """Count `steps` more; `remark` says how it goes so far."""


class Reporter(Protocol):
    """Who shows it to people."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Open a stage of `total` steps; what it yields is called whenever some are done."""

    def note(self, message: str) -> None:
        """Tell something that is worth a line."""


class Silent:
    """Shows nothing: what a process has that works beside the one that reports."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Open a stage that nobody sees."""
        return nullcontext(lambda steps, remark="": None)

    def note(self, message: str) -> None:
        """Tell nobody."""
