"""The notebook, run by a kernel; and its stored outputs."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from tests.notebook import FILE, executed

_LARGEST = 1 << 20  # bytes


def shown_by(notebook: NotebookNode) -> list[dict[str, Any]]:
    """Return the outputs of each code cell, by kind."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [{kind: data for output in cell.outputs for kind, data in output.get("data", {}).items()} for cell in cells]


def test_the_notebook_runs_and_shows_what_it_says(beside: Path) -> None:
    notebook = executed(beside)
    shown = shown_by(notebook)
    run, sample, figure, recipe, verdicts, candidate, shares, weights, parts, batch = shown
    assert "run of demo, finished" in run["text/html"] and "80 samples (20 Mosaic, 60 Bezier)" in run["text/html"]
    assert sample["text/html"].count("<img") == 3
    for picture in (figure, candidate, shares):
        assert picture["image/png"]
    assert "'canvas': [64, 64]" in recipe["text/plain"] and "'kept': 60" in verdicts["text/plain"]
    assert re.search("'too_few_classes': [1-9]", verdicts["text/plain"])
    assert re.search(r"<td[^>]*>60</td><td[^>]*>\d+ too few classes", run["text/html"])
    assert "'tumour': " in weights["text/plain"] and "'real images to validate on': 2" in parts["text/plain"]
    assert "((4, 3, 64, 64), 'torch.uint8')" in batch["text/plain"]
    stored = nbformat.read(FILE, as_version=4)  # type: ignore[no-untyped-call]
    assert [sorted(each) for each in shown_by(stored)] == [sorted(each) for each in shown], "make notebook renews it"


def test_the_notebook_carries_outputs_of_the_demo_and_nothing_of_a_machine() -> None:
    notebook = nbformat.read(FILE, as_version=4)  # type: ignore[no-untyped-call]
    assert FILE.stat().st_size < _LARGEST
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and all(output.output_type in ("execute_result", "display_data") for output in outputs)
    assert all(shown_by(notebook)) and "runs/demo" in shown_by(notebook)[0]["text/html"]
    text = FILE.read_text(encoding="utf-8")
    text = re.sub(r'data:image/[^"\\]*|"image/png": "[^"]*"', "", text)
    assert not re.search(r"(?<![\w.:/])/\w+/\w+", re.sub(r"</\w+>", "", text)) and platform.node() not in text
    assert all(not cell.metadata for cell in notebook.cells) and "version" not in notebook.metadata.language_info
