"""`synthpipe build`, `validate` and `schema`: everything that takes a pipeline file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import click
import yaml

from synthpipe.build.curation import first_plan
from synthpipe.cli.cluster import ClusterOptions, cluster_options, cluster_settings
from synthpipe.cli.completion import KeyValue
from synthpipe.cli.interrupts import interruptible
from synthpipe.cli.locations import LOCATION
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.cli.shipped import SettingsFile
from synthpipe.config import pipeline_file
from synthpipe.config.pipeline import Pipeline, json_schema
from synthpipe.config.pipeline_page import page
from synthpipe.core.display_names import STRATEGY
from synthpipe.core.packages import require_filter
from synthpipe.files.folders import claim
from synthpipe.files.locations import Location, exists
from synthpipe.patches.bank import bank_bytes
from synthpipe.patches.catalog import LISTED, load_catalog, read_catalog
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.storage.changes import check_pipeline
from synthpipe.storage.run import RUN, RunDirectory, versions
from synthpipe.storage.shards import shards_of
from synthpipe.storage.summary import human_bytes

_pipeline_argument = click.argument("pipeline", type=SettingsFile())
_set_option = click.option(
    "--set",
    "overrides",
    type=KeyValue("synthpipe.config:Pipeline"),
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a key of the settings file; may be given often.",
)


@click.command()
@_pipeline_argument
@click.option("-o", "--output", type=LOCATION, help="Run directory, or its URL [runs/ and the stem of PIPELINE].")
@_set_option
@click.option("--extend", is_flag=True, help="Add composites to a finished run, of which more are wanted now.")
@click.option("--dry-run", is_flag=True, help="Say what would be made; write nothing.")
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

    PIPELINE is a file, or the name of one that comes with synthpipe: bcss, demo, glas, luad-histoseg or wsss4luad.

    If the same command is given again, a build that was interrupted resumes; what is finished is not made twice.

    It works on this machine, one process a core, unless it joins a Dask cluster (--scheduler) or starts one in the
    queue of a cluster (--cluster); docs/cluster.md tells more.

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
        _dry_run(settings, path, extend)
        return
    with interruptible():
        from synthpipe import build as stages  # loads Dask, which other commands need not wait for

        journal = stages.build(settings, path, cluster_settings(**cluster), reporter(), extend)
    say(_outcome(settings, path, journal))


@click.command()
@_pipeline_argument
@_set_option
def validate(pipeline: Path, overrides: tuple[str, ...]) -> None:
    """Check a pipeline file, and list every mistake.

    PIPELINE is a file, or the name of one that comes with synthpipe. A mistake is told with its key and what is allowed
    there.

    Numbers are written as 12, 0.5 or 1e-3, booleans as true or false. Anything else is text: 010, 1:30, no. A file has
    at most 256 KiB and 10,000 values.

    \b
    Examples:
      synthpipe validate demo
      synthpipe validate pipelines/demo.yaml --set canvas=96
    """
    settings = pipeline_file.load(pipeline, overrides)
    say(f"{pipeline}: valid; fingerprint {settings.fingerprint()}")


@click.command()
@click.option("--markdown", is_flag=True, help="Print docs/pipeline-file.md instead: every key, for people.")
def schema(markdown: bool) -> None:
    """Print the JSON schema of pipeline files.

    Editors complete and check YAML by it.

    \b
    Examples:
      synthpipe schema > pipeline.schema.json
      synthpipe schema --markdown > docs/pipeline-file.md
    """
    say(page().rstrip("\n") if markdown else json.dumps(json_schema(), indent=2))


def _dry_run(pipeline: Pipeline, path: Location, extend: bool) -> None:
    run = RunDirectory(path)
    if run.exists():
        check_pipeline(run, pipeline, extend)
    if pipeline.filter.enabled:
        require_filter()
    claim(path, RUN)
    claims = read_layout(pipeline.patches, pipeline.taxonomy)
    with reporter().stage("catalog", len(claims)) as advance:
        catalog = read_catalog(
            pipeline.patches,
            pipeline.taxonomy,
            lambda: advance(1),
            claims=claims,
            former=load_catalog(path, pipeline.taxonomy) if run.exists() and run.holds_composites() else None,
            canvas=pipeline.canvas,
        )
    say("pipeline:\n" + yaml.safe_dump(pipeline.model_dump(mode="json"), sort_keys=False, width=100))
    mixed, donors = len(catalog.mixed), len(catalog.donors)
    say(f"patches: {len(catalog.patches)} ({donors} donors, {mixed} mixed), {len(catalog.problems)} left out")
    for line in problem_lines(catalog.problems, LISTED):
        say(f"  {line}")
    for index, name in enumerate(pipeline.taxonomy.names):
        single = sum(patch.classes == (index,) for patch in catalog.donors)
        occurs = sum(index in patch.classes for patch in catalog.patches)
        say(f"  {name}: in {occurs} patches, {single} donors")
    from synthpipe.build import check_patches, remarks

    check_patches(pipeline, catalog)
    for remark in remarks(pipeline, catalog):
        say(f"note: {remark}")
    say(f"\nwould {'resume' if run.exists() else 'make'} {path}:")
    bank = bank_bytes(catalog.donors, pipeline.canvas if pipeline.bezier else None)
    say(f"  donor bank: {human_bytes(bank)} on each machine while it builds, in --scratch or TMPDIR")
    height, width = pipeline.canvas
    for strategy in pipeline.strategies:
        plan = {"candidates, to keep " + str(pipeline.curation.wanted[strategy]): first_plan(pipeline, strategy)}
        if pipeline.filter.enabled:
            plan["composites that train the filter"] = pipeline.filter.candidates
        for what, count in plan.items():
            shards = len(shards_of(count, pipeline.store.shard))
            size = human_bytes(shards * pipeline.store.shard * height * width * 4)
            say(f"  {strategy}: {count} {what}; {shards} shards of {pipeline.store.shard}, {size} before compression")
        wanted = pipeline.curation.wanted[strategy]
        say(f"  {strategy}: {wanted} in the curated set, {human_bytes(wanted * height * width * 4)}")
        if first_plan(pipeline, strategy) < pipeline.curation.max_candidates[strategy]:
            say(f"  {strategy}: at most {pipeline.curation.max_candidates[strategy]} candidates")
    say(f"\nfingerprint: {pipeline.fingerprint()}")
    say("versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()))


def _outcome(pipeline: Pipeline, path: Location, journal: Mapping[str, Any]) -> str:
    lines, total = [], 0
    for strategy in pipeline.strategies:
        entry = journal["strategies"][strategy]
        kept = entry["verdicts"]["kept"]
        total += kept
        rate = "" if entry["acceptance"] is None else f", the filter accepts {entry['acceptance']:.1%}"
        below = entry.get("below_threshold")
        rejected = f"; it rejects {below['count']} of the kept ones, see the warning in the report" if below else ""
        lines.append(f"  {STRATEGY[strategy]}: kept {kept} of {entry['candidates']} candidates{rate}{rejected}")
    seconds = sum(journal["stages"].values())
    return "\n".join(
        [
            f"{path}: a curated set of {total} composites with masks, built in {seconds:.0f} s",
            *lines,
            f"  curated set      {path / 'curated.zarr'}",
            f"  all candidates   {path / 'candidates.zarr'}",
            *([f"  report           {page}"] if exists(page := RunDirectory(path).report_page) else []),
            f"  more about it    synthpipe inspect {shlex.quote(str(path))}",
            *(f"note: {remark}" for remark in journal.get("remarks", ())),
        ]
    )
