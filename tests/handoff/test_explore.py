"""The notebook, run by a kernel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.conftest import ROOT

FILE = ROOT / "docs" / "explore.ipynb"


def test_the_notebook_runs_and_shows_what_it_says(beside: Path) -> None:
    notebook = nbformat.read(FILE, as_version=4)  # type: ignore[no-untyped-call]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(beside)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown: list[dict[str, Any]] = [
        {kind: data for output in cell.outputs for kind, data in output.get("data", {}).items()} for cell in cells
    ]
    run, sample, figure, recipe, verdicts, candidate, shares, weights, parts, batch = shown
    assert "run of demo, finished" in run["text/html"] and "80 samples (20 mosaic, 60 bezier)" in run["text/html"]
    assert sample["text/html"].count("<img") == 3
    for picture in (figure, candidate, shares):
        assert picture["image/png"]
    assert "'canvas': [64, 64]" in recipe["text/plain"] and "'kept': 60" in verdicts["text/plain"]
    assert re.search("'too_few_classes': [1-9]", verdicts["text/plain"])
    assert re.search(r"<td[^>]*>60</td><td[^>]*>\d+ too few classes", run["text/html"])
    assert "'tumour': " in weights["text/plain"] and "'real images to validate on': 2" in parts["text/plain"]
    assert "((4, 3, 64, 64), 'torch.uint8')" in batch["text/plain"]
