"""`synthpipe build`: build a curated set from a pipeline file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import click

from synthpipe.cli.cluster import ClusterOptions, cluster_options, cluster_settings
from synthpipe.cli.interrupts import interruptible
from synthpipe.cli.options import LOCATION
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.cli.settings import pipeline_argument, set_option
from synthpipe.config import pipeline_file
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.display_names import STRATEGY
from synthpipe.files.locations import Location, exists
from synthpipe.storage.run import RunDirectory


@click.command()
@pipeline_argument
@click.option(
    "-o", "--output", type=LOCATION, help="Run directory, or its URL [runs/NAME, where NAME is PIPELINE without .yaml]."
)
@set_option
@click.option("--extend", is_flag=True, help="Add composites to a finished run, after you raised curation.wanted.")
@click.option("--dry-run", is_flag=True, help="Print the plan of the build; write nothing.")
@cluster_options
def build(
    pipeline: Path,
    output: Location | None,
    overrides: tuple[str, ...],
    extend: bool,
    dry_run: bool,
    **cluster: Unpack[ClusterOptions],
) -> None:
    """Build a curated set of composites from a pipeline file.

    PIPELINE is a file, or the name of a file that comes with synthpipe: bcss, demo, glas, luad-histoseg or wsss4luad.

    Run the same command again to resume an interrupted build. Finished work is not repeated.

    A build runs on this machine with one process per core, unless it joins a Dask cluster (--scheduler) or starts one
    in a job queue (--cluster). See docs/cluster.md.

    \b
    Examples:
      synthpipe build demo
      synthpipe build pipelines/bcss.yaml --set patches.root=/data/BCSS-WSSS -o runs/bcss --workers 16 --memory 4GiB
      synthpipe build pipelines/glas.yaml --set curation.threshold=0.4 --dry-run
      synthpipe build pipelines/demo.yaml -o runs/demo --set curation.wanted=400 --extend
      synthpipe build pipelines/bcss.yaml --set patches.root=s3://data/BCSS-WSSS -o s3://runs/bcss
      synthpipe build pipelines/bcss.yaml -o /shared/bcss --scheduler tcp://head:8786 --device cuda
      synthpipe build pipelines/bcss.yaml -o /shared/bcss --cluster slurm --cluster-config slurm.yaml \\
        --cluster-set jobs=20
    """
    settings = pipeline_file.load(pipeline, overrides)
    path = output or Path("runs") / pipeline.stem
    if dry_run:
        from synthpipe.cli.dry_run import dry_run_lines  # loads Dask; --help need not wait for it

        for line in dry_run_lines(settings, path, extend, reporter()):
            say(line)
        return
    with interruptible():
        from synthpipe.build import build as build_run  # loads Dask; --help need not wait for it

        journal = build_run(settings, path, cluster_settings(**cluster), reporter(), extend)
    say(_outcome(settings, path, journal))


def _outcome(pipeline: Pipeline, path: Location, journal: Mapping[str, Any]) -> str:
    lines, total = [], 0
    for strategy in pipeline.strategies:
        entry = journal["strategies"][strategy]
        kept = entry["verdicts"]["kept"]
        total += kept
        rate = "" if entry["acceptance"] is None else f", the filter accepts {entry['acceptance']:.1%}"
        below = entry.get("below_threshold")
        rejected = f"; it rejects {below['count']} of the kept composites, as the report explains" if below else ""
        lines.append(f"  {STRATEGY[strategy]}: kept {kept} of {entry['candidates']} candidates{rate}{rejected}")
    seconds = sum(journal["stages"].values())
    return "\n".join(
        [
            f"{path}: a curated set of {total} composites with masks, built in {seconds:.0f} s",
            *lines,
            f"  curated set      {path / 'curated.zarr'}",
            f"  all candidates   {path / 'candidates.zarr'}",
            *([f"  report           {page}"] if exists(page := RunDirectory(path).report_page) else []),
            f"  show details     synthpipe inspect {shlex.quote(str(path))}",
            *(f"note: {remark}" for remark in journal.get("remarks", ())),
        ]
    )
