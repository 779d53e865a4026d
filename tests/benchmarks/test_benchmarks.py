from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_a_small_measurement_runs_to_the_end(tmp_path: Path) -> None:
    arguments = [
        "--rounds",
        "1",
        "--composites",
        "2000",
        "-o",
        str(tmp_path / "out.json"),
        "--page",
        str(tmp_path / "p.md"),
    ]
    for setting in ("canvas=32", "mosaic.tile=16", "store.shard=32"):
        arguments += ["--set", setting]
    environment = {**os.environ, "BENCH_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, env=environment, check=True, timeout=300)
    results = json.loads((tmp_path / "out.json").read_text())
    assert [row["what"] for row in results["rows"]] == [
        "render mosaic",
        "sample and render mosaic",
        "render bezier",
        "sample and render bezier",
        "mosaic into Zarr",
        "bezier into Zarr",
        "mosaic into Zarr, two workers",
        "bezier into Zarr, two workers",
        "random samples, torch Dataset",
        "random batches of 32, DataLoader",
        "sequential scan",
    ]
    assert all(min(row["rate"]["runs"]) > 0 and min(row["ratios"].values()) > 0 for row in results["rows"])
    assert [each["codec"] for each in results["codecs"]] == ["none", "zstd", "blosc-lz4"] * 2
    assert all(0 < each["size"] < 1.1 for each in results["codecs"])
    assert [each["composites"] for each in results["driver_memory"]] == [20, 2000]
    for process in results["worker_memory"]["processes"]:
        assert 0 < process["bank_pss"] < process["bank_rss"] < process["rss"]
    page = (tmp_path / "p.md").read_text()
    assert page.startswith("# Performance") and "| render mosaic |" in page and str(tmp_path) not in page
