"""Recognise a finished run, complete its last steps, and write its report."""

from __future__ import annotations

import shlex

from synthpipe.core.errors import SynthpipeError
from synthpipe.core.progress import Reporter
from synthpipe.files.folders import LOCK, is_half_written
from synthpipe.files.locations import Location, exists, translate_access_errors
from synthpipe.files.lock import held
from synthpipe.report import write_report
from synthpipe.storage.donors import DonorStore
from synthpipe.storage.run import RUN, RunDirectory
from synthpipe.storage.schema import DONORS
from synthpipe.storage.stores import CuratedStore


def is_finished(run: RunDirectory) -> bool:
    """Return whether the build of a run reached its end and its curated set is complete."""
    journal = run.journal()
    if (
        not (journal.get("finished") and exists(run.sums_file))
        or set(run.pipeline().strategies) - journal["strategies"].keys()
    ):
        return False
    curated = CuratedStore.find(run.curated)
    if curated is None or any(curated.missing_objects()):
        return False
    donors = DonorStore.find(run.curated, DONORS)
    return not curated.virtual or (donors is not None and not any(donors.missing_objects()))


def tidy(path: Location, reporter: Reporter) -> None:
    """Complete a finished run whose build was killed in its last steps: remove temporary files, write the report.

    The run is finished without these steps, so an error only becomes a note.
    """
    try:
        with translate_access_errors(path):
            names = {each.name for each in path.iterdir()}
            if "report.html" in names and not any(name == LOCK or is_half_written(name) for name in names):
                return
            with held(path, RUN) as folder:
                run = RunDirectory(folder)
                run.sweep()
                if is_finished(run) and not exists(
                    run.report_page
                ):  # another process may have changed the run before the lock
                    write_run_report(run, reporter)
    except (SynthpipeError, OSError) as error:
        reporter.note(f"note: {error}")


def write_run_report(run: RunDirectory, reporter: Reporter) -> None:
    """Write the report of a finished run. An error only becomes a note: the run is finished anyway."""
    try:
        write_report(run.path)
    except Exception as error:
        reporter.note(
            f"note: {run.path} is finished and complete, but {run.report_page} could not be written: {error}; "
            f"`synthpipe report {shlex.quote(str(run.path))}` tries again"
        )
