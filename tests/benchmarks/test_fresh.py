from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.experiments import FRESH_ROWS, write_page
from tests.conftest import ROOT


def test_the_page_compares_fresh_composites_with_the_set(tmp_path: Path) -> None:
    source = json.loads((ROOT / "benchmarks/results/experiments/phantom.json").read_text(encoding="utf-8"))
    rows = {row: {"0": {**source["rows"]["both"]["0"], "miou": 0.5 + 0.01 * n}} for n, row in enumerate(FRESH_ROWS)}
    (tmp_path / "fresh.json").write_text(json.dumps({**source, "rows": rows}), encoding="utf-8")
    page = write_page(tmp_path)
    assert all(f"| {name} | 0.5" in page for name in FRESH_ROWS.values())
    assert "- Fresh composites: +1.0 points of mIoU (+1.0); all seeds gain." in page
    assert "- Fresh composites, at four times the steps: +1.0 points" in page


@pytest.mark.slow
def test_rows_are_measured_with_both_networks_and_finished_ones_are_kept(tmp_path: Path) -> None:
    """With trainings of two and of eight steps; then one result is lost, and only that one is made again."""
    arguments = [
        *("--sets", "phantom", "--samples", "16", "--seeds", "1", "--directory", str(tmp_path / "work")),
        *("--output", str(tmp_path / "results"), "--page", str(tmp_path / "page.md")),
        *("--train-set", "epochs=1", "--train-set", "steps_per_epoch=2"),
        *("--train-set", "composites=1", "--train-set", "real=1"),
    ]

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.fresh", *arguments], cwd=ROOT, env=dict(os.environ),
            capture_output=True, text=True, timeout=1500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    run()
    for name, weights in (("phantom-fresh", None), ("phantom-fresh-imagenet", "efficientnet_lite0.pth")):
        found = json.loads((tmp_path / "results" / f"{name}.json").read_text(encoding="utf-8"))
        assert {row: each["0"]["steps"] for row, each in found["rows"].items()} == {
            "both": 2, "fresh": 2, "both-long": 8, "fresh-long": 8,
        }  # fmt: skip
        assert found["about"]["weights"] == weights or (weights and "/" not in found["about"]["weights"])
    path = tmp_path / "results" / "phantom-fresh.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    lost = found["rows"]["fresh"].pop("0")
    path.write_text(json.dumps(found), encoding="utf-8")
    log = run()
    assert f"{FRESH_ROWS['fresh']}, seed 0" in log and f"{FRESH_ROWS['both-long']}, seed 0" not in log
    again = json.loads(path.read_text(encoding="utf-8"))["rows"]["fresh"]["0"]
    assert {**again, "seconds": 0} == {**lost, "seconds": 0}
