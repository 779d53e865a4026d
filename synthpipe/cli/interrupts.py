"""Ctrl-C and SIGTERM while something is made: what was begun is cleaned up, once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first of both signals raise `KeyboardInterrupt` in the block, and have no more of them disturb its end.

    A scheduler's time limit sends SIGTERM; people press Ctrl-C twice. Where Ctrl-C is ignored, as behind ``nohup``, it
    stays so.
    """
    stopped = False

    def stop(*_: object) -> NoReturn:
        nonlocal stopped
        stopped = True
        for number in before:
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM, *([signal.SIGINT] if callable(signal.getsignal(signal.SIGINT)) else [])]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        if not stopped:  # else the process is about to end
            for number, handler in before.items():
                signal.signal(number, handler)
