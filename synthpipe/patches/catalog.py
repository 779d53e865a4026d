"""The catalog of the patches of a data set. Each patch file is read and checked once."""

from __future__ import annotations

import csv
import io
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import get_args

from synthpipe.config.fields import digest
from synthpipe.config.pipeline import PatchesSection
from synthpipe.core.display import from_cell, to_cell, without_secrets
from synthpipe.core.errors import CatalogError, StoreError
from synthpipe.core.records import PatchRef
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.core.threads import available_cores, in_threads
from synthpipe.files.locations import Location, translate_errors
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.patches.claims import Claim, Problem, ProblemKind, problem_lines
from synthpipe.patches.examining import examine, sift
from synthpipe.patches.labels import parse_names
from synthpipe.patches.layouts import read_layout

LISTED = 20
"""Largest number of lines about problems in a message."""
_CATALOG, _PROBLEMS = "catalog.csv", "problems.csv"
_MOST_BYTES = 1 << 32  # largest table: about twenty million patches
_CELLS = {
    "id": ".+",
    "path": ".+",
    "sha256": "[0-9a-f]{64}",
    "height": "[1-9][0-9]*",
    "width": "[1-9][0-9]*",
    "group": ".+",
}
_KINDS = get_args(ProblemKind)


@dataclass(frozen=True, slots=True)
class Catalog:
    """The usable patches of a data set, sorted by id, and the problems of the patches that are left out.

    `remarks` are about patches that can be used, but whose pixels may give surprising results. Remarks are not stored.
    """

    patches: tuple[PatchRef, ...]
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = field(default=(), compare=False)

    @property
    def donors(self) -> tuple[PatchRef, ...]:
        """Patches of a single class, which can be donors."""
        return tuple(patch for patch in self.patches if patch.single_class)

    @property
    def mixed(self) -> tuple[PatchRef, ...]:
        """Patches of more than one class, which train the filter as real images (method section 3)."""
        return tuple(patch for patch in self.patches if not patch.single_class)

    @property
    def groups(self) -> tuple[str, ...]:
        """Slides or patients, sorted."""
        return tuple(sorted({patch.group for patch in self.patches}))

    @property
    def digest(self) -> str:
        """SHA-256 of all facts about patches that decide composites: ids, bytes, classes and groups, but not paths."""
        return digest([[patch.id, patch.sha256, patch.classes, patch.group] for patch in self.patches])

    @property
    def access(self) -> dict[str, str]:
        """URLs with credentials or signatures by patch id, for patches that need them. Never store these URLs."""
        return {patch.id: patch.secret_url for patch in self.patches if patch.secret_url}

    @property
    def hosts(self) -> tuple[str, ...]:
        """The buckets and hosts of all patches at URLs, such as ``https://host``, sorted."""
        return tuple(sorted({"/".join(patch.path.split("/")[:3]) for patch in self.patches if "://" in patch.path}))

    def by_id(self, patch: str) -> PatchRef:
        """Return the patch whose id is `patch`.

        Raises
        ------
        CatalogError
            The catalog has no such patch.
        """
        index = bisect_left(self.patches, patch, key=lambda ref: ref.id)
        if index == len(self.patches) or self.patches[index].id != patch:
            raise CatalogError(
                f"patch {patch!r}: not among the {len(self.patches)} patches of the catalog; see `synthpipe index`"
            )
        return self.patches[index]

    def counts(self) -> dict[tuple[int, ...], int]:
        """Return the number of patches for each label set, single classes first."""
        counts = Counter(patch.classes for patch in self.patches)
        return {classes: counts[classes] for classes in sorted(counts, key=lambda classes: (len(classes), classes))}


def changes(old: Catalog, new: Catalog) -> Iterator[str]:
    """Yield the differences between two catalogs that change composites, one text per patch."""
    before, after = ({patch.id: patch for patch in each.patches} for each in (old, new))
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            yield f"patch {name!r}: {'is new' if now else 'is gone'}"
        elif was.sha256 != now.sha256:
            yield f"patch {name!r}: has other bytes"
        elif was.classes != now.classes:
            yield f"patch {name!r}: has the classes {list(now.classes)}, had {list(was.classes)}"
        elif was.group != now.group:
            yield f"patch {name!r}: belongs to {now.group!r}, belonged to {was.group!r}"


def read_catalog(
    patches: PatchesSection,
    taxonomy: Taxonomy,
    on_patch: Callable[[], None] | None = None,
    threads: int | None = None,
    claims: Sequence[Claim] | None = None,
    former: Catalog | None = None,
    canvas: tuple[int, int] | None = None,
) -> Catalog:
    """Read the catalog of a data set for a build. Problems are errors unless ``patches.on_error`` is skip.

    Parameters
    ----------
    patches, taxonomy, on_patch, threads, claims, former, canvas
        As for `survey`.

    Raises
    ------
    CatalogError
        There are problems and ``patches.on_error`` is stop, or no patch is usable; the message lists the first
        problems.
    """
    catalog = survey(patches, taxonomy, on_patch, threads, claims, former, canvas)
    if catalog.problems and patches.on_error == "stop":
        advice = "correct these patches, or set patches.on_error: skip to leave them out"
        raise CatalogError(_summary(patches.root, catalog, advice))
    if not catalog.patches:
        raise CatalogError(_summary(patches.root, catalog, "no usable patch is left; correct the patches"))
    return catalog


def survey(
    patches: PatchesSection,
    taxonomy: Taxonomy,
    on_patch: Callable[[], None] | None = None,
    threads: int | None = None,
    claims: Sequence[Claim] | None = None,
    former: Catalog | None = None,
    canvas: tuple[int, int] | None = None,
) -> Catalog:
    """Read the catalog of a data set, including its problems.

    The result depends only on the files. The order of files in a folder does not matter, nor does the order in which
    threads finish.

    Parameters
    ----------
    patches : PatchesSection
        Location and layout of the data set.
    taxonomy : Taxonomy
        Classes of the data set.
    on_patch : callable, optional
        Called in this thread after each patch that the layout lists, usable or not.
    threads : int, optional
        Number of files that are read at once; by default a few more than cores.
    claims : sequence of Claim, optional
        Result of `read_layout`, if the caller has it already.
    former : Catalog, optional
        Catalog of a run that was built from these patches. The patches of this run stay usable if they can be read.
    canvas : tuple of int, optional
        Height and width of the composites. They decide the smallest side of a usable patch. Without them, the median
        side of the patches decides.

    Raises
    ------
    CatalogError
        The data set cannot be read; see `read_layout`.
    """
    found = []
    claims = claims or read_layout(patches, taxonomy)
    examine_claim = partial(examine, most=patches.max_pixels)
    for outcome in in_threads(examine_claim, claims, threads or min(32, available_cores() + 4)):
        found.append(outcome)
        if on_patch:
            on_patch()
    known = {(patch.id, patch.sha256) for patch in former.patches} if former else set()
    least = patches.min_side or (min(canvas) // 4 if canvas else None)
    usable, problems, remarks = sift(found, taxonomy, least, known)
    return Catalog(tuple(usable), tuple(problems), tuple(remarks))


def write_catalog(catalog: Catalog, taxonomy: Taxonomy, directory: Location) -> None:
    """Write ``catalog.csv`` and ``problems.csv`` into `directory`. Each file is written completely or not at all.

    Raises
    ------
    StoreError
        A file cannot be written.
    """
    patches = [
        {**{column: getattr(patch, column) for column in _columns(PatchRef)}, "classes": taxonomy.label(patch.classes)}
        for patch in catalog.patches
    ]
    problems = [{column: getattr(problem, column) for column in _columns(Problem)} for problem in catalog.problems]
    _write_table(directory / _PROBLEMS, _columns(Problem), problems)
    _write_table(directory / _CATALOG, _columns(PatchRef), patches)


def load_catalog(directory: Location, taxonomy: Taxonomy, access: Mapping[str, str] | None = None) -> Catalog:
    """Read the files that `write_catalog` wrote, and add the URLs with credentials in `access` (`Catalog.access`).

    Raises
    ------
    StoreError
        A file is missing or damaged, or was written for other classes. The message names the file and the line.
    """
    patches: list[PatchRef] = []
    for line, row in _read_table(directory / _CATALOG, _columns(PatchRef)):
        try:
            patch = _patch(row, taxonomy)
        except ValueError as error:
            raise _damaged(directory / _CATALOG, line, str(error)) from error
        if patches and patch.id <= patches[-1].id:
            raise _damaged(directory / _CATALOG, line, f"id {patch.id!r} is out of order")
        patches.append(patch)
    problems = []
    for line, row in _read_table(directory / _PROBLEMS, _columns(Problem)):
        if row["kind"] not in _KINDS:
            raise _damaged(directory / _PROBLEMS, line, f"kind is {row['kind']!r}, expected one of {', '.join(_KINDS)}")
        problems.append(Problem(**row))  # type: ignore[arg-type]
    if access:
        patches = [replace(patch, secret_url=access.get(patch.id, patch.secret_url)) for patch in patches]
    return Catalog(tuple(patches), tuple(problems))


def _summary(root: str, catalog: Catalog, advice: str) -> str:
    count = len(catalog.problems)
    patches = len(catalog.patches) + len({problem.id for problem in catalog.problems})
    lines = [f"{root}: {count} problem{'s' * (count != 1)} in {patches} patch{'es' * (patches != 1)}"]
    return "\n  ".join([*lines, *problem_lines(catalog.problems, LISTED), advice])


def _columns(record: type[PatchRef] | type[Problem]) -> list[str]:
    return [field.name for field in fields(record) if field.repr]  # fields that are not shown are not stored


def _write_table(path: Location, columns: list[str], rows: Iterable[dict[str, str]]) -> None:
    """Write a CSV file. The bytes of names that are not Unicode stay the same."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows({column: to_cell(str(value)) for column, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _read_table(path: Location, columns: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV that `_write_table` wrote, each with the number of its first line."""
    line = 1
    with translate_errors(path, "cannot be read", "is this the folder of a run?"):
        text = read_regular(path, _MOST_BYTES).decode("utf-8", "surrogateescape")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for cells in reader:
            if line == 1 and cells != columns:
                raise _damaged(path, line, f"the header is {cells}, expected {columns}")
            if len(cells) != len(columns):
                raise _damaged(path, line, f"it has {len(cells)} cells, expected {len(columns)}")
            if line > 1:
                yield line, dict(zip(columns, map(from_cell, cells), strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise _damaged(path, line, str(error)) from error
    if line == 1:
        raise _damaged(path, line, f"it is empty, expected the header {columns}")


def _patch(row: dict[str, str], taxonomy: Taxonomy) -> PatchRef:
    for column, pattern in _CELLS.items():
        if not re.fullmatch(pattern, row[column], re.DOTALL):
            raise ValueError(f"{column} is {row[column]!r}")
    classes = parse_names(row["classes"], taxonomy)
    size = int(row["height"]), int(row["width"])
    path = without_secrets(row["path"])  # earlier versions stored credentials
    secret = row["path"] if path != row["path"] else None
    return PatchRef(row["id"], path, row["sha256"], classes, *size, row["group"], secret)


def _damaged(path: Location, line: int, fault: str) -> StoreError:
    return StoreError(
        f"{path} line {line}: {fault}; the file is damaged or belongs to another pipeline: build the run again"
    )
