"""Run ``docs/explore.ipynb`` beside a run, and store its outputs in it: ``python -m tests.notebook [FOLDER]``.

The folder holds ``runs/demo`` and ``data/phantom``, as `make demo` makes them; by default it is the current one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.conftest import ROOT

FILE = ROOT / "docs" / "explore.ipynb"


def executed(folder: Path) -> NotebookNode:
    """Return the notebook with the outputs that it has in `folder`, and its own metadata."""
    notebook: NotebookNode = nbformat.read(FILE, as_version=4)  # type: ignore[no-untyped-call]
    metadata = dict(notebook.metadata)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, record_timing=False, resources=resources).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                del output["data"]["text/plain"]  # long, and seen by nobody
    notebook.metadata = NotebookNode(metadata)  # type: ignore[no-untyped-call]
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(Path(*sys.argv[1:2])), FILE)  # type: ignore[no-untyped-call]
