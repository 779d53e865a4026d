"""Showing how far a build is: bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

_SECONDS_BETWEEN_LINES = 10.0


class TerminalReporter:
    """A progress bar a stage, with rate and the time that is left, on standard error."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        if not total:
            yield lambda steps: None
            return
        with click.progressbar(length=total, label=f"{title:28}", show_pos=True, file=sys.stderr) as bar:
            yield bar.update

    def note(self, message: str) -> None:
        click.echo(f"\r\033[K{message}", err=True)  # in the place of a bar, which is drawn anew below


class LogReporter:
    """Plain lines for logs: when a stage begins, from time to time, and when it ends with its seconds."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        start = latest = time.monotonic()
        done = 0
        if total:
            self.note(f"{title}: 0 of {total}")

        def advance(steps: int) -> None:
            nonlocal done, latest
            done += steps
            if time.monotonic() - latest >= _SECONDS_BETWEEN_LINES:
                latest = time.monotonic()
                self.note(f"{title}: {done} of {total}, {_rate(done, latest - start)}")

        yield advance
        if done:
            self.note(f"{title}: {done} in {time.monotonic() - start:.1f} s")

    def note(self, message: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {message}", err=True)


def _rate(steps: int, seconds: float) -> str:
    rate = steps / seconds
    return f"{rate:.0f} a second" if rate >= 10 else f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.0f} s each"


def reporter() -> TerminalReporter | LogReporter:
    """Return bars where standard error is a terminal, else log lines."""
    return TerminalReporter() if sys.stderr.isatty() else LogReporter()
