"""Data sets on a disk or at a URL: which files are patches, and what the layout says about each of them.

Nothing is opened here but a CSV: a layout yields claims, and `catalog` reads the files.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

from fsspec.utils import get_protocol
from upath import UPath

from synthpipe.config import Layout, PatchesSection
from synthpipe.display import without_secrets
from synthpipe.errors import CatalogError
from synthpipe.files import Location, address, located, read_regular
from synthpipe.patches.cell_paths import name_patch
from synthpipe.patches.labels import parse_bracket, parse_cell, parse_names, split_names
from synthpipe.patterns import first_groups
from synthpipe.taxonomy import Taxonomy

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""File names that are patches end in one of these, in any case."""

_MOST_TABLE = 2**30  # bytes of a CSV

ProblemKind = Literal["unreadable", "mislabelled", "no_group", "duplicate", "no_path"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a patch cannot be used: `kind` is a stable snake_case word, `message` a sentence that names the patch."""

    id: str
    kind: ProblemKind
    message: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A patch as its layout presents it, before anyone has opened the file.

    `id`, `path`, `classes`, `group` and `secret_url` are those of `PatchRef`; where there are problems, `classes` may
    be empty and `group` blank.
    """

    id: str
    path: str
    classes: tuple[int, ...]
    group: str
    problems: tuple[Problem, ...] = ()
    secret_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Published:
    """What one published data set has of its own (method section 1)."""

    training: str
    group_pattern: str
    classes: tuple[str, ...]


PUBLISHED: Mapping[Layout, Published] = {
    "wsss4luad": Published("1.training", r"^([^-]+)-", ("tumour", "stroma", "normal")),
    "bcss-wsss": Published(
        "training", r"^(TCGA-[^-]+-[^-]+)", ("tumour", "stroma", "lymphocytic infiltrate", "necrosis")
    ),
    "luad-histoseg": Published(
        "train", r"^([^-]+)-", ("tumour epithelium", "necrosis", "lymphocyte", "tumour-associated stroma")
    ),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file or table row: `label` is the text that holds its label set, `where` the row it comes from.

    `path` holds what reading needs, credentials and signatures too.
    """

    id: str
    path: str
    label: str
    group: str = ""
    where: str = ""
    fault: tuple[ProblemKind, str] | None = None

    def problem(self, kind: ProblemKind, message: str) -> Problem:
        where = f" ({self.where})" if self.where else ""
        return Problem(self.id, kind, f"patch {self.id!r}{where}: {message}")


def read_layout(patches: PatchesSection, taxonomy: Taxonomy, same_set: bool = True) -> tuple[Claim, ...]:
    """List the patches of a data set, sorted by id, with their claimed labels and groups or what is wrong with them.

    Hidden files, and files that are no images by their name, are ignored; what `patches.exclude` matches is left out.

    Parameters
    ----------
    patches : PatchesSection
        Where the data set lies and how it is laid out.
    taxonomy : Taxonomy
        Its classes.
    same_set : bool
        Whether it is the data set that `patches.exclude` was written for: a pattern that matches nothing is a mistake.

    Returns
    -------
    tuple of Claim
        At least one.

    Raises
    ------
    CatalogError
        The root is missing or of the wrong kind, the CSV is no table of patches, or no patch is there; a pattern
        matches none.
    ConfigError
        `patches.group_pattern` is none, or takes too long.
    """
    root = _absolute(located(patches.root))
    published = PUBLISHED.get(patches.layout)
    parse: Callable[[str], tuple[int, ...]]
    if published:
        _check_order(patches.layout, published, taxonomy)
        entries = list(_published_entries(_training_folder(root, patches.layout, published)))
        parse, cure = lambda text: parse_bracket(text, len(taxonomy)), "rename it"
    elif patches.layout == "folders":
        entries = list(_folder_entries(_existing_folder(root, patches.layout)))
        parse, cure = lambda text: parse_names(text, taxonomy), "move it, rename the folder"
    else:
        entries = list(_csv_entries(root))
        parse, cure = lambda text: parse_cell(text, taxonomy), "correct the row"
    if not entries:
        raise CatalogError(f"{root}: no patches found; {_wanted(patches.layout, taxonomy)}")
    for pattern in patches.exclude if same_set else ():
        if not any(_matches(entry.id, pattern) for entry in entries):
            example = f"whose ids are like {entries[0].id!r}"
            raise CatalogError(
                f"{root}: patches.exclude: {pattern!r} matches none of the {len(entries)} patches, {example}; correct "
                "or remove it"
            )
    kept = [entry for entry in entries if not any(_matches(entry.id, pattern) for pattern in patches.exclude)]
    if not kept:
        raise CatalogError(f"{root}: patches.exclude leaves none of the {len(entries)} patches; narrow its patterns")
    group_pattern = patches.group_pattern or (published.group_pattern if published else None)
    kept.sort(key=lambda entry: entry.id)
    stems = [PurePosixPath(entry.id).stem for entry in kept]
    if patches.group_pattern:  # of a user; ours is quick
        groups = first_groups(patches.group_pattern, stems)
    else:
        groups = [_group(stem, group_pattern) for stem in stems]
    return tuple(_claim(entry, parse, group, group_pattern, cure) for entry, group in zip(kept, groups, strict=True))


def _check_order(layout: Layout, published: Published, taxonomy: Taxonomy) -> None:
    """Refuse classes in another order than that of a layout's labels, which are digits in brackets, without names."""
    for place, name in enumerate(published.classes):
        with suppress(KeyError):
            if (index := taxonomy.index(name)) != place:
                raise CatalogError(
                    f"labels of layout {layout} are digits for {', '.join(published.classes)}, but {name} is at place "
                    f"{index} of the classes {', '.join(taxonomy.names)}, counted from 0; name the layout of the "
                    "patches, or put the classes in its order"
                )


def class_names(layout: Layout, root: Location) -> tuple[str, ...]:
    """Return the class names that a data set itself gives: the published ones, or those of its folders or its table.

    Raises
    ------
    CatalogError
        The data set is missing, or names no class.
    """
    if layout in PUBLISHED:
        return PUBLISHED[layout].classes
    root = _absolute(root)
    if layout == "folders":
        labels = {name for name, is_folder in _listing(_existing_folder(root, layout)) if is_folder}
    else:
        labels = {entry.label for entry in _csv_entries(root)}
    names = {name for label in labels if not label.strip().startswith("[") for name in split_names(label)}
    if not names:
        raise CatalogError(f"{root}: names no class by itself; name them in index order, as --classes tumour,stroma")
    return tuple(sorted(names))


def _absolute(root: Location) -> Location:
    return root.expanduser().absolute() if isinstance(root, Path) else root


def _claim(entry: _Entry, parse: Callable[[str], tuple[int, ...]], group: str, pattern: str | None, cure: str) -> Claim:
    exclude = "or exclude it with patches.exclude"
    path = without_secrets(entry.path)
    secret_url = entry.path if path != entry.path else None
    if entry.fault:
        kind, message = entry.fault
        return Claim(entry.id, path, (), entry.group, (entry.problem(kind, f"{message}; {cure} {exclude}"),))
    classes: tuple[int, ...] = ()
    problems = []
    try:
        classes = parse(entry.label)
    except CatalogError as error:
        problems.append(entry.problem("mislabelled", f"{error}; {cure} {exclude}"))
    group = entry.group or group
    if not group:
        message = f"no slide or patient: its stem does not match the pattern {pattern!r}"
        problems.append(entry.problem("no_group", f"{message}; set patches.group_pattern, rename it {exclude}"))
    return Claim(entry.id, path, classes, group, tuple(problems), secret_url)


def _group(stem: str, pattern: str | None) -> str:
    """Return the slide or patient of a stem, or nothing; without a pattern, the stem itself."""
    if pattern is None:
        return stem
    match = re.search(pattern, stem)
    return (match.group(1) or "") if match else ""


def _matches(patch: str, pattern: str) -> bool:
    # A label in brackets is a character set to fnmatch, so an id that was copied from a message must match as it is.
    return patch == pattern or fnmatchcase(patch, pattern)


def _training_folder(root: Location, layout: Layout, published: Published) -> Location:
    _existing_folder(root, layout)
    if (root / published.training).is_dir():
        return root / published.training
    if root.name == published.training or any(_is_patch(name) for name, is_folder in _listing(root) if not is_folder):
        return root
    raise CatalogError(
        f"{root}: got neither a folder {published.training!r} nor images in it, expected one of them for layout "
        f"{layout}; set patches.root to the folder that holds {published.training!r}, or check patches.layout"
    )


def _existing_folder(root: Location, layout: Layout) -> Location:
    wanted = f"expected the data set's folder for layout {layout}; set patches.root or patches.layout"
    if not isinstance(root, Path):
        if not _listing(root):
            raise CatalogError(f"{root}: nothing there, {wanted}")
        return root
    try:
        mode = root.stat().st_mode
    except OSError as error:
        raise CatalogError(f"{root}: {error.strerror}, {wanted}") from error
    if not stat.S_ISDIR(mode):
        raise CatalogError(f"{root}: is no folder, {wanted}")
    return root


def _wanted(layout: Layout, taxonomy: Taxonomy) -> str:
    kinds = f"expected files that end in {', '.join(SUFFIXES)}"
    if layout == "folders":
        return f"{kinds} in folders named by class ({', '.join(taxonomy.names)}); check patches.root and patches.layout"
    if layout == "csv":
        return "expected a row for each patch below the header; fill the table or check patches.root"
    return f"{kinds}; check patches.root and patches.layout"


def _published_entries(folder: Location) -> Iterator[_Entry]:
    for relative, path in _files(folder):
        yield _Entry(relative.as_posix(), path, relative.stem)


def _folder_entries(root: Location) -> Iterator[_Entry]:
    for relative, path in _files(root):
        stray: tuple[ProblemKind, str] = ("mislabelled", "it lies in no folder that names its classes")
        fault = stray if len(relative.parts) == 1 else None
        yield _Entry(relative.as_posix(), path, relative.parts[0], fault=fault)


def _is_patch(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _files(folder: Location) -> Iterator[tuple[PurePosixPath, str]]:
    """Yield the paths, below `folder`, of all patch files that are not hidden, and what to read each by."""
    if isinstance(folder, Path):
        yield from ((PurePosixPath(path.relative_to(folder)), str(path)) for path in _walk(folder, frozenset()))
        return
    is_http = get_protocol(str(folder)).startswith("http")  # its listings are links, whose names are escaped
    for path in _asked(folder, lambda: folder.fs.find(folder.path)):
        below = path.removeprefix(folder.path.rstrip("/") + "/")
        relative = PurePosixPath(unquote(below) if is_http else below)
        if _is_patch(relative.name) and not any(part.startswith(".") for part in relative.parts):
            yield relative, address(folder / below)


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Yield the patch files below `folder`; links are followed, except to one of the folders `above`."""
    above |= {os.path.realpath(folder)}
    for name, is_folder in _listing(folder):
        if not is_folder and _is_patch(name):
            yield folder / name
        elif is_folder and os.path.realpath(folder / name) not in above:
            yield from _walk(folder / name, above)


def _listing(folder: Location) -> list[tuple[str, bool]]:
    """Return the names in a folder that are not hidden, and whether each is a folder."""
    if not isinstance(folder, Path):
        listed = [(PurePosixPath(entry["name"]).name, entry["type"] == "directory") for entry in _entries(folder)]
        return [(name, is_folder) for name, is_folder in listed if not name.startswith(".")]
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise CatalogError(f"{folder}: cannot be listed: {error.strerror}; check the folder and its links") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if _is_patch(entry.name):
            return False  # reading it says what is wrong
        raise CatalogError(
            f"{entry.path}: cannot be followed: {error.strerror}; correct or remove this link"
        ) from error


def _entries(folder: UPath) -> list[dict[str, Any]]:
    """Return what fsspec lists in a folder at a URL; nothing where there is none."""
    try:
        return list(_asked(folder, lambda: folder.fs.ls(folder.path, detail=True)))
    except FileNotFoundError:
        return []


def _asked(folder: UPath, ask: Callable[[], Iterable[Any]]) -> Iterable[Any]:
    """Return what a store behind a URL answers."""
    try:
        return ask()
    except FileNotFoundError:
        raise
    except Exception as error:  # clients of object stores have exceptions of their own
        raise CatalogError(f"{folder}: cannot be listed: {error}; check the address, rights and network") from error


def _csv_entries(table: Location) -> Iterator[_Entry]:
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
            yield _Entry(where, "", "", fault=("no_path", "the cell 'path' is empty"))
            continue
        named = name_patch(path, table)
        name, file = named.id, named.address
        fault: tuple[ProblemKind, str] | None = None
        if named.refusal:
            fault = ("unreadable", named.refusal)
        elif name in lines:
            before, its_file = lines[name]
            same = "" if file == its_file else ", with other credentials or another signature"
            fault = ("duplicate", f"the path stands in line {before} already{same}")
        elif len(cells) > len(columns):
            message = f"the row has {len(cells)} cells, expected {len(columns)}: quote a cell that holds commas"
            fault = ("mislabelled", message)
        elif not row.get("labels", "").strip():
            fault = ("mislabelled", "the cell 'labels' is empty")
        elif get_protocol(file) == "file" and not os.path.isfile(file):  # noqa: PTH113 - it takes whatever a cell holds
            fault = ("unreadable", f"there is no file {file!r} (paths count from the folder of the CSV)")
        lines.setdefault(name, (line, file))
        yield _Entry(name, file, row.get("labels", ""), group, where, fault)


def _csv_rows(table: Location) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV that are not blank, with the numbers of the lines they begin in."""
    try:
        data = read_regular(table, _MOST_TABLE)
    except OSError as error:
        raise CatalogError(
            f"{table}: cannot be read: {error.strerror or error}; set patches.root to the CSV file, or patches.layout"
        ) from error
    except Exception as error:  # clients of object stores have exceptions of their own
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
