"""Protocols that long-running work uses to report its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Advance(Protocol):
    """Callback that counts finished steps of a stage."""

    def __call__(self, steps: int, remark: str = "") -> None:
        """Count `steps` more finished steps. `remark` is a short text about the work so far."""


class Reporter(Protocol):
    """Show progress to users."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Open a stage of `total` steps, and yield the callback that counts its finished steps."""

    def note(self, message: str) -> None:
        """Show a line of text."""


class Silent:
    """Reporter that shows nothing."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Open a stage without output."""
        return nullcontext(lambda steps, remark="": None)

    def note(self, message: str) -> None:
        """Show nothing."""


@contextmanager
def throttled(advance: Callable[[int], None], seconds: float = 1.0) -> Iterator[Callable[[int], None]]:
    """Yield a callback that counts steps. `advance` gets the counts at most once in `seconds`, and at the end."""
    pending, last = 0, time.monotonic()

    def add(steps: int) -> None:
        nonlocal pending, last
        pending += steps
        if time.monotonic() - last >= seconds:
            advance(pending)
            pending, last = 0, time.monotonic()

    yield add
    if pending:
        advance(pending)
