from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_a_small_measurement_runs_to_the_end(tmp_path: Path) -> None:
    result = tmp_path / "training.json"
    changes = ("network.encoder=tu-test_resnet", "network.architecture=Unet", "composites=2", "real=2")
    arguments = ["--size", "48", "--steps", "12", "--readers", "1", "-o", str(result)]
    arguments += [part for change in changes for part in ("--train-set", change)]
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(result.read_text())
    assert list(rows) == ["32", "mixed"]
    assert all(
        row["steps"] == 12 and row["images_a_second"] > 0 and 0 <= row["waiting_share"] < 1 for row in rows.values()
    )
    assert [line.split(" | ")[0] for line in done.stdout.splitlines()[-2:]] == ["| 32-true", "| 32-true"]
