"""The stages of a build, in order and resumable: catalog, donors, filter, candidates, scores, curated set.

What is stored is the ledger: every stage first looks which of its objects are there and makes only the others.
"""

from __future__ import annotations

import math
import shlex
import shutil
import tempfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthpipe.report.data_cards.of_run import write_cards
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import StaleRunError, SynthpipeError
from synthpipe.files.locations import Location, exists, in_memory, translate_access_errors
from synthpipe.files.writing import write_atomically
from synthpipe.files.folders import LOCK, claim, is_half_written
from synthpipe.files.lock import held, holds
from synthpipe.core.packages import require_filter
from synthpipe.patches.access import with_access
from synthpipe.patches.bank import bank_bytes
from synthpipe.patches.catalog import LISTED, Catalog, load_catalog, read_catalog, write_catalog
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.shared_bank import BankPlace
from synthpipe.core.progress import Reporter
from synthpipe.report import write_report
from synthpipe.runtime import ClusterSettings, Demand, Local, check_reachable, open_cluster
from synthpipe.files.scratch import ANOTHER_PLACE, has_locks, sweep
from synthpipe.build.candidates import make_candidates, make_filters
from synthpipe.build.curated_set import write_curated_set, write_verdicts
from synthpipe.build.preflight import check_patches, remarks, split_json
from synthpipe.build.outcome import rare_classes
from synthpipe.build.compatibility import check_pixels, check_same_patches
from synthpipe.build.state import BuildState, timed
from synthpipe.storage.run import RUN, RunDirectory, json_text, versions, write_json
from synthpipe.storage.store import Store
from synthpipe.storage.stores import CuratedStore
from synthpipe.storage.checksums import write_checksums
from synthpipe.build.tasks import Job, real_patches
from synthpipe.build.worker_setup import open_worker_setup, place_bank

_TORCH_BYTES = 2 << 30


def build(
    pipeline: Pipeline,
    path: Location,
    cluster: ClusterSettings,
    reporter: Reporter,
    extend: bool = False,
    broken: frozenset[Location] | None = None,
) -> dict[str, Any]:
    """Build a run, or go on with one that was interrupted.

    Parameters
    ----------
    pipeline : Pipeline
        What to build.
    path : Path or UPath
        The run directory.
    cluster : ClusterSettings
        Where it works; ``ClusterSettings()`` is this machine, one process a core.
    reporter : Reporter
        Told about the progress.
    extend : bool
        Whether a finished run may be asked for more composites. The set that it has is kept under another name.
    broken : frozenset of path, optional
        Absolute paths of files to make again, also in a finished run. They are removed once nothing can refuse the
        build any more.

    Returns
    -------
    dict
        What ``build.json`` holds: seconds a stage, and what became of every strategy's candidates.

    Raises
    ------
    SynthpipeError
        A package that the filter needs is missing; the patches, the filter, the cluster or the run directory do not
        allow the build; or another process is building the run. What was made stays and is used again. A new run of
        which no composite was made is removed.
    """
    run = RunDirectory(path)
    _check(run, pipeline, extend)
    if broken is None and is_finished(run) and _asks_the_same(run.pipeline(), pipeline):
        reporter.note(f"{path} is finished: nothing to do")
        tidy(path, reporter)
        return run.journal()
    if pipeline.filter.enabled:
        require_filter()
    check_reachable(cluster)
    with held(path, RUN) as folder:
        run = RunDirectory(folder)
        _check(run, pipeline, extend)  # it may have changed until we held it
        run.sweep()
        is_new = not run.exists()
        try:
            journal = _build(pipeline, run, cluster, reporter, broken or frozenset())
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                if holds(folder):  # else all that lies there may be another process's
                    run.sweep()
                    if is_new and not run.holds_composites():
                        run.discard()
            raise
        run.sweep()
        return journal


def tidy(path: Location, reporter: Reporter) -> None:
    """Do for a finished run what a process that was killed at the end of its build did not come to.

    The run is finished without it, so what goes wrong is only noted.
    """
    try:
        with translate_access_errors(path):
            names = {each.name for each in path.iterdir()}
            if "report.html" in names and not any(name == LOCK or is_half_written(name) for name in names):
                return
            with held(path, RUN) as folder:
                run = RunDirectory(folder)
                run.sweep()
                if is_finished(run) and not exists(run.report_page):  # another process may have changed it until now
                    _report(run, reporter)
    except (SynthpipeError, OSError) as error:
        reporter.note(f"note: {error}")


def _check(run: RunDirectory, pipeline: Pipeline, extend: bool) -> None:
    if run.exists():
        run.check(pipeline, extend)
    elif run.holds_composites():
        raise StaleRunError(
            f"{run.path}: holds composites but no run.json; restore it, or build into another directory"
        )
    else:
        claim(run.path, RUN)


def _asks_the_same(made: Pipeline, asked: Pipeline) -> bool:
    """Whether a pipeline that may go on with a finished run asks for nothing that is not there."""
    keys = {"patches", "curation", "license"}  # as they are stored: credentials of patches.root do not count
    return made.model_dump(include=keys) == asked.model_dump(include=keys)


def _build(
    pipeline: Pipeline, run: RunDirectory, cluster: ClusterSettings, reporter: Reporter, broken: frozenset[Location]
) -> dict[str, Any]:
    begun = run.exists() and run.holds_composites()
    moved = begun and run.pipeline().patches.model_dump() != pipeline.patches.model_dump()
    if _asks_for_more(run, pipeline) and not is_finished(run):
        raise StaleRunError(f"{run.path}: is not finished; finish it before it is extended")
    journal = {"stages": {}, "strategies": {}} if run.build_file.absolute() in broken else run.journal()
    journal.pop("finished", None)
    with timed(journal, "catalog"):
        catalog = _catalog(pipeline, run, reporter, anew=moved or not begun)
    if moved or not begun:
        journal["pixel_remarks"] = list(catalog.remarks)
    catalog = replace(catalog, remarks=tuple(journal.get("pixel_remarks", ())))
    if not begun:
        write_catalog(catalog, pipeline.taxonomy, run.path)
        _reopen(run, pipeline, catalog, broken)
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
        place = _place_bank(pipeline, catalog, cluster, reporter)
        if isinstance(cluster.where, Local):
            stack.callback(sweep, place.scratch)  # of workers that had to be killed
        job = Job(pipeline, RunDirectory(run.path.absolute()), place)
        if isinstance(cluster.where, Local) and in_memory(run.path, pipeline.patches.root):
            cluster = replace(cluster, where=replace(cluster.where, processes=False))
        workplace = stack.enter_context(open_worker_setup(job, catalog))
        shared = job.run.path if isinstance(job.run.path, Path) else None
        workers = stack.enter_context(open_cluster(cluster, demand(pipeline, catalog, split), reporter.note, shared))
        with timed(journal, "donors"):
            donors = len(catalog.donors) * workers.crew.now().hosts
            with reporter.stage("donors", donors) as advance:
                stack.enter_context(workers.prepared(workplace, advance))
        state = BuildState(job, catalog, workers, reporter, journal)
        check_pixels(state, broken)
        _check_stores(run)
        undo.pop_all()  # until here a build that is refused leaves the run as it was
        if begun:
            if _asks_for_more(run, pipeline):
                reporter.note(f"the curated set that there is becomes {run.set_curated_aside()}")
            _reopen(run, pipeline, catalog, broken)
        try:
            _make_curated_set(state)
            journal["remarks"] += rare_classes(pipeline, catalog, journal["strategies"])
            journal["finished"] = True
            write_cards(run, journal)
            write_checksums(run, {run.build_file: json_text(journal).encode()})
        except BaseException:
            journal.pop("finished", None)  # cards and digests belong to it
            raise
        finally:
            write_json(run.build_file, journal)
    _report(run, reporter)
    return journal


def _place_bank(pipeline: Pipeline, catalog: Catalog, cluster: ClusterSettings, reporter: Reporter) -> BankPlace:
    """Return where the donor bank will lie; workers of this machine share none where locks do nothing."""
    scratch = cluster.scratch_on_nodes
    shared = not isinstance(cluster.where, Local) or has_locks(scratch)
    if not shared:
        reporter.note(
            f"note: {scratch or tempfile.gettempdir()}: its file system gives one lock to several processes, so each "
            f"worker builds a donor bank of its own there, and leaves it when it is killed; to share one, "
            f"{ANOTHER_PLACE}"
        )
    return place_bank(pipeline, catalog, scratch, shared)


def _report(run: RunDirectory, reporter: Reporter) -> None:
    """Write the report of a finished run, which stays finished whatever goes wrong here."""
    try:
        write_report(run.path)
    except Exception as error:
        reporter.note(
            f"note: {run.path} is finished and whole, but {run.report_page} could not be written: {error}; "
            f"`synthpipe report {shlex.quote(str(run.path))}` tries again"
        )


def demand(pipeline: Pipeline, catalog: Catalog, split: Mapping[str, Collection[str]]) -> Demand:
    """Return what a build needs of its workers' memory beside their own share; `split` has the groups of each side."""
    canvas = pipeline.canvas if pipeline.bezier else None
    training = 0
    if pipeline.filter.enabled:
        # torch itself; composites, as many real patches and views of these, and as much again to compute with
        image = 3 * math.prod(pipeline.canvas)
        training = _TORCH_BYTES + 4 * pipeline.filter.candidates * image
        # the patches that train are held as they are
        sizes = (3 * patch.height * patch.width for patch in real_patches(pipeline, catalog, split)["train"])
        training += sum(max(0, size - image) for size in sizes)
    return Demand(bank_bytes(catalog.donors, canvas), training)


def is_finished(run: RunDirectory) -> bool:
    """Whether a build of this run came to its end, and its curated set is complete."""
    journal = run.journal()
    if (
        not (journal.get("finished") and exists(run.sums_file))
        or set(run.pipeline().strategies) - journal["strategies"].keys()
    ):
        return False
    curated = CuratedStore.find(run.curated)
    return curated is not None and not any(curated.missing_objects())


def _check_stores(run: RunDirectory) -> None:
    """Refuse composites whose metadata is damaged, before anything makes room for what is made of them.

    Raises
    ------
    StoreError
        The message names the file.
    """
    for path in (run.training, run.candidates):
        store = Store.find(path)
        for strategy in store.groups() if store else ():
            Store.open(path, strategy).names()


def _reopen(run: RunDirectory, pipeline: Pipeline, catalog: Catalog, broken: frozenset[Location]) -> None:
    """Count the run as not finished, remove what is broken, and record what is built from here on."""
    if run.build_file.absolute() in broken:  # it need not be a journal
        run.build_file.unlink(missing_ok=True)
    run.reopen()
    for path in broken:
        if isinstance(path, Path) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    run.write(pipeline, catalog.digest)


def _asks_for_more(run: RunDirectory, pipeline: Pipeline) -> bool:
    """Whether the curated set that there is must make room for a larger one."""
    return run.has_curated() and run.pipeline().curation != pipeline.curation


def _catalog(pipeline: Pipeline, run: RunDirectory, reporter: Reporter, anew: bool) -> Catalog:
    """Read the patches `anew`, or the catalog of a run that already holds composites of the same `patches` section."""
    if anew:
        claims = read_layout(pipeline.patches, pipeline.taxonomy)
        with reporter.stage("catalog", len(claims)) as advance:
            former = load_catalog(run.path, pipeline.taxonomy) if run.exists() and run.holds_composites() else None
            catalog = read_catalog(
                pipeline.patches,
                pipeline.taxonomy,
                lambda: advance(1),
                claims=claims,
                former=former,
                canvas=pipeline.canvas,
            )
    else:
        catalog = load_catalog(run.path, pipeline.taxonomy)
        catalog = with_access(catalog, pipeline.patches, pipeline.taxonomy, reporter.note)
    check_same_patches(run, catalog)
    made_with, here = run.read()["versions"] if run.exists() else {}, versions(pipeline.filter.enabled)
    for package in sorted(here.keys() & made_with.keys()):
        if here[package] != made_with[package]:
            reporter.note(f"note: {run.path} was begun with {package} {made_with[package]}, here is {here[package]}")
    if catalog.problems:
        left = len({problem.id for problem in catalog.problems})
        reporter.note(
            "\n  ".join(
                [
                    f"{left} patches left out; problems.csv in the run lists all, as does `synthpipe index`:",
                    *problem_lines(catalog.problems, LISTED),
                ]
            )
        )
    return catalog


def _make_curated_set(state: BuildState) -> None:
    pipeline = state.pipeline
    if pipeline.filter.enabled:
        make_filters(state)
    verdicts = {strategy: make_candidates(state, strategy) for strategy in pipeline.strategies}
    with timed(state.journal, "curated set"):
        for strategy in pipeline.strategies:
            write_verdicts(state, strategy, verdicts[strategy])
        write_curated_set(state, verdicts)
