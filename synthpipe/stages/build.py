"""The stages of a build, in order and resumable: catalog, donors, filter, candidates, scores, curated set.

What is stored is the ledger: every stage first looks which of its objects are there and makes only the others.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from synthpipe.config import Pipeline
from synthpipe.errors import StaleRunError
from synthpipe.files import Location
from synthpipe.patches.bank import build_bank
from synthpipe.patches.catalog import Catalog, load_catalog, read_catalog, write_catalog
from synthpipe.patches.layouts import read_layout
from synthpipe.progress import Reporter
from synthpipe.resizing import fit_packed
from synthpipe.runtime import available_cores, local_client
from synthpipe.stages.candidates import make_candidates, make_filters
from synthpipe.stages.curated_set import write_curated_set, write_verdicts
from synthpipe.stages.feasibility import check_patches, remarks, split_json
from synthpipe.stages.sameness import check_pixels, check_same_patches
from synthpipe.stages.state import BuildState, timed
from synthpipe.storage.lock import held
from synthpipe.storage.run import RunDirectory, json_text, versions, write_json
from synthpipe.storage.schema import is_complete, open_group
from synthpipe.storage.sums import write_sums
from synthpipe.tasks import Job, prepare


def build(
    pipeline: Pipeline, path: Location, workers: int | None, reporter: Reporter, extend: bool = False
) -> dict[str, Any]:
    """Build a run, or go on with one that was interrupted.

    Parameters
    ----------
    pipeline : Pipeline
        What to build.
    path : Path or UPath
        The run directory.
    workers : int or None
        Worker processes; by default one a core.
    reporter : Reporter
        Told about the progress.
    extend : bool
        Whether a finished run may be asked for more composites. The set that it has is kept under another name.

    Returns
    -------
    dict
        What ``build.json`` holds: seconds a stage, and what became of every strategy's candidates.

    Raises
    ------
    SynthpipeError
        The patches, the filter or the run directory do not allow the build, or another process is building the run;
        what was made stays and is used again.
    """
    run = RunDirectory(path)
    _check(run, pipeline, extend)
    if is_finished(run) and run.pipeline().patches == pipeline.patches and run.pipeline().curation == pipeline.curation:
        reporter.note(f"{path} is finished: nothing to do")
        return run.journal()
    with held(path):
        _check(run, pipeline, extend)  # it may have changed until we held it
        run.sweep()
        try:
            return _build(pipeline, run, workers, reporter)
        finally:
            run.sweep()


def _check(run: RunDirectory, pipeline: Pipeline, extend: bool) -> None:
    if run.exists():
        run.check(pipeline, extend)
    elif run.holds_composites():
        raise StaleRunError(
            f"{run.path}: holds composites but no run.json; restore it, or build into another directory"
        )


def _build(pipeline: Pipeline, run: RunDirectory, workers: int | None, reporter: Reporter) -> dict[str, Any]:
    if run.curated.exists() and run.pipeline().curation != pipeline.curation:
        if not is_finished(run):
            raise StaleRunError(f"{run.path}: is not finished; finish it before it is extended")
        reporter.note(f"the curated set that there is becomes {run.set_curated_aside()}")
    journal = run.journal()
    journal.pop("finished", None)
    with timed(journal, "catalog"):
        catalog = _catalog(pipeline, run, reporter)
    split = check_patches(pipeline, catalog)
    for remark in remarks(pipeline, catalog):
        reporter.note(f"note: {remark}")
    if split:
        write_json(run.split_file, split_json(split))
    with tempfile.TemporaryDirectory(prefix="synthpipe-") as scratch:
        job = Job(pipeline, run, Path(scratch))
        with timed(journal, "donors"):
            _bank(job, catalog, reporter)
        with local_client(workers, partial(prepare, job.bank)) as client:
            state = BuildState(job, catalog, client, reporter, journal)
            try:
                check_pixels(state)
                _make_curated_set(state)
                write_sums(run, {run.build_file: json_text(journal).encode()})
            finally:
                write_json(run.build_file, journal)
    return journal


def is_finished(run: RunDirectory) -> bool:
    """Whether a build of this run came to its end, and its curated set is complete."""
    journal = run.journal()
    if not journal.get("finished") or set(run.pipeline().strategies) - journal["strategies"].keys():
        return False
    return run.curated.exists() and is_complete(open_group(run.curated))


def _catalog(pipeline: Pipeline, run: RunDirectory, reporter: Reporter) -> Catalog:
    """Read the patches, or the catalog of a run that already holds composites of the same `patches` section."""
    if run.exists() and run.holds_composites() and run.pipeline().patches == pipeline.patches:
        catalog = load_catalog(run.path, pipeline.taxonomy)
        check_same_patches(run, catalog)
    else:
        claims = read_layout(pipeline.patches, pipeline.taxonomy)
        with reporter.stage("catalog", len(claims)) as advance:
            catalog = read_catalog(pipeline.patches, pipeline.taxonomy, lambda: advance(1), claims=claims)
        check_same_patches(run, catalog)
        run.path.mkdir(parents=True, exist_ok=True)
        write_catalog(catalog, pipeline.taxonomy, run.path)
    run.reopen()
    run.write(pipeline, catalog.digest)
    made_with, here = run.read()["versions"], versions()
    for package in sorted(here.keys() & made_with.keys()):
        if here[package] != made_with[package]:
            reporter.note(f"note: {run.path} was begun with {package} {made_with[package]}, here is {here[package]}")
    if catalog.problems:
        reporter.note(f"{len(catalog.problems)} patches left out; {run.path / 'problems.csv'} says why")
    return catalog


def _bank(job: Job, catalog: Catalog, reporter: Reporter) -> None:
    pipeline = job.pipeline
    with reporter.stage("donors", len(catalog.donors)) as advance:
        background = pipeline.taxonomy.background
        fit = partial(fit_packed, size=pipeline.canvas) if pipeline.bezier else None
        build_bank(job.bank, catalog.donors, pipeline.glass, background, lambda: advance(1), available_cores(), fit)


def _make_curated_set(state: BuildState) -> None:
    pipeline = state.pipeline
    if pipeline.filter.enabled:
        make_filters(state)
    verdicts = {strategy: make_candidates(state, strategy) for strategy in pipeline.strategies}
    with timed(state.journal, "curated set"):
        for strategy in pipeline.strategies:
            write_verdicts(state, strategy, verdicts[strategy])
        write_curated_set(state, verdicts)
    state.journal["finished"] = True
