"""Build a run of many small Bezier composites in a new process, and print the peak memory of its driver."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from benchmarks.memory import peak
from synthpipe.build import build
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline_file import load
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local

_DEMO = Path(__file__).parent.parent / "pipelines" / "demo.yaml"


def main(count: int, directory: Path, *overrides: str) -> None:
    """Build `count` composites in `directory`, and print seconds and peak memory as JSON; `overrides` are settings."""
    write_phantom(directory / "phantom", PhantomSpec(slides=6, patches=90, size=48, images=0))
    settings = [
        f"patches.root={directory / 'phantom'}",
        "canvas=16",
        "mosaic=null",
        "filter.enabled=false",
        "store.shard=256",
        "curation.rule=threshold",
        "curation.min_classes=1",
        f"curation.wanted={count}",
        f"curation.candidates={count}",
        f"curation.max_candidates={count}",
        *overrides,
    ]
    start = time.perf_counter()
    build(load(_DEMO, settings), directory / "run", ClusterSettings(Local(workers=2)), LogReporter())
    click.echo(json.dumps({"composites": count, "seconds": time.perf_counter() - start, "peak_bytes": peak()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
