"""What a run is, for people: the report, one HTML file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from synthpipe.core.errors import StoreError
from synthpipe.files.locations import Location, translate_errors
from synthpipe.files.writing import refuse_irregular, write_atomically
from synthpipe.report.anonymous import without_names
from synthpipe.report.facts import gather_facts
from synthpipe.report.html import html_page
from synthpipe.storage.run import RunDirectory

__all__ = ["write_report"]

_TITLE = b": synthpipe report</title>"  # of every report
_HEAD = 1 << 16  # bytes in which it stands


def write_report(path: Location, output: Location | None = None, anonymous: bool = False) -> Location:
    """Write the report of a run, finished or not; it depends on what is stored alone.

    Parameters
    ----------
    path : Path or UPath
        The run directory.
    output : Path or UPath, optional
        The file to write; ``report.html`` of the run by default.
    anonymous : bool
        Whether names of patches, slides and folders are left out, as by `report.anonymous`.

    Returns
    -------
    Path or UPath
        Where it was written.

    Raises
    ------
    StoreError
        There is no run at `path`, what it holds is damaged, or the file cannot be written, or is no report.
    """
    target = output or RunDirectory(path).report_page
    _refuse_others(target)
    facts = gather_facts(path)
    # names that are no Unicode keep their bytes as surrogates, which a page cannot hold
    write_atomically(
        target, html_page(without_names(facts) if anonymous else facts).encode("utf-8", "backslashreplace")
    )
    return target


def _refuse_others(target: Location) -> None:
    """Refuse to write over a file that is no report."""
    with translate_errors(target, "cannot be read"), suppress(FileNotFoundError):
        if isinstance(target, Path):
            refuse_irregular(target)
        with target.open("rb") as file:
            if _TITLE not in file.read(_HEAD):
                raise StoreError(f"{target}: is no report of synthpipe; remove it, or write to another file (-o)")
