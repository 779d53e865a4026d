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
    sizes = ["--count", "80", "--canvas", "32", "--read", "80", "--read-canvas", "32", "--driver", "200"]
    command = [sys.executable, "-m", "benchmarks.virtual", *sizes, "--patches", "40"]
    for part in ("compare", "", ""):  # the second command adds the other parts, the third one measures nothing
        done = subprocess.run(
            [*command, "-o", str(result), "--page", str(page), "--part", part],
            cwd=ROOT, check=True, timeout=600, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.stdout == ""
    parts = json.loads(result.read_text())["parts"]
    assert list(parts) == [
        *("compare mosaic", "compare bezier", "reading mosaic", "reading bezier", "driver 1", "driver 200")
    ]
    rows = [parts["compare mosaic"], parts["compare bezier"]]
    assert all((row["composites"], row["equal"]) == (80, 80) for row in rows)
    assert all(row["bytes_per_million"]["virtual"] < row["bytes_per_million"]["virtual with recipes"] for row in rows)
    text = page.read_text()
    assert "| of these with equal pixels, virtual and stored | 80 | 80 | all |" in text
    assert "not measured" not in text and "| 200 |" in text


def test_without_a_measurement_the_page_says_so(tmp_path: Path) -> None:
    assert "have not been measured yet" in write_page(tmp_path / "virtual.json")
