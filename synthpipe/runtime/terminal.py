"""Keep Dask's messages from the terminal, and Ctrl-C from worker processes, while a cluster runs."""

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
    """Keep Dask's own messages from the terminal; errors arrive as exceptions."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    handlers = [handler for name in names for handler in logging.getLogger(name).handlers]
    # asyncio and tornado tell of Dask's forgotten futures, when several workers end at once
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
    """Hold Ctrl-C and SIGTERM back while the block runs.

    Processes that it starts never see Ctrl-C: who started them stops them.
    """
    _start_resource_tracker()
    came: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # blocking is not enough: the system gives the signal to another thread, and Python's handler runs in this one
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
    """Start what starting processes needs, and what lets Ctrl-C through while it starts.

    At the end it would tell the terminal of what killed workers left, which it has removed by then.
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
