"""The page ``docs/gpu.md``, made from the stored results of all measured cards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.part_results import is_wrong, table
from benchmarks.page import RESULTS as ALL_RESULTS
from synthpipe.storage.summary import human_bytes

RESULTS = ALL_RESULTS / "gpu"
PAGE = Path(__file__).parent.parent.parent / "docs" / "gpu.md"
_TEXT = Path(__file__).parent / "gpu.md"
_CPU = "CPU"


def write_page(results: Path = RESULTS) -> str:
    """Return the page: its text, and a section for each stored result."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    cards = [each for each in found if each["card"] != _CPU]
    lines = [_TEXT.read_text(encoding="utf-8").rstrip(), "", "## Measurements", ""]
    if not cards:
        lines += [
            "**Nobody has measured a GPU yet.** The results below are those of a CPU.",
            "",
        ]
    for each in cards:
        lines += _section(each)
    for each in found:
        if each["card"] == _CPU:
            lines += _checks(each)
    return "\n".join(lines).rstrip() + "\n"


def _section(result: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"### {result['card']}", "", f"{_about(result)} Memory: {human_bytes(result['memory'])}.", "")
    yield from (*table(result["parts"]), "")


def _checks(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the checks of a run on a CPU without its speeds, which say nothing about a GPU."""
    yield from (
        "### All parts at a small size on a CPU",
        "",
        f"`--cpu` runs the same code on images of {result['scale']['canvas']} pixels, to check that all parts run and "
        "that the results are right. This table has no speeds, because a CPU's say nothing about a GPU. "
        f"{_about(result)}",
        "",
    )
    parts = {name: {**part, "rows": {}, "notes": []} for name, part in result["parts"].items()}
    wrong = [name for name, part in parts.items() if is_wrong(part)]
    yield from (*table(parts), "", f"Failed: {', '.join(wrong)}." if wrong else "All checks passed.", "")


def _about(result: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    if result["card"] == _CPU:
        return f"{versions}."
    return f"{versions}, CUDA {result['cuda']}; {result['cores']} cores; {result['seconds']:.0f} s in all."
