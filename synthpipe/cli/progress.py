"""Show progress: bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from synthpipe.cli.output import plain, say
from synthpipe.core.progress import Advance, Silent

_SECONDS_BETWEEN_LINES = 10.0


class TerminalReporter:
    """Show a progress bar for each stage on standard error, with its rate and the remaining time."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        if not total:
            yield lambda steps, remark="": None
            return
        start, done = time.monotonic(), 0
        with click.progressbar(
            length=total, label=f"{plain(title):28}", show_pos=True, item_show_func=lambda shown: shown, file=sys.stderr
        ) as bar:

            def advance(steps: int, remark: str = "") -> None:
                nonlocal done
                done += steps
                rate = _rate(done, time.monotonic() - start)
                bar.update(steps, f"{rate}, {plain(remark)}" if remark else rate)

            yield advance

    def note(self, message: str) -> None:
        click.echo(f"\r\033[K{plain(message)}", err=True)  # replaces a bar, which is drawn again below


class LogReporter:
    """Print log lines when a stage begins, from time to time, and when it ends."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        start = latest = time.monotonic()
        done = 0
        if total:
            self.note(f"{title}: 0 of {total}")

        latest_remark = ""

        def advance(steps: int, remark: str = "") -> None:
            nonlocal done, latest, latest_remark
            done += steps
            latest_remark = f", {remark}" if remark else ""
            if time.monotonic() - latest >= _SECONDS_BETWEEN_LINES:
                latest = time.monotonic()
                left = _duration((total - done) * (latest - start) / done) if done else "unknown"
                rate = _rate(done, latest - start)
                self.note(f"{title}: {done} of {total}, {rate}, {left} left{latest_remark}")

        yield advance
        if done:
            self.note(f"{title}: {done} in {time.monotonic() - start:.1f} s{latest_remark}")

    def note(self, message: str) -> None:
        say(f"{time.strftime('%H:%M:%S')} {message}", err=True)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _rate(steps: int, seconds: float) -> str:
    rate = steps / max(seconds, 1e-9)
    if not rate:
        return "nothing yet"
    return (
        f"{rate:.0f} per second" if rate >= 10 else f"{rate:.1f} per second" if rate >= 1 else f"{1 / rate:.0f} s each"
    )


def reporter() -> TerminalReporter | LogReporter | Silent:
    """Return a reporter: bars on a terminal, else log lines; only the first process of a training reports."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return Silent()
    return TerminalReporter() if sys.stderr.isatty() else LogReporter()
