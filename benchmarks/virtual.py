"""``python -m benchmarks.virtual``: compare virtual composites with stored ones, and write ``docs/virtual.md``."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.page import RESULTS, write_result
from synthpipe.build import build
from synthpipe.config.pipeline import Pipeline
from synthpipe.config.pipeline_file import load
from synthpipe.core.progress import Silent
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.curated import CuratedSet
from synthpipe.curated.torch_data import CuratedDataset
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.summary import human_bytes, summarise

RESULT = RESULTS / "virtual" / "phantom.json"
PAGE = Path("docs/virtual.md")
_BATCH = 64
_BLOCK = 1000  # composites that are compared at once
_MILLION = 1_000_000


def measure(strategy: Strategy, count: int, canvas: int, patches: Path, folder: Path) -> dict[str, Any]:
    """Build `count` composites of a strategy stored and virtual, without a filter, and compare the two builds."""
    seconds, sets = {}, {}
    for name, overrides in _FORMS.items():
        pipeline = _pipeline(strategy, count, canvas, patches, *overrides)
        seconds[name] = _seconds(partial(build, pipeline, folder / name, _HERE, Silent()))
        sets[name] = CuratedSet(folder / name)
    equal = _compare(sets["stored"], sets["virtual"])
    data = sets["virtual"].to_torch()
    order = np.random.default_rng(0).permutation(count)[: max(_BATCH, min(count, 20_000))].tolist()
    found = {
        "strategy": strategy,
        "composites": count,
        "equal": equal,
        "build_seconds": seconds,
        "read_a_second": len(order) / _seconds(partial(_read, data, order)),
        "loader_a_second": {
            str(workers): len(order) / _seconds(partial(_load, data, order, workers)) for workers in (1, 2)
        },
        "bytes_per_million": {name: _column_bytes(folder / name) * _MILLION // count for name in sets},
        "donor_bytes": _donor_bytes(folder / "virtual"),
    }
    for name in sets:
        shutil.rmtree(folder / name)
    return found


_HERE = ClusterSettings(Local(0))
_FORMS: Mapping[str, tuple[str, ...]] = {
    "stored": (),
    "virtual": ("store.pixels=virtual", "store.recipes=false"),
    "virtual with recipes": ("store.pixels=virtual",),
}


def _pipeline(strategy: Strategy, count: int, canvas: int, patches: Path, *overrides: str) -> Pipeline:
    (other,) = (each for each in STRATEGIES if each != strategy)
    sizes = (f"canvas={canvas}", *([f"mosaic.tile={canvas // 2}"] if strategy == "mosaic" else []), f"{other}=null")
    plan = ("filter.enabled=false", "curation.rule=threshold", "curation.min_classes=1", f"curation.wanted={count}")
    bounds = (f"curation.candidates={count}", f"curation.max_candidates={count}")
    return load("pipelines/demo.yaml", (*sizes, *plan, *bounds, f"patches.root={patches}", *overrides))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _compare(stored: CuratedSet, virtual: CuratedSet) -> int:
    """Return the number of composites whose pixels are equal in two sets."""
    equal = 0
    for start in range(0, len(stored), _BLOCK):
        part = range(start, min(start + _BLOCK, len(stored)))
        pairs = zip(virtual.read(part), stored.read(part), strict=True)
        same = [(one == other).reshape(len(part), -1).all(axis=1) for one, other in pairs]
        equal += int(np.count_nonzero(same[0] & same[1]))
    return equal


def _read(data: CuratedDataset, order: list[int]) -> None:
    for start in range(0, len(order), _BATCH):
        data.collate(data.__getitems__(order[start : start + _BATCH]))


def _load(data: CuratedDataset, order: list[int], workers: int) -> None:
    loader = DataLoader(data, _BATCH, sampler=order, num_workers=workers, collate_fn=data.collate)
    for _ in loader:
        pass


def _column_bytes(run: Path) -> int:
    arrays = summarise(run / "curated.zarr")["arrays"]
    return sum(int(array["bytes_stored"]) for name, array in arrays.items() if name not in ("image", "mask"))


def _donor_bytes(run: Path) -> int:
    return int(summarise(run / "curated.zarr")["groups"]["donors"]["arrays"]["pixels"]["bytes_stored"])


def write_page(result: Path = RESULT) -> str:
    """Return the page: its text, and a table of the stored measurement if it exists."""
    text = (Path(__file__).parent / "virtual.md").read_text(encoding="utf-8").rstrip()
    lines = _measured(json.loads(result.read_text(encoding="utf-8"))) if result.exists() else _NOT_MEASURED
    return "\n".join([text, "", *lines]).rstrip() + "\n"


_NOT_MEASURED = (
    "**Speeds and sizes of this version have not been measured yet.**",
    "`python -m benchmarks.virtual` measures them and writes this page; run it on an idle machine.",
)


def _measured(found: Mapping[str, Any]) -> Iterator[str]:
    canvas, patches = found["canvas"], found["patches"]
    yield (
        f"Composites of {canvas} x {canvas} pixels from {patches} patches of procedural tissue, without a filter, by "
        f"one process on {found['cores']} cores with a load of {found['load']:.1f}:"
    )
    rows = found["strategies"]
    yield from ("", f"| | {' | '.join(row['strategy'].capitalize() for row in rows)} |", "|---|" + "---|" * len(rows))
    lines: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
        "composites": lambda row: f"{row['composites']:,}",
        "of these with equal pixels, virtual and stored": lambda row: f"{row['equal']:,}",
        "build, stored": lambda row: f"{row['build_seconds']['stored']:.1f} s",
        "build, virtual": lambda row: f"{row['build_seconds']['virtual']:.1f} s",
        "virtual over stored": lambda row: f"{row['build_seconds']['virtual'] / row['build_seconds']['stored']:.2f}",
        "virtual, read by the torch data set": lambda row: f"{row['read_a_second']:,.0f} per second",
        "virtual, by a loader with 1 worker": lambda row: f"{row['loader_a_second']['1']:,.0f} per second",
        "virtual, by a loader with 2 workers": lambda row: f"{row['loader_a_second']['2']:,.0f} per second",
        "columns of a million": lambda row: human_bytes(row["bytes_per_million"]["virtual"]),
        "with recipes": lambda row: human_bytes(row["bytes_per_million"]["virtual with recipes"]),
        "donors of the set": lambda row: human_bytes(row["donor_bytes"]),
    }
    for name, cell in lines.items():
        yield f"| {name} | {' | '.join(map(cell, rows))} |"
    yield from (
        "",
        "A load above the number of cores means that other processes used the cores too: idle cores are faster. "
        "`python -m benchmarks.virtual` measures it again and writes this page.",
    )


@click.command()
@click.option("--count", default=100_000, show_default=True, help="Composites of each strategy.")
@click.option("--canvas", default=64, show_default=True, help="Height and width of composites.")
@click.option("--patches", default=600, show_default=True, help="Patches of the phantom.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, show_default=True)
def main(count: int, canvas: int, patches: int, output: Path, page: Path) -> None:
    """Measure virtual composites of both strategies, and write a JSON file and the page."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="synthpipe-virtual-"))
    try:
        write_phantom(
            folder / "phantom", PhantomSpec(slides=min(60, patches), patches=patches, size=canvas * 3 // 2, images=0)
        )
        rows = []
        for strategy in STRATEGIES:
            rows.append(measure(strategy, count, canvas, folder / "phantom", folder))
            click.echo(json.dumps(rows[-1]))
    finally:
        shutil.rmtree(folder)
    result = {
        "canvas": canvas,
        "patches": patches,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "strategies": rows,
    }
    write_result(output, result)
    page.write_text(write_page(output), encoding="utf-8")
    if wrong := [row["strategy"] for row in rows if row["equal"] != row["composites"]]:
        raise SystemExit(f"virtual composites differ from stored ones: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
