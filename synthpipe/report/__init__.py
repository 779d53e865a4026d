"""The report of a run: one HTML file that shows its composites, curation, filters and patches."""

from __future__ import annotations

from synthpipe.core.errors import StoreError
from synthpipe.files.locations import Location
from synthpipe.files.writing import first_bytes, write_atomically
from synthpipe.storage.run import RunDirectory

__all__ = ["write_report"]

_TITLE = b": synthpipe report</title>"  # every report has this title
_HEAD = 1 << 16  # the title is within these first bytes


def write_report(path: Location, output: Location | None = None, anonymous: bool = False) -> Location:
    """Write the report of a run, finished or not.

    The report depends only on files of the run, not on the source patches.

    Parameters
    ----------
    path : Path or UPath
        The run directory.
    output : Path or UPath, optional
        The file to write (default: ``report.html`` in the run).
    anonymous : bool
        Whether to replace the names of patches, slides and folders; see `report.anonymous`.

    Returns
    -------
    Path or UPath
        The file that was written.

    Raises
    ------
    StoreError
        There is no run at `path`, a file of the run is damaged, or the report cannot be written. An existing file
        that is not a report is never overwritten.
    """
    # data cards are in this package too, and need neither templates nor kernels
    from synthpipe.report.anonymous import without_names
    from synthpipe.report.facts import gather_facts
    from synthpipe.report.html import html_page

    target = output or RunDirectory(path).report_page
    _refuse_others(target)
    facts = gather_facts(path)
    # names that are not valid Unicode hold surrogates, which UTF-8 cannot encode
    write_atomically(
        target, html_page(without_names(facts) if anonymous else facts).encode("utf-8", "backslashreplace")
    )
    return target


def _refuse_others(target: Location) -> None:
    """Raise StoreError if `target` exists and is not a report."""
    head = first_bytes(target, _HEAD)
    if head is not None and _TITLE not in head:
        raise StoreError(f"{target}: is not a report of synthpipe; remove the file, or write to another file (-o)")
