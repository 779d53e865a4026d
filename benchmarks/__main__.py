"""Measure everything, and write a JSON file and a Markdown page."""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import cv2

from benchmarks import subjects
from synthpipe import pipeline_file
from synthpipe.patches.catalog import read_catalog
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.storage.run import versions
from synthpipe.storage.summary import human_bytes

_DEMO = Path(__file__).parent.parent / "pipelines" / "demo.yaml"
_PHANTOM = ("canvas=224", "mosaic.tile=112", "store.shard=256")


@click.command()
@click.option("--pipeline", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="[procedural tissue]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a key of the pipeline file.")
@click.option("--only", multiple=True, type=click.Choice([*subjects.SUBJECTS, "codecs", "memory"]), help="[all]")
@click.option("--rounds", default=7, show_default=True, help="How often everything is measured.")
@click.option("--composites", default=1_000_000, show_default=True, help="Of the larger build that memory is taken of.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(
    pipeline: Path | None,
    overrides: tuple[str, ...],
    only: tuple[str, ...],
    rounds: int,
    composites: int,
    output: Path,
) -> None:
    """Measure rendering, storing and reading against plain baselines; write OUTPUT.json and OUTPUT.md.

    \b
    Examples:
      python -m benchmarks
      python -m benchmarks --pipeline crc.yaml --set patches.root=crc.csv -o results/crc
      python -m benchmarks --only reading --rounds 3
    """
    logging.getLogger("distributed").setLevel(logging.ERROR)
    cv2.setNumThreads(1)
    chosen = only or (*subjects.SUBJECTS, "codecs", "memory")
    with tempfile.TemporaryDirectory(prefix="synthpipe-bench-", dir=os.environ.get("BENCH_DIR")) as directory:
        scratch = Path(directory)
        if pipeline is None:
            write_phantom(scratch / "phantom", PhantomSpec(slides=12, patches=120, size=224, images=0))
            overrides = (f"patches.root={scratch / 'phantom'}", *_PHANTOM, *overrides)
        settings = pipeline_file.load(pipeline or _DEMO, overrides)
        claims = read_layout(settings.patches, settings.taxonomy)
        catalog = read_catalog(settings.patches, settings.taxonomy, lambda: None, claims=claims)
        bench = subjects.open_bench(settings, catalog, scratch, rounds)
        results: dict[str, Any] = {
            "machine": _machine(),
            "versions": versions(),
            "donors": {"name": settings.name, "count": len(catalog.donors), "canvas": list(settings.canvas)},
            "rounds": rounds,
            "rows": [],
        }
        for name in subjects.SUBJECTS:
            if name in chosen:
                click.echo(f"{name} ...", err=True)
                for row in subjects.SUBJECTS[name](bench):
                    click.echo(f"  {row.what}: {row.rate} a second, {_shares(row.ratios)}", err=True)
                    results["rows"].append(
                        {"what": row.what, "rate": row.rate.to_json(), "ratios": row.ratios, "target": row.target}
                    )
        if "codecs" in chosen:
            click.echo("codecs ...", err=True)
            results["codecs"] = list(subjects.codecs(bench))
        if "memory" in chosen:
            click.echo("memory ...", err=True)
            results["worker_memory"] = subjects.worker_memory(bench)
            results["driver_memory"] = subjects.driver_memory(bench, (composites // 100, composites))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(page(results), encoding="utf-8")
    click.echo(f"{output.with_suffix('.json')}\n{output.with_suffix('.md')}")


def page(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    donors, machine = results["donors"], results["machine"]
    lines = [
        f"{donors['count']} donors of {donors['name']}, canvas {donors['canvas'][0]} x {donors['canvas'][1]};"
        f" {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB;"
        f" median of {results['rounds']} rounds (lowest-highest).",
        "",
        ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
        "",
    ]
    if results["rows"]:
        head: tuple[str, ...] = ("what", "composites a second", "times", "target")
        lines += _table(
            head,
            [[row["what"], _rate(row["rate"]), _shares(row["ratios"]), row["target"]] for row in results["rows"]],
        )
    if "codecs" in results:
        head = ("of", "codec", "size", "Mosaic stage, a second", "random reads, a second")
        lines += _table(
            head,
            [
                [each["kind"], each["codec"], f"{each['size']:.1%}", _rate(each["stage"]), _rate(each["read"])]
                for each in results["codecs"]
            ],
        )
    if "worker_memory" in results:
        memory = results["worker_memory"]
        lines += [f"The donor bank has {human_bytes(memory['bank_bytes'])}.", ""]
        lines += _table(
            ("process", "resident", "of it donor bank", "its share of the bank"),
            [
                [f"worker {number}", *(human_bytes(process[key]) for key in ("rss", "bank_rss", "bank_pss"))]
                for number, process in enumerate(memory["processes"], 1)
            ],
        )
    if "driver_memory" in results:
        lines += _table(
            ("composites", "driver's largest memory", "seconds"),
            [
                [f"{each['composites']:,}", human_bytes(each["peak_bytes"]), f"{each['seconds']:.0f}"]
                for each in results["driver_memory"]
            ],
        )
    return "\n".join(lines)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = tuple(head)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] + [""]


def _rate(rate: Mapping[str, float]) -> str:
    return f"{rate['median']:,.0f} ({rate['low']:,.0f}-{rate['high']:,.0f})"


def _shares(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{ratio:.2f} {name}" if ratio < 10 else f"{ratio:.0f} {name}" for name, ratio in ratios.items())


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        models = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = models[0] if models else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processor": processor, "cores": os.cpu_count(), "memory_gib": memory, "system": platform.platform()}


if __name__ == "__main__":
    main()
