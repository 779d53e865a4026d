"""The page ``docs/datacomp.md``, made from the stored results."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.datacomp.rows import ROWS
from benchmarks.datacomp.sets import SETS
from benchmarks.datacomp.statistics import compared
from benchmarks.datacomp.stored_results import Result, read_all
from benchmarks.datacomp.trainer import TRAINERS
from synthpipe.config.fields import differences
from synthpipe.core.errors import ConfigError
from synthpipe.segment import metrics

RESULTS = Path(__file__).parents[1] / "results" / "datacomp"
PAGE = Path(__file__).parents[2] / "docs" / "datacomp.md"

Table = Mapping[str, Mapping[int, Result]]
"""Results by row and seed."""


def write_page(results: Path = RESULTS) -> str:
    """Return the page: its text, and a section for each data set, network and size in `results`.

    Raises
    ------
    ConfigError
        Results of one table come from different settings, so they cannot be compared.
    """
    lines = [(Path(__file__).parent / "datacomp.md").read_text(encoding="utf-8").rstrip(), ""]
    tables: dict[tuple[str, str, int], dict[str, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
    for result in read_all(results):
        cell = result.cell
        tables[cell.data, cell.trainer, cell.size][cell.row][cell.seed] = result
    for data in SETS:
        for trainer in TRAINERS:
            for size in sorted({size for *names, size in tables if names == [data, trainer]}):
                found = tables[data, trainer, size]
                if rows := {row: dict(sorted(found[row].items())) for row in ROWS if row in found}:
                    _check(rows, results)
                    lines += _section(f"{data}, {trainer}, {size} samples", rows)
    if not tables:
        lines += ["No results yet.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _check(rows: Table, results: Path) -> None:
    """Raise ConfigError if results come from different settings; only the recipe may differ between rows."""
    first = _one(rows)
    for seeds in rows.values():
        recipe = next(iter(seeds.values())).about["made by"]["recipe"]
        for each in seeds.values():
            changes = list(differences({**first.about["made by"], "recipe": recipe}, each.about["made by"]))
            if changes:
                raise ConfigError(
                    f"{results / each.cell.file}: comes from other settings than the first result of its table "
                    f"({'; '.join(changes)[:400]}); delete the outdated results and measure them again"
                )


def _one(rows: Table) -> Result:
    return next(iter(next(iter(rows.values())).values()))


def _section(title: str, rows: Table) -> Iterator[str]:
    one = _one(rows)
    trainer, (about, _) = one.about["made by"]["trainer"], SETS[one.cell.data]
    times = [each.about["seconds"]["training"] for seeds in rows.values() for each in seeds.values()]
    yield from (f"## {title}", "")
    yield f"{about}."
    training = f"{TRAINERS[one.cell.trainer].about}; {trainer['steps']} steps of {trainer['batch']} images"
    yield f"{training}; {len(one.confusions)} test images."
    yield f"A training took {statistics.median(times):.0f} seconds (median)."
    yield ""
    yield f"| row | trained on | mIoU | share of true masks | boundary F | {' | '.join(one.classes)} | seeds |"
    yield "|" + "---|" * (6 + len(one.classes))
    best = statistics.mean(_mious(rows["masks"])) if "masks" in rows else None
    for name, seeds in rows.items():
        scores = [metrics.measure(each.confusions.sum(0)) for each in seeds.values()]
        boundaries = [metrics.measure_boundaries(each.boundaries.sum(0)).mean_f for each in seeds.values()]
        share = f"{statistics.mean(_mious(seeds)) / best:.1%}" if best else ""
        by_class = [f"{mean:.3f}" for mean in np.mean([score.iou for score in scores], 0)]
        cells = [name, ROWS[name].about, _spread(_mious(seeds)), share, _spread(boundaries), *by_class, str(len(seeds))]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield from _comparisons(rows)


def _comparisons(rows: Table) -> Iterator[str]:
    """Yield a table of each row's gain over the row that it is compared with, in points of mIoU."""
    yield "| row | against | points of mIoU | p | 95 % by seed | 95 % by image | seeds with a gain |"
    yield "|" + "---|" * 7
    for name, seeds in rows.items():
        against = ROWS[name].against
        found = compared(seeds, rows[against]) if against and against in rows else None
        if found:
            won = f"{sum(gain > 0 for gain in found.gains)} of {len(found.gains)}"
            p = "" if np.isnan(found.p) else f"{found.p:.3f}"
            mean = f"{100 * statistics.mean(found.gains):+.1f}"
            yield f"| {name} | {against} | {mean} | {p} | {_range(found.by_seed)} | {_range(found.by_image)} | {won} |"
    yield ""


def _mious(seeds: Mapping[int, Result]) -> list[float]:
    return [metrics.measure(each.confusions.sum(0)).miou for each in seeds.values()]


def _spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{mean:.3f}"


def _range(interval: tuple[float, float]) -> str:
    low, high = interval
    return "" if np.isnan(low) else f"{100 * low:+.1f} to {100 * high:+.1f}"
