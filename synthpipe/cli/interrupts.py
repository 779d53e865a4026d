"""Handle Ctrl-C and SIGTERM so that interrupted work is cleaned up once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` at the first SIGINT or SIGTERM in the block, and ignore later ones.

    Job queues send SIGTERM at a time limit, and people press Ctrl-C twice. If Ctrl-C is ignored, as under ``nohup``, it
    stays ignored.
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
        if not stopped:  # an interrupted process is about to end
            for number, handler in before.items():
                signal.signal(number, handler)
