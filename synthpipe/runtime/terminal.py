"""Hide Dask's messages from the terminal, and Ctrl-C from worker processes, while a cluster runs."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

_WARNINGS = "PYTHONWARNINGS"


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Dask's own messages from the terminal while the block runs. Errors are still raised as exceptions."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    handlers = [handler for name in names for handler in logging.getLogger(name).handlers]
    # asyncio and tornado log Dask's forgotten futures if several workers end at once
    loud: list[logging.Handler | logging.Logger] = [*handlers, *map(logging.getLogger, ("asyncio", "tornado"))]
    muted = {each: each.level for each in loud}
    for each in muted:
        each.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for each, level in muted.items():
            each.setLevel(level)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block ends.

    Processes that start in the block never receive Ctrl-C; this process stops them.
    """
    _start_resource_tracker()
    came: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # blocking is not enough: the system passes the signal to another thread, but Python's handler runs in this one
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        for number in (signal.SIGTERM, *(() if ignored else (signal.SIGINT,))):
            handlers[number] = signal.signal(number, lambda number, _: came.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if came:
            os.kill(os.getpid(), came[0])


def _start_resource_tracker() -> None:
    """Start multiprocessing's resource tracker before Ctrl-C is blocked, because its start would unblock Ctrl-C.

    The tracker's warnings about leftovers of killed workers are switched off, because it removes the leftovers itself.
    """
    before = os.environ.get(_WARNINGS)
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ[_WARNINGS] = f"{before},{quiet}" if before else quiet
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ[_WARNINGS]
        else:
            os.environ[_WARNINGS] = before
