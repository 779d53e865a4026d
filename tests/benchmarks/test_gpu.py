from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_filter_and_scores_are_measured_and_checked(tmp_path: Path) -> None:
    result = tmp_path / "gpu.json"
    parts = ("--part", "filter training", "--part", "scoring", "--part", "full memory")
    command = [sys.executable, "-m", "benchmarks.gpu", "--cpu", *parts, "-o", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert found["card"] == "CPU" and found["versions"]["torch"]
    scoring = found["parts"]["scoring"]
    assert scoring["images_a_second"] > 0 and scoring["bare_images_a_second"] > 0
    assert scoring["check"] == {"any order, equal bits": True, "alone or among others, equal bits": True}
    assert found["parts"]["filter training"]["check"] == {"same seed, same weights": True}
    assert "| scoring | any order, equal bits | yes |" in done.stdout
