from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.experiments import ROWS
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from tests.conftest import ROOT


@pytest.mark.slow
def test_all_rows_are_measured_and_finished_ones_are_kept(tmp_path: Path) -> None:
    """The whole table with trainings of two steps; then one result is lost, and only that one is made again."""
    data = tmp_path / "data"
    write_phantom(data, PhantomSpec(slides=6, patches=60, size=48, images=1))
    changes = {
        "--set": ("canvas=32", "mosaic.tile=16", "filter.candidates=20", "filter.epochs=1", "filter.batch=8",
                  "filter.network=test_resnet", "store.shard=20"),
        "--train-set": ("network.encoder=tu-test_resnet", "composites=2", "real=2", "epochs=1", "steps_per_epoch=2"),
    }  # fmt: skip
    arguments = [
        *("--patches", data, "--masked", data / "masked", "--val", data / "2.validation", "--test", data / "3.testing"),
        *("--samples", 16, "--seeds", 1, "--no-flips", "--directory", tmp_path / "work"),
        *("--output", tmp_path / "results" / "tiny.json", "--page", tmp_path / "page.md"),
    ]
    for option, values in changes.items():
        arguments += [part for value in values for part in (option, value)]
    command = [sys.executable, "-m", "benchmarks.experiments", *map(str, arguments)]
    environment = {**os.environ, "SYNTHPIPE_DEBUG": "1"}

    def run() -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    run()
    results = tmp_path / "results" / "tiny.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    assert list(found["rows"]) == list(ROWS)
    assert all(0 <= found["rows"][row]["0"]["miou"] <= 1 and found["rows"][row]["0"]["steps"] == 2 for row in ROWS)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in ROWS.values()) and "points of mIoU" in page
    lost = found["rows"]["bezier"].pop("0")
    results.write_text(json.dumps(found), encoding="utf-8")
    log = run()
    assert "Bezier, seed 0" in log and "Mosaic, seed 0" not in log and "training: 0 of" not in log
    again = json.loads(results.read_text(encoding="utf-8"))["rows"]["bezier"]["0"]
    assert {**again, "seconds": 0} == {**lost, "seconds": 0}
