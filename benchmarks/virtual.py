"""``python -m benchmarks.virtual``: compare virtual composites with stored ones, and write ``docs/virtual.md``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
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
from synthpipe.core.threads import available_cores
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


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of a measurement.

    Attributes
    ----------
    count, canvas, patches : int
        Composites of each strategy that are compared, their height and width, and the patches of the phantom.
    read, read_canvas : int
        Composites of each strategy that are read, and their height and width.
    driver : tuple of int
        Composites of the builds whose driver's memory is measured.
    """

    count: int
    canvas: int
    patches: int
    read: int
    read_canvas: int
    driver: tuple[int, int]


def compare(strategy: Strategy, scale: Scale, folder: Path) -> dict[str, Any]:
    """Build composites of a strategy stored and virtual, without a filter, and compare the two builds."""
    patches = _phantom(folder, scale.patches, scale.canvas)
    seconds, objects, sets, count = {}, {}, {}, scale.count
    for name, overrides in _forms(count).items():
        pipeline = _pipeline(strategy, count, scale.canvas, patches, *overrides)
        seconds[name] = _seconds(partial(build, pipeline, folder / name, _HERE, Silent()))
        objects[name] = sum(path.name.startswith("c.") for path in (folder / name).rglob("*"))
        sets[name] = CuratedSet(folder / name)
    return {
        "composites": count,
        "equal": _compare(sets["stored"], sets["virtual"]),
        "build_seconds": seconds,
        "objects": objects,
        "bytes_per_million": {name: _column_bytes(folder / name) * _MILLION // count for name in sets},
        "donor_bytes": _donor_bytes(folder / "virtual"),
    }


def reading(strategy: Strategy, scale: Scale, folder: Path) -> dict[str, Any]:
    """Return the rates of reading virtual composites in random order, sampling included."""
    count, canvas = scale.read, scale.read_canvas
    patches = _phantom(folder, min(scale.patches, 100), canvas)
    build(_pipeline(strategy, count, canvas, patches, *_forms(count)["virtual"]), folder / "run", _HERE, Silent())
    data = CuratedSet(folder / "run").to_torch()
    order = np.random.default_rng(0).permutation(count).tolist()
    _read(data, order[:_BATCH])
    return {
        "read_a_second": count / _seconds(partial(_read, data, order)),
        "loader_a_second": {str(workers): count / _seconds(partial(_load, data, order, workers)) for workers in (1, 2)},
    }


def memory(count: int, folder: Path) -> dict[str, Any]:
    """Build small virtual Beziers in a new process with two workers; return its seconds and peak memory."""
    command = [sys.executable, "-m", "benchmarks.driver", str(count), str(folder), *_forms(count)["virtual"]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def parts_of(scale: Scale) -> dict[str, Callable[[Path], dict[str, Any]]]:
    """Return the parts of the measurement, each a function of an empty folder."""
    return {
        **{f"compare {each}": partial(compare, each, scale) for each in STRATEGIES},
        **{f"reading {each}": partial(reading, each, scale) for each in STRATEGIES},
        **{f"driver {count}": partial(memory, count) for count in scale.driver},
    }


def _phantom(folder: Path, patches: int, canvas: int) -> Path:
    write_phantom(
        folder / "phantom", PhantomSpec(slides=min(60, patches), patches=patches, size=canvas * 3 // 2, images=0)
    )
    return folder / "phantom"


_HERE = ClusterSettings(Local(0))


def _forms(count: int) -> Mapping[str, tuple[str, ...]]:
    """Return the settings of each form of `count` composites; shards of virtual composites are large."""
    virtual = "store.pixels=virtual", f"store.shard={min(count, 10_000)}"
    return {"stored": (), "virtual": (*virtual, "store.recipes=false"), "virtual with recipes": virtual}


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
    scale, parts = found["scale"], found["parts"]
    canvas, read = scale["canvas"], scale["read_canvas"]
    yield (
        f"Composites from patches of procedural tissue, without a filter, on {found['cores']} cores. One process "
        f"builds and compares composites of {canvas} x {canvas} pixels. It reads composites of {read} x {read} pixels "
        f"in random order, sampling included. `store.shard` is {min(scale['count'], 10_000):,} for virtual composites "
        "and 100 for stored ones."
    )
    rows = [{**parts.get(f"compare {each}", {}), **parts.get(f"reading {each}", {})} for each in STRATEGIES]
    yield from ("", "| | Mosaic | Bezier | wanted |", "|---|---|---|---|")
    for name, (cell, wanted) in _ROWS.items():
        yield f"| {name} | {' | '.join(_cell(cell, row) for row in rows)} | {wanted} |"
    drivers = [part for name, part in parts.items() if name.startswith("driver")]
    if drivers:
        yield from (
            "",
            "Builds of virtual Beziers of 16 x 16 pixels by two workers; the driver's memory should be flat:",
            "",
        )
        yield from ("| composites | driver's peak memory | seconds |", "|---|---|---|")
        for each in drivers:
            yield f"| {each['composites']:,} | {human_bytes(each['peak_bytes'])} | {each['seconds']:,.0f} |"
    loads = [part["load"] for part in parts.values()]
    yield from (
        "",
        f"The load was {min(loads):.1f} to {max(loads):.1f}. A load above the number of cores means that other "
        "processes used the cores too: idle cores are faster. `python -m benchmarks.virtual` measures it again and "
        "writes this page; an interrupted measurement resumes with the next part.",
    )


def _over(values: Mapping[str, float], one: str, other: str) -> str:
    return f"{values[one] / values[other]:.3g}"


_ROWS: Mapping[str, tuple[Callable[[Mapping[str, Any]], str], str]] = {
    "compared composites": (lambda row: f"{row['composites']:,}", ""),
    "of these with equal pixels, virtual and stored": (lambda row: f"{row['equal']:,}", "all"),
    "build, stored": (lambda row: f"{row['build_seconds']['stored']:.1f} s", ""),
    "build, virtual": (lambda row: f"{row['build_seconds']['virtual']:.1f} s", ""),
    "build, virtual over stored": (lambda row: _over(row["build_seconds"], "virtual", "stored"), "0.5 and 0.3"),
    "objects written, stored": (lambda row: f"{row['objects']['stored']:,}", ""),
    "objects written, virtual over stored": (lambda row: _over(row["objects"], "virtual", "stored"), "0.01"),
    "virtual, read by the torch data set": (
        lambda row: f"{row['read_a_second']:,.0f} per second",
        "3,000 and 12,000",
    ),
    "virtual, by a loader with 1 worker": (lambda row: f"{row['loader_a_second']['1']:,.0f} per second", ""),
    "virtual, by a loader with 2 workers": (lambda row: f"{row['loader_a_second']['2']:,.0f} per second", ""),
    "2 workers over 1": (lambda row: _over(row["loader_a_second"], "2", "1"), "1.9"),
    "columns of a million": (lambda row: human_bytes(row["bytes_per_million"]["virtual"]), "12 MB"),
    "with recipes": (lambda row: human_bytes(row["bytes_per_million"]["virtual with recipes"]), "300 MB"),
    "donors of the set": (lambda row: human_bytes(row["donor_bytes"]), ""),
}


def _cell(cell: Callable[[Mapping[str, Any]], str], row: Mapping[str, Any]) -> str:
    try:
        return cell(row)
    except KeyError:
        return "not measured"


@click.command()
@click.option("--count", default=100_000, show_default=True, help="Composites of each strategy to compare.")
@click.option("--canvas", default=64, show_default=True, help="Height and width of these composites.")
@click.option("--patches", default=600, show_default=True, help="Patches of the phantom.")
@click.option("--read", default=20_000, show_default=True, help="Composites of each strategy to read.")
@click.option("--read-canvas", default=224, show_default=True, help="Height and width of these composites.")
@click.option("--driver", default=10_000_000, show_default=True, help="Composites of the largest build for the driver.")
@click.option("--part", "only", multiple=True, help="Measure only the parts whose names contain this text.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, show_default=True)
def main(
    count: int,
    canvas: int,
    patches: int,
    read: int,
    read_canvas: int,
    driver: int,
    only: tuple[str, ...],
    output: Path,
    page: Path,
) -> None:
    """Measure virtual composites of both strategies, and write a JSON file and the page.

    Parts that the JSON file has at the same scale are not measured again; remove the file to measure all.
    """
    torch.set_num_threads(1)
    scale = Scale(count, canvas, patches, read, read_canvas, (max(driver // 1000, 1), driver))
    result: dict[str, Any] = {"scale": json.loads(json.dumps(asdict(scale))), "cores": available_cores(), "parts": {}}
    if output.exists():
        former = json.loads(output.read_text(encoding="utf-8"))
        if former.get("scale") == result["scale"]:
            result["parts"] = former["parts"]
    for name, measure in parts_of(scale).items():
        if name in result["parts"] or not any(text in name for text in only or ("",)):
            continue
        with tempfile.TemporaryDirectory(prefix="synthpipe-virtual-") as folder:
            result["parts"][name] = {**measure(Path(folder)), "load": os.getloadavg()[0]}
        click.echo(f"{name}: {json.dumps(result['parts'][name])}")
        write_result(output, result)
    page.write_text(write_page(output), encoding="utf-8")
    compared = {name: part for name, part in result["parts"].items() if "equal" in part}
    if wrong := [name for name, part in compared.items() if part["equal"] != part["composites"]]:
        raise SystemExit(f"virtual composites differ from stored ones: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
