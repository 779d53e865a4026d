"""Write results as JSON, and make the page ``docs/performance.md`` from those of `benchmarks`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from synthpipe.files.writing import write_atomically
from synthpipe.storage.summary import human_bytes

RESULTS = Path(__file__).parent / "results"


def write_result(path: Path, result: Any) -> None:
    """Write a result as JSON, and make its folder; an interruption keeps the previous file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + "\n")


def write_page(results: Path = RESULTS) -> str:
    """Return the page: its text, and a section for each JSON file in `results`."""
    lines = [(Path(__file__).parent / "performance.md").read_text(encoding="utf-8").rstrip(), ""]
    for path in sorted(results.glob("*.json")):
        lines += _section(json.loads(path.read_text(encoding="utf-8")))
    return "\n".join(lines).rstrip() + "\n"


def _section(results: Mapping[str, Any]) -> list[str]:
    donors, machine = results["donors"], results["machine"]
    lines = [
        f"## {donors['name']}",
        "",
        f"{donors['count']} donors of {donors['name']}, canvas {donors['canvas'][0]} x {donors['canvas'][1]};"
        f" {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB;"
        f" median of {results['rounds']} rounds (lowest-highest).",
        "",
        ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
        "",
    ]
    if results["rows"]:
        head: tuple[str, ...] = ("task", "composites per second", "ratio", "target")
        lines += _table(
            head,
            [[row["what"], _rate(row["rate"]), shares(row["ratios"]), row["target"]] for row in results["rows"]],
        )
    if "codecs" in results:
        head = ("array", "codec", "size", "Mosaic stage, per second", "random reads, per second")
        lines += _table(
            head,
            [
                [each["kind"], each["codec"], f"{each['size']:.1%}", _rate(each["stage"]), _rate(each["read"])]
                for each in results["codecs"]
            ],
        )
    if "worker_memory" in results:
        memory = results["worker_memory"]
        lines += [f"The size of the donor bank is {human_bytes(memory['bank_bytes'])}.", ""]
        lines += _table(
            ("process", "resident memory", "donor bank in it", "proportional share of the bank"),
            [
                [f"worker {number}", *(human_bytes(process[key]) for key in ("rss", "bank_rss", "bank_pss"))]
                for number, process in enumerate(memory["processes"], 1)
            ],
        )
    if "driver_memory" in results:
        lines += _table(
            ("composites", "driver's peak memory", "seconds"),
            [
                [f"{each['composites']:,}", human_bytes(each["peak_bytes"]), f"{each['seconds']:.0f}"]
                for each in results["driver_memory"]
            ],
        )
    return lines


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = tuple(head)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] + [""]


def _rate(rate: Mapping[str, float]) -> str:
    return f"{rate['median']:,.0f} ({rate['low']:,.0f}-{rate['high']:,.0f})"


def shares(ratios: Mapping[str, float]) -> str:
    """Return ratios as text, such as ``2.00 (a) files, 3.00 (b) copy``."""
    return ", ".join(f"{ratio:.2f} {name}" if ratio < 10 else f"{ratio:.0f} {name}" for name, ratio in ratios.items())
