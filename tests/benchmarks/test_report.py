"""The measurement of a report: a real run, a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_it_measures_seconds_bytes_and_memory() -> None:
    command = [sys.executable, "-m", "benchmarks.report", "--composites", "64"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert 0 < found["seconds"] < 60 and 300_000 < found["bytes"] < 10_000_000
    assert found["bytes_before"] < found["peak_bytes"]
