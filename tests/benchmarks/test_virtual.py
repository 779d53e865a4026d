from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.virtual import write_page
from tests.conftest import ROOT


@pytest.mark.slow
def test_a_small_measurement_runs_to_the_end(tmp_path: Path) -> None:
    result, page = tmp_path / "virtual.json", tmp_path / "page.md"
    arguments = ["--count", "80", "--canvas", "32", "--patches", "40", "-o", str(result), "--page", str(page)]
    subprocess.run([sys.executable, "-m", "benchmarks.virtual", *arguments], cwd=ROOT, check=True, timeout=600)
    rows = json.loads(result.read_text())["strategies"]
    assert {row["strategy"]: (row["composites"], row["equal"]) for row in rows} == dict.fromkeys(
        ("mosaic", "bezier"), (80, 80)
    )
    assert all(row["bytes_per_million"]["virtual"] < row["bytes_per_million"]["virtual with recipes"] for row in rows)
    assert "| of these with equal pixels, virtual and stored | 80 | 80 |" in page.read_text()


def test_without_a_measurement_the_page_says_so(tmp_path: Path) -> None:
    assert "have not been measured yet" in write_page(tmp_path / "virtual.json")
