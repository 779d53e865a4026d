"""Pass warnings, and the steps that tasks announce, to the process that waits for the tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from distributed import Client, get_worker

ANNOUNCED = "synthpipe-progress"
"""Topic of the steps that tasks announce on a Dask cluster."""

_LOGGER = logging.getLogger("synthpipe")
_listener: ContextVar[Callable[[int], None] | None] = ContextVar("listener", default=None)


def announce(steps: int) -> None:
    """Report, from inside a task, that `steps` more steps are done."""
    if listener := _listener.get():
        listener(steps)
    else:
        get_worker().log_event(ANNOUNCED, steps)


@contextmanager
def announcements_to(advance: Callable[[int], None]) -> Iterator[None]:
    """Call `advance` with the steps that tasks of this thread announce while the block runs."""
    token = _listener.set(advance)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def warnings_to(note: Callable[[str], None]) -> Iterator[None]:
    """Call `note` with the warnings that synthpipe logs in this process while the block runs."""
    handler = _Notes(note)
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)


class _Notes(logging.Handler):
    """Logging handler that passes the text of warnings to a function."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage())


@contextmanager
def subscribed(client: Client, topic: str, advance: Callable[[int], None]) -> Iterator[None]:
    """Call `advance` with the numbers that workers log under `topic` while the block runs."""
    client.subscribe_topic(topic, lambda event: advance(event[1]))
    try:
        yield
    finally:
        with suppress(Exception):  # the scheduler may be gone
            client.unsubscribe_topic(topic)
