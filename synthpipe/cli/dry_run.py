"""`synthpipe build --dry-run`: check a build and describe its plan."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from synthpipe.build import check_patches, remarks
from synthpipe.build.curation import first_plan
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.packages import require_filter
from synthpipe.core.progress import Reporter
from synthpipe.files.folders import claim
from synthpipe.files.locations import Location
from synthpipe.patches.bank import bank_bytes
from synthpipe.patches.catalog import LISTED, Catalog, load_catalog, read_catalog
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.quality.dropping import drop_donors
from synthpipe.storage.changes import check_pipeline
from synthpipe.storage.run import RUN, RunDirectory, versions
from synthpipe.storage.shards import shards_of
from synthpipe.storage.summary import human_bytes

_NO_PIXELS = "without pixels (store.pixels: virtual)"


def dry_run_lines(pipeline: Pipeline, path: Location, extend: bool, reporter: Reporter) -> Iterator[str]:
    """Run the checks that precede a build, and yield lines that describe its plan.

    Raises
    ------
    SynthpipeError
        The build would be refused; lines about its patches are yielded first.
    """
    run = RunDirectory(path)
    if run.exists():
        check_pipeline(run, pipeline, extend)
    if pipeline.filter.enabled:
        require_filter()
    claim(path, RUN)
    catalog = _read_patches(pipeline, run, reporter)
    yield "pipeline:\n" + yaml.safe_dump(pipeline.model_dump(mode="json"), sort_keys=False, width=100)
    yield from _patch_lines(pipeline, catalog)
    check_patches(pipeline, catalog)
    yield from (f"note: {remark}" for remark in remarks(pipeline, catalog))
    yield f"\nwould {'resume' if run.exists() else 'make'} {path}:"
    bank = bank_bytes(catalog.donors, pipeline.canvas if pipeline.bezier else None)
    yield f"  donor bank: {human_bytes(bank)} on each machine while it builds, in --scratch or TMPDIR"
    yield from _plan_lines(pipeline)
    yield f"\nfingerprint: {pipeline.fingerprint()}"
    yield "versions: " + ", ".join(f"{name} {number}" for name, number in versions().items())


def _read_patches(pipeline: Pipeline, run: RunDirectory, reporter: Reporter) -> Catalog:
    claims = read_layout(pipeline.patches, pipeline.taxonomy)
    with reporter.stage("catalog", len(claims)) as advance:
        catalog = read_catalog(
            pipeline.patches,
            pipeline.taxonomy,
            lambda: advance(1),
            claims=claims,
            former=load_catalog(run.path, pipeline.taxonomy) if run.exists() and run.holds_composites() else None,
            canvas=pipeline.canvas,
        )
    return drop_donors(catalog, pipeline.donors, pipeline.taxonomy)


def _patch_lines(pipeline: Pipeline, catalog: Catalog) -> Iterator[str]:
    mixed, donors = len(catalog.mixed), len(catalog.donors)
    yield f"patches: {len(catalog.patches)} ({donors} donors, {mixed} mixed), {len(catalog.problems)} left out"
    yield from (f"  {line}" for line in problem_lines(catalog.problems, LISTED))
    for index, name in enumerate(pipeline.taxonomy.names):
        single = sum(patch.classes == (index,) for patch in catalog.donors)
        occurs = sum(index in patch.classes for patch in catalog.patches)
        yield f"  {name}: in {occurs} patches, {single} donors"


def _plan_lines(pipeline: Pipeline) -> Iterator[str]:
    height, width = pipeline.canvas
    shard = pipeline.store.shard
    for strategy in pipeline.strategies:
        wanted, first = pipeline.curation.wanted[strategy], first_plan(pipeline, strategy)
        plan = [(f"candidates, to keep {wanted}", first, pipeline.virtual)]
        if pipeline.filter.enabled:
            plan.append(("composites that train the filter", pipeline.filter.candidates, False))
        for what, count, virtual in plan:
            shards = len(shards_of(count, shard))
            size = _NO_PIXELS if virtual else f"{human_bytes(shards * shard * height * width * 4)} before compression"
            yield f"  {strategy}: {count} {what}; {shards} shard{'s' * (shards > 1)} of {shard}, {size}"
        size = _NO_PIXELS if pipeline.virtual else human_bytes(wanted * height * width * 4)
        yield f"  {strategy}: {wanted} in the curated set, {size}"
        if first < pipeline.curation.max_candidates[strategy]:
            yield f"  {strategy}: at most {pipeline.curation.max_candidates[strategy]} candidates"
