"""Results of a part, stored in a file while the part runs, so that a part that fails or is stopped loses none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from synthpipe.files.writing import write_atomically
from synthpipe.storage.summary import human_bytes


class PartResults:
    """The results of a part: rows of figures, and checks that are right or wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {"rows": {}, "checks": {}}

    def row(self, name: str, figures: Mapping[str, float | int]) -> None:
        """Store a row of figures; the keys are those of `FIGURES`."""
        self._found["rows"][name] = dict(figures)
        self._keep()

    def check(self, name: str, right: bool) -> None:
        """Store whether a result is right."""
        self._found["checks"][name] = bool(right)
        self._keep()

    def note(self, text: str) -> None:
        """Store a remark."""
        self._found.setdefault("notes", []).append(text)
        self._keep()

    def error(self, text: str) -> None:
        """Store the error that ended the part."""
        self._found["error"] = " ".join(text.split())[-1500:]
        self._keep()

    def _keep(self) -> None:
        write_atomically(self._path, json.dumps(self._found))


FIGURES: Mapping[str, Callable[[Any], str]] = {
    "images_a_second": lambda value: f"{value:,.0f} images/s",
    "of_bare": lambda value: f"{value:.0%} of the bare network",
    "waiting_share": lambda value: f"waits {value:.1%} of the time for data",
    "gpu_utilisation": lambda value: f"GPU {value:.0f} % busy",
    "peak_memory": lambda value: f"{human_bytes(value)} at most",
    "seconds": lambda value: f"{value:.1f} s",
    "largest_difference": lambda value: f"{value:.2g} at most",
    "difference_before_the_kill": lambda value: f"{value:.2g} before the kill",
    "steps_before_the_kill": lambda value: f"killed after step {value}",
}
"""The text of each figure on the page."""


def phrase(row: Mapping[str, Any]) -> str:
    """Return the figures of a row as one text."""
    return "; ".join(write(row[key]) for key, write in FIGURES.items() if row.get(key) is not None)


def is_wrong(part: Mapping[str, Any]) -> bool:
    """Whether a part has an error or a failed check."""
    return "error" in part or not all(part["checks"].values())


def table(parts: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table with a row for each measurement, check, remark and error."""
    lines = ["| part | measurement or check | result |", "|---|---|---|"]
    for name, part in parts.items():
        cells = [(what, phrase(row)) for what, row in part["rows"].items()]
        cells += [(what, "yes" if right else "**NO**") for what, right in part["checks"].items()]
        cells += [("note", text) for text in part.get("notes", ())]
        if "error" in part:
            cells.append(("**failed**", part["error"][:300].replace("|", "\\|")))
        lines += [f"| {name} | {what} | {result} |" for what, result in cells]
    return lines
