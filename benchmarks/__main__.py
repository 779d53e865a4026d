"""``python -m benchmarks``: measure rendering, storing and reading; write a JSON file and a Markdown page."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import click
import cv2

from benchmarks import subjects
from benchmarks.page import RESULTS, shares, write_page, write_result
from synthpipe.cli.settings import SettingsFile
from synthpipe.config import pipeline_file
from synthpipe.patches.catalog import read_catalog
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.storage.run import versions

_DEMO = Path(__file__).parent.parent / "pipelines" / "demo.yaml"
_PHANTOM = ("canvas=224", "mosaic.tile=112", "store.shard=256")


@click.command()
@click.option("--pipeline", type=SettingsFile(), help="[procedural tissue]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a key of the pipeline file.")
@click.option("--only", multiple=True, type=click.Choice([*subjects.SUBJECTS, "codecs", "memory"]), help="[all]")
@click.option("--rounds", default=7, show_default=True, help="Number of rounds.")
@click.option(
    "--composites",
    default=1_000_000,
    show_default=True,
    help="Composites in the larger build of the memory measurement.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file [benchmarks/results/NAME.json].")
@click.option("--page", type=click.Path(path_type=Path), default=Path("docs/performance.md"), show_default=True)
def main(
    pipeline: Path | None,
    overrides: tuple[str, ...],
    only: tuple[str, ...],
    rounds: int,
    composites: int,
    output: Path | None,
    page: Path,
) -> None:
    """Measure rendering, storing and reading against simple baselines; write a JSON file, and PAGE from all JSON files.

    \b
    Examples:
      python -m benchmarks
      python -m benchmarks --pipeline crc.yaml --set patches.root=crc.csv
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
        catalog = read_catalog(settings.patches, settings.taxonomy, claims=claims, canvas=settings.canvas)
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
                    click.echo(f"  {row.what}: {row.rate} a second, {shares(row.ratios)}", err=True)
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
    output = output or RESULTS / f"{settings.name.lower().replace(' ', '-')}.json"
    write_result(output, results)
    page.write_text(write_page(output.parent), encoding="utf-8")
    click.echo(f"{output}\n{page}")


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        models = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = models[0] if models else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processor": processor, "cores": os.cpu_count(), "memory_gib": memory}


if __name__ == "__main__":
    main()
