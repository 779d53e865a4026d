from __future__ import annotations

import io
import sys
import time

import pytest

from synthpipe.cli.progress import LogReporter, TerminalReporter


def test_log_lines_tell_rate_time_left_and_remarks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 1.0, 20.0, 20.0, 40.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with LogReporter().stage("scores", 4000) as advance:
        advance(500, "9.9% accepted so far")
        advance(500, "12.5% accepted so far")
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "scores: 0 of 4000",
        "scores: 1000 of 4000, 50 per second, 0:01:00 left, 12.5% accepted so far",
        "scores: 1000 in 40.0 s, 12.5% accepted so far",
    ]


def test_bars_show_rate_and_remarks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with TerminalReporter().stage("scores", 10) as advance:
        advance(5, "20.0% accepted so far")
        advance(5)
    shown = terminal.getvalue()
    assert "5/10" in shown and " per second, 20.0% accepted so far" in shown and "10/10" in shown
