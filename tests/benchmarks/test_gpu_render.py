from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_the_whole_command_runs_in_the_simulator(tmp_path: Path) -> None:
    result = tmp_path / "simulated.json"
    command = [sys.executable, "-m", "benchmarks.gpu_render", "--simulate", "--composites", "5", "--processes", "1"]
    done = subprocess.run(
        [*command, "-o", str(result)], cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert found["card"] == "numba's simulator" and found["versions"]["numba"]
    assert found["checks"] == {f"{name}: equal bytes on GPU and CPU": True for name in ("mosaic", "bezier")}
    for strategy in ("mosaic", "bezier"):
        assert found["equality"][strategy] == {"composites": 5, "different": 0, "first": []}
        assert set(found["rates"]["rows"][f"{strategy} 10"]) == {"uploaded", "packed", "sampled", "sampling", "cpu"}
    assert found["scoring"]["of_bare"] > 0
