"""Repair a run: remove its broken objects, and let a build make them again.

A build makes only the shards that do not exist, so it is enough to remove a broken shard. The new shard has the same
bytes, so all data that was derived from the shard stays valid. Verification and repair are repeated until no fault is
left, at most four times.
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

_ROUNDS = 4  # one each for composites, scores, verdicts and the curated set


def repair(
    path: Location, samples: int, workers: int | None, reporter: Reporter, root: str | None = None
) -> VerifyReport:
    """Verify a run, repair its faults by a build, and verify it again.

    Nothing is changed if a fault is permanent, or if the patches are behind URLs and `root` is not given. A run that is
    not finished is built to its end.

    Parameters
    ----------
    path, samples, reporter, root
        As for `verify`.
    workers : int or None
        Worker processes of the build; by default one for each core. With 0, this process builds.

    Returns
    -------
    VerifyReport
        The report after the repair, with the faults that remain.

    Raises
    ------
    SynthpipeError
        The build fails; see `build`.
    """
    path = resolved(path) if isinstance(path, Path) else path
    for _ in range(_ROUNDS):
        found = verify(path, samples, reporter, patches=True, root=root)
        run = RunDirectory(path)
        if found.unread or any(fault.permanent for fault in found.faults):
            break
        if not found.faults and run.journal().get("finished"):
            tidy(path, reporter)
            break
        with held(path, RUN):  # no other build may run while files are replaced
            _replace_files(run, _pipeline(run, root), found)
        unfinished = "" if found.faults else ", but the run is not finished"
        reporter.note(f"{path}: faults to repair: {len(found.faults)}{unfinished}; building")
        broken = frozenset(each.absolute() for fault in found.faults for each in _broken(fault, run))
        build(_pipeline(run, root), path, ClusterSettings(Local(workers)), reporter, broken=broken)
    else:
        found = verify(path, samples, reporter, patches=True, root=root)
    return found


def _pipeline(run: RunDirectory, root: str | None) -> Pipeline:
    pipeline = run.pipeline()
    patches = pipeline.patches.model_copy(update={"root": root or pipeline.patches.root})
    return pipeline.model_copy(update={"patches": patches})


def _replace_files(run: RunDirectory, pipeline: Pipeline, found: VerifyReport) -> None:
    """Write the files whose correct content is known. The build itself removes the other broken objects."""
    if {fault.path for fault in found.faults} & set(run.tables()):
        catalog, _ = find_catalog(run, pipeline, trusted=False, root=pipeline.patches.root)
        if catalog:  # without a catalog, the patches have changed, and the build refuses them
            write_catalog(catalog, pipeline.taxonomy, run.path)
    for fault in found.faults:
        if fault.replace is not None:
            write_atomically(fault.path, fault.replace)


def _broken(fault: Fault, run: RunDirectory) -> Iterator[Location]:
    """Yield the objects that a repair removes, so that a build makes them again."""
    yield from fault.remove
    if fault.path == run.build_file:
        yield fault.path
