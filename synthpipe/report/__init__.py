"""What a run is, for people: the report, one HTML file."""

from __future__ import annotations

from synthpipe.files import Location, write_atomically
from synthpipe.report.facts import gather
from synthpipe.report.html import page
from synthpipe.storage.run import RunDirectory

__all__ = ["write_report"]


def write_report(path: Location, output: Location | None = None) -> Location:
    """Write the report of a run, finished or not; it depends on what is stored alone.

    Parameters
    ----------
    path : Path or UPath
        The run directory.
    output : Path or UPath, optional
        The file to write; ``report.html`` of the run by default.

    Returns
    -------
    Path or UPath
        Where it was written.

    Raises
    ------
    StoreError
        There is no run at `path`, what it holds is damaged, or the file cannot be written.
    """
    target = output or RunDirectory(path).report_page
    # names that are no Unicode keep their bytes as surrogates, which a page cannot hold
    write_atomically(target, page(gather(path)).encode("utf-8", "backslashreplace"))
    return target
