"""Mending a run: a build removes what is broken once it is sure to go on, then goes on as after an interruption.

The objects are a build's ledger, so a shard that is gone is made again, and nothing else. What follows from a shard has
the bytes that it had, for the shard has; where it did not follow from what is there now, the next round finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from synthpipe.build import build
from synthpipe.build.finished import tidy
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.progress import Reporter
from synthpipe.files.folders import resolved
from synthpipe.files.locations import Location
from synthpipe.files.lock import held
from synthpipe.files.writing import write_atomically
from synthpipe.patches.catalog import write_catalog
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.run import RUN, RunDirectory
from synthpipe.verification.faults import Fault, VerifyReport
from synthpipe.verification.file_checks import find_catalog
from synthpipe.verification.whole_run import verify

_ROUNDS = 4  # composites, their scores, verdicts, the curated set


def repair(
    path: Location, samples: int, workers: int | None, reporter: Reporter, root: str | None = None
) -> VerifyReport:
    """Check a run, mend what can be mended, and check it again.

    Parameters
    ----------
    path, samples, reporter, root
        As of `verify`.
    workers : int or None
        Worker processes of the build; by default one a core.

    Returns
    -------
    VerifyReport
        The last: without faults, or with those that stay. Where there are some that no build can mend, nothing is
        touched, so that they can be mended first; nor where patches lie behind URLs and there is no `root`.

    Raises
    ------
    SynthpipeError
        As of `build`, which goes on where the run is not finished.
    """
    path = resolved(path) if isinstance(path, Path) else path
    for _ in range(_ROUNDS):
        found = verify(path, samples, reporter, patches=True, root=root)
        run = RunDirectory(path)
        if found.unread or any(fault.lasting for fault in found.faults):
            break
        if not found.faults and run.journal().get("finished"):
            tidy(path, reporter)
            break
        with held(path, RUN):  # nobody else builds the run while files are replaced
            _prepare(run, _pipeline(run, root), found)
        unfinished = "" if found.faults else ", but the run is not finished"
        reporter.note(f"{path}: faults to mend: {len(found.faults)}{unfinished}; building again")
        broken = frozenset(each.absolute() for fault in found.faults for each in _broken(fault, run))
        build(_pipeline(run, root), path, ClusterSettings(Local(workers)), reporter, broken=broken)
    else:
        found = verify(path, samples, reporter, patches=True, root=root)
    return found


def _pipeline(run: RunDirectory, root: str | None) -> Pipeline:
    pipeline = run.pipeline()
    patches = pipeline.patches.model_copy(update={"root": root or pipeline.patches.root})
    return pipeline.model_copy(update={"patches": patches})


def _prepare(run: RunDirectory, pipeline: Pipeline, found: VerifyReport) -> None:
    """Write what is known; what has to be made again goes when the build is sure to go on."""
    if {fault.path for fault in found.faults} & set(run.tables()):
        catalog, _ = find_catalog(run, pipeline, trusted=False, root=pipeline.patches.root)
        if catalog:  # patches that changed since are the build's to refuse
            write_catalog(catalog, pipeline.taxonomy, run.path)
    for fault in found.faults:
        if fault.replace is not None:
            write_atomically(fault.path, fault.replace)


def _broken(fault: Fault, run: RunDirectory) -> Iterator[Location]:
    """Yield what has to go so that a build makes it again."""
    yield from fault.remove
    if fault.path == run.build_file:
        yield fault.path
