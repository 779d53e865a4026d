from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_a_small_measurement_runs_to_the_end(tmp_path: Path) -> None:
    result, page = tmp_path / "tasks.json", tmp_path / "page.md"
    arguments = ["--tasks", "200", "--workers", "1", "-o", str(result), "--page", str(page)]
    subprocess.run([sys.executable, "-m", "benchmarks.scaling", *arguments], cwd=ROOT, check=True, timeout=120)
    found = json.loads(result.read_text())
    assert found["tasks"] == 200 and len(found["memory"]) == 10
    assert [each["shard"] for each in found["verdicts"]] == [512, 1024, 2048, 4096, 8192]
    assert all(each["shards"] == 2 and each["judging_seconds"] > 0 for each in found["verdicts"])
    assert 0 < found["driver_cpu_seconds"] < found["seconds"] * 4
    assert page.read_text().startswith("# Scaling") and "200 tasks on 1 local workers" in page.read_text()
