"""The table of the quality of all donors, ``quality.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from synthpipe.config.pipeline import DROP_REASONS, DropReason
from synthpipe.core.display import from_cell, to_cell
from synthpipe.core.errors import CatalogError
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.locations import Location
from synthpipe.files.writing import write_atomically
from synthpipe.patches.quality.measuring import DonorQuality

_MEASURES = ("confidence", "second", "sharpness", "glass", "pen", "fold", "copy_of")
COLUMNS = ("id", "sha256", "label", *_MEASURES, "reasons")
HEADER = ",".join(COLUMNS).encode()
"""First line of the table, without its line end."""
_AGAIN = "write the table again with `synthpipe index --quality`"


@dataclass(frozen=True, slots=True)
class QualityRow:
    """The columns that decide whether a donor is used. `line` is the number of the row's first line in the file."""

    line: int
    id: str
    sha256: str
    label: str
    confidence: float | None
    reasons: tuple[DropReason, ...]


def write_quality(found: Sequence[DonorQuality], taxonomy: Taxonomy, path: Location) -> None:
    """Write the table atomically, with a row for each donor.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for each in found:
        second = "" if each.second is None else taxonomy.names[each.second]
        confidence = "" if each.confidence is None else each.confidence
        measures = (confidence, second, each.sharpness, each.glass, each.pen, each.fold, each.copy_of)
        label, reasons = taxonomy.label(each.patch.classes), " ".join(each.reasons)
        row = (each.patch.id, each.patch.sha256, label, *measures, reasons)
        table.writerow([to_cell(str(value)) for value in row])
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_quality(data: bytes, name: str) -> Iterator[QualityRow]:
    """Yield the rows of a table that `write_quality` wrote.

    Parameters
    ----------
    data : bytes
        Content of the file.
    name : str
        Name of the file in messages.

    Raises
    ------
    CatalogError
        The content is not such a table. The message names the line.
    """
    lines = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""), strict=True)
    line = 1
    try:
        for cells in lines:
            if line == 1 and cells != list(COLUMNS):
                raise _damaged(name, line, f"the header is {','.join(cells)[:200]!r}, expected {','.join(COLUMNS)!r}")
            if line > 1 and cells:
                yield _row(name, line, cells)
            line = lines.line_num + 1
    except csv.Error as error:
        raise _damaged(name, line, f"not valid CSV: {error}") from error
    if line == 1:
        raise _damaged(name, line, "the file is empty")


def _row(name: str, line: int, cells: Sequence[str]) -> QualityRow:
    if len(cells) != len(COLUMNS):
        raise _damaged(name, line, f"the row has {len(cells)} cells, expected {len(COLUMNS)}")
    row = dict(zip(COLUMNS, map(from_cell, cells), strict=True))
    reasons = tuple(reason for reason in DROP_REASONS if reason in row["reasons"].split())
    if unknown := set(row["reasons"].split()) - set(reasons):
        raise _damaged(name, line, f"reason {min(unknown)!r} is unknown, expected {', '.join(DROP_REASONS)}")
    try:
        confidence = float(row["confidence"]) if row["confidence"] else None
    except ValueError:
        confidence = -1.0
    if confidence is not None and not 0 <= confidence <= 1:
        raise _damaged(name, line, f"confidence is {row['confidence']!r}, expected a number from 0 to 1")
    return QualityRow(line, row["id"], row["sha256"], row["label"], confidence, reasons)


def _damaged(name: str, line: int, fault: str) -> CatalogError:
    return CatalogError(f"{name} line {line}: {fault}; correct the line, or {_AGAIN}")
