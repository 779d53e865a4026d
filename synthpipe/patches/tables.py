"""Read CSV tables of patches. Each row is a patch, and problems name their line."""

from __future__ import annotations

import csv
import io
import ntpath
import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from fsspec.utils import get_protocol

from synthpipe.core.display import without_secrets
from synthpipe.core.errors import CatalogError
from synthpipe.files.locations import Location
from synthpipe.files.reading import read_regular
from synthpipe.patches.cell_paths import name_patch
from synthpipe.patches.claims import Entry, ProblemKind

_MOST_TABLE = 2**30  # bytes of a CSV


def csv_entries(table: Location) -> Iterator[Entry]:
    """Yield the rows of a CSV with the columns path, labels and, optionally, group."""
    rows = _csv_rows(table)
    first, header = next(rows, (1, []))
    columns = [name.strip().lower() for name in header]
    for column in ("path", "labels"):
        if columns.count(column) != 1:
            count = "no column" if column not in columns else "more than one column"
            raise CatalogError(
                f"{table} line {first}: {count} {column!r}, got {', '.join(map(repr, header)) or 'nothing'}; the "
                "header must name the columns path, labels and, optionally, group, with commas between them"
            )
    lines: dict[str, tuple[int, str]] = {}
    for line, cells in rows:
        where = f"{PurePosixPath(without_secrets(table)).name} line {line}"
        row = dict(zip(columns, cells, strict=False))
        path, group = row.get("path", ""), row.get("group", "").strip()
        if not path.strip():
            yield Entry(where, "", "", fault=("no_path", "the cell 'path' is empty"))
            continue
        named = name_patch(path, table)
        name, file = named.id, named.address
        fault: tuple[ProblemKind, str] | None = None
        if named.refusal:
            fault = ("unreadable", named.refusal)
        elif name in lines:
            before, its_file = lines[name]
            same = "" if file == its_file else ", with other credentials or another signature"
            fault = ("duplicate", f"the path is already in line {before}{same}")
        elif len(cells) > len(columns):
            message = f"the row has {len(cells)} cells, expected {len(columns)}: quote a cell that holds commas"
            fault = ("mislabelled", message)
        elif not row.get("labels", "").strip():
            fault = ("mislabelled", "the cell 'labels' is empty")
        elif get_protocol(file) == "file" and not os.path.isfile(file):  # noqa: PTH113 - accepts every text that a cell can hold
            message = f"there is no file {file!r} (paths begin at the folder of the CSV){_with_slashes(path)}"
            fault = ("unreadable", message)
        lines.setdefault(name, (line, file))
        yield Entry(name, file, row.get("labels", ""), group, where, fault)


def _with_slashes(path: str) -> str:
    """Return a clause that shows how to write a Windows path, or an empty text for other paths."""
    drive, rest = ntpath.splitdrive(path.strip())
    if "\\" not in path:
        return ""
    beginning = f", without {drive!r}" if drive else ""
    return f": separate folders by / instead of \\{beginning}, as in {rest.replace(chr(92), '/')!r}"


def _csv_rows(table: Location) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV that are not blank, each with the number of its first line."""
    try:
        data = read_regular(table, _MOST_TABLE)
    except OSError as error:
        raise CatalogError(
            f"{table}: cannot be read: {error.strerror or error}; set patches.root to the CSV file, or patches.layout"
        ) from error
    except Exception as error:  # clients of object stores raise exceptions of their own
        raise CatalogError(f"{table}: cannot be read: {error}; check its credentials and the network") from error
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CatalogError(f"{table} line {line}: not UTF-8; save the table as CSV in UTF-8") from error
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise CatalogError(f"{table} line {line}: not valid CSV: {error}; check the row's quotes") from error
