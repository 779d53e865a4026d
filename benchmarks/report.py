"""``python -m benchmarks.report``: measure the time, the file size and the memory of a run's report."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.memory import peak
from synthpipe.build import build
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline_file import load
from synthpipe.files.locations import Location
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local

_DEMO = Path(__file__).parent.parent / "pipelines" / "demo.yaml"
_MEASURE = "import sys; from benchmarks.report import measure; measure(sys.argv[1])"


def build_run(count: int, directory: Path) -> Location:
    """Build a run of `count` composites, half of each strategy, without a filter, and return its path."""
    write_phantom(directory / "phantom", PhantomSpec(slides=40, patches=1000, images=0))
    each = count // 2
    settings = [
        *(f"patches.root={directory / 'phantom'}", "filter.enabled=false", "curation.rule=threshold"),
        *("curation.min_classes=1", "store.shard=512"),
        *(f"curation.{key}={each}" for key in ("wanted", "candidates", "max_candidates")),
    ]
    build(load(_DEMO, settings), directory / "run", ClusterSettings(Local(workers=2)), LogReporter())
    return directory / "run"


def measure(run: str) -> None:
    """Write the report of a run, and print its seconds, bytes and peak memory; call it in a new process."""
    before = peak()
    start = time.perf_counter()
    from synthpipe.report import write_report

    size = write_report(Path(run)).stat().st_size
    seconds = time.perf_counter() - start
    click.echo(json.dumps({"seconds": round(seconds, 2), "bytes": size, "peak_bytes": peak(), "bytes_before": before}))


@click.command()
@click.option("--composites", default=10_000, show_default=True, help="Number of composites in the run that is built.")
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="An existing run to measure instead.")
def main(composites: int, run: Path | None) -> None:
    """Measure the report of a run: seconds, bytes of the file, peak memory of its process."""
    with tempfile.TemporaryDirectory() as scratch:
        path = run or build_run(composites, Path(scratch))
        subprocess.run([sys.executable, "-c", _MEASURE, str(path)], check=True)


if __name__ == "__main__":
    main()
