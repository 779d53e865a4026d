from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.export.conftest import noise


@pytest.mark.slow
def test_a_small_measurement_runs_to_the_end(tmp_path: Path) -> None:
    curated, result, page = noise(tmp_path / "set.zarr").path, tmp_path / "forms.json", tmp_path / "page.md"
    arguments = [str(curated), "--part", "5", "--workers", "1", "-o", str(result), "--page", str(page)]
    subprocess.run([sys.executable, "-m", "benchmarks.export", *arguments], cwd=ROOT, check=True, timeout=300)
    rows = json.loads(result.read_text())["forms"]
    files = {"png": 24, "webdataset": 3, "hf": 3, "coco": 15, "nnunet": 24, "fiftyone": 36}
    assert {row["form"]: row["files"] for row in rows} == files
    assert all(row["bytes"] > 0 and row["read_a_second"] > row["checked_a_second"] for row in rows)
    assert "12 composites of procedural tissue, 24 x 20 pixels" in page.read_text()
