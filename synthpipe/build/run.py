"""Build a run: catalog, donor bank, filter, candidates, verdicts, curated set. A build can be resumed.

The stored objects record the progress: each step first lists its existing objects, and makes only the missing ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthpipe.build.candidates import make_candidates, make_filters
from synthpipe.build.catalog import read_run_catalog
from synthpipe.build.compatibility import check_pixels
from synthpipe.build.curated_set import write_curated_set, write_verdicts
from synthpipe.build.finished import is_finished, tidy, write_run_report
from synthpipe.build.outcome import rare_classes
from synthpipe.build.preflight import check_patches, remarks, split_json
from synthpipe.build.resuming import asks_for_more, asks_the_same, check_run, check_stores, reopen
from synthpipe.build.state import BuildState, timed
from synthpipe.build.tasks import Job
from synthpipe.build.worker_setup import bank_of_build, demand, open_worker_setup
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import StaleRunError
from synthpipe.core.packages import require_filter
from synthpipe.core.progress import Reporter
from synthpipe.files.locations import Location, in_memory
from synthpipe.files.lock import held, holds
from synthpipe.files.scratch import sweep
from synthpipe.files.writing import write_atomically
from synthpipe.patches.catalog import Catalog, write_catalog
from synthpipe.report.data_cards.of_run import write_cards
from synthpipe.runtime import ClusterSettings, Local, check_reachable, open_executor
from synthpipe.storage.checksums import write_checksums
from synthpipe.storage.run import RUN, RunDirectory, json_text, write_json


def build(
    pipeline: Pipeline,
    path: Location,
    cluster: ClusterSettings,
    reporter: Reporter,
    extend: bool = False,
    broken: frozenset[Location] | None = None,
) -> dict[str, Any]:
    """Build a run, or resume a build that was interrupted.

    Parameters
    ----------
    pipeline : Pipeline
        The pipeline to build.
    path : Path or UPath
        The run directory.
    cluster : ClusterSettings
        The workers; ``ClusterSettings()`` uses this machine, with one process per core.
    reporter : Reporter
        Receives the progress.
    extend : bool
        Whether a finished run may get more composites. Its curated set is kept under another name.
    broken : frozenset of path, optional
        Absolute paths of files to make again, also in a finished run. The build removes these files after its last
        check.

    Returns
    -------
    dict
        The content of ``build.json``: seconds of each stage, and the results of every strategy.

    Raises
    ------
    SynthpipeError
        A package that the filter needs is missing, another process is building the run, or the patches, the filter,
        the cluster or the run directory cannot be used. Finished work stays, and the next build uses it. A new run
        without composites is removed.
    """
    run = RunDirectory(path)
    check_run(run, pipeline, extend)
    if broken is None and is_finished(run) and asks_the_same(run.pipeline(), pipeline):
        reporter.note(f"{path} is finished: nothing to do")
        tidy(path, reporter)
        return run.journal()
    if pipeline.filter.enabled:
        require_filter()
    check_reachable(cluster)
    with held(path, RUN) as folder:
        run = RunDirectory(folder)
        check_run(run, pipeline, extend)  # the run may have changed before we held its lock
        run.sweep()
        with _discarding(run):
            journal = _build(pipeline, run, cluster, reporter, broken or frozenset())
        run.sweep()
        return journal


@contextmanager
def _discarding(run: RunDirectory) -> Iterator[None]:
    """Clean the run up after an error; remove a new run without composites."""
    is_new = not run.exists()
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the user needs the first error
            if holds(run.path):  # without the lock, the files may belong to another process
                run.sweep()
                if is_new and not run.holds_composites():
                    run.discard()
        raise


def _build(
    pipeline: Pipeline, run: RunDirectory, cluster: ClusterSettings, reporter: Reporter, broken: frozenset[Location]
) -> dict[str, Any]:
    begun = run.exists() and run.holds_composites()
    moved = begun and run.pipeline().patches.model_dump() != pipeline.patches.model_dump()
    if asks_for_more(run, pipeline) and not is_finished(run):
        raise StaleRunError(f"{run.path}: is not finished; finish it before you extend it")
    journal = {"stages": {}, "strategies": {}} if run.build_file.absolute() in broken else run.journal()
    journal.pop("finished", None)
    with timed(journal, "catalog"):
        catalog = read_run_catalog(pipeline, run, reporter, anew=moved or not begun)
    if moved or not begun:
        journal["pixel_remarks"] = list(catalog.remarks)
    catalog = replace(catalog, remarks=tuple(journal.get("pixel_remarks", ())))
    if not begun:
        write_catalog(catalog, pipeline.taxonomy, run.path)
        reopen(run, pipeline, catalog, broken)
    split = check_patches(pipeline, catalog)
    journal["remarks"] = list(remarks(pipeline, catalog))
    for remark in journal["remarks"]:
        reporter.note(f"note: {remark}")
    if split:
        write_json(run.split_file, split_json(split))
    with ExitStack() as stack:
        undo = stack.enter_context(ExitStack())
        if moved:
            for path in run.tables():
                undo.callback(write_atomically, path, path.read_bytes())
            write_catalog(catalog, pipeline.taxonomy, run.path)
        state = stack.enter_context(_open_workers(pipeline, run, catalog, split, cluster, reporter, journal))
        check_pixels(state, broken)
        check_stores(run)
        undo.pop_all()  # a build that is refused before this line leaves the run unchanged
        if begun:
            if asks_for_more(run, pipeline):
                reporter.note(f"moved the existing curated set to {run.set_curated_aside()}")
            reopen(run, pipeline, catalog, broken)
        try:
            _make_curated_set(state)
            _finish(state)
        finally:
            write_json(run.build_file, journal)
    write_run_report(run, reporter)
    return journal


@contextmanager
def _open_workers(
    pipeline: Pipeline,
    run: RunDirectory,
    catalog: Catalog,
    split: Mapping[str, Collection[str]],
    cluster: ClusterSettings,
    reporter: Reporter,
    journal: dict[str, Any],
) -> Iterator[BuildState]:
    """Start the workers, build the donor bank on every node, and yield the state that the steps of the build share."""
    with ExitStack() as stack:
        bank = bank_of_build(pipeline, catalog, cluster, reporter)
        if isinstance(cluster.where, Local):
            stack.callback(sweep, bank.scratch)  # remove the rest of killed workers
        job = Job(pipeline, RunDirectory(run.path.absolute()), bank)
        if isinstance(cluster.where, Local) and in_memory(run.path, pipeline.patches.root):
            cluster = replace(cluster, where=replace(cluster.where, workers=0))
        setup = stack.enter_context(open_worker_setup(job, catalog))
        shared = job.run.path if isinstance(job.run.path, Path) else None
        executor = stack.enter_context(open_executor(cluster, demand(pipeline, catalog, split), reporter.note, shared))
        with timed(journal, "donors"):
            donors = len(catalog.donors) * executor.hosts()
            with reporter.stage("donors", donors) as advance:
                stack.enter_context(executor.prepared(setup, advance))
        yield BuildState(job, catalog, executor, reporter, journal)


def _make_curated_set(state: BuildState) -> None:
    """Make filters, candidates, verdicts and the curated set, in this order."""
    pipeline = state.pipeline
    if pipeline.filter.enabled:
        make_filters(state)
    verdicts = {strategy: make_candidates(state, strategy) for strategy in pipeline.strategies}
    with timed(state.journal, "curated set"):
        for strategy in pipeline.strategies:
            write_verdicts(state, strategy, verdicts[strategy])
        write_curated_set(state, verdicts)


def _finish(state: BuildState) -> None:
    """Write the data cards and the checksums of a run whose curated set is complete."""
    run, journal = state.run, state.journal
    journal["remarks"] += rare_classes(state.pipeline, state.catalog, journal["strategies"])
    journal["finished"] = True
    try:
        write_cards(run, journal)
        write_checksums(run, {run.build_file: json_text(journal).encode()})
    except BaseException:
        journal.pop("finished", None)  # a finished run has cards and checksums
        raise
