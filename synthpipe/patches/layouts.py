"""Layouts of data sets on a disk or at a URL: list the patches with the labels and groups that the layout gives.

Only CSV tables are opened here. A layout yields claims; `catalog` reads the files.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from synthpipe.config.pipeline import Layout, PatchesSection
from synthpipe.core.display import without_secrets
from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.patterns import find_groups
from synthpipe.core.taxonomy import Taxonomy, same_name
from synthpipe.files.locations import Location, parse_location
from synthpipe.patches.claims import Claim, Entry, ProblemKind
from synthpipe.patches.hints import contents_at, settings_that_fit
from synthpipe.patches.labels import parse_bracket, parse_cell, parse_names, split_names
from synthpipe.patches.listing import SUFFIXES, files, is_directory, is_patch, listing
from synthpipe.patches.published import PUBLISHED, Published
from synthpipe.patches.tables import csv_entries


def read_layout(patches: PatchesSection, taxonomy: Taxonomy, same_set: bool = True) -> tuple[Claim, ...]:
    """List the patches of a data set, sorted by id, with their labels and groups, or their problems.

    Hidden files and files without the suffix of an image are ignored. Patches that `patches.exclude` matches are left
    out.

    Parameters
    ----------
    patches : PatchesSection
        Location and layout of the data set.
    taxonomy : Taxonomy
        Classes of the data set.
    same_set : bool
        Whether `patches.exclude` was written for this data set. If so, a pattern that matches no patch is an error.

    Returns
    -------
    tuple of Claim
        The claims, at least one.

    Raises
    ------
    CatalogError
        The root is missing or of the wrong kind, the CSV is not a table of patches, there are no patches, or a pattern
        of `patches.exclude` matches none.
    ConfigError
        `patches.group_pattern` or `patches.label_pattern` is invalid, is missing, or takes too long.
    """
    root = absolute(parse_location(patches.root))
    entries, parse, cure = _entries(root, patches, taxonomy)
    if not entries:
        raise _misfit(root, patches.layout, taxonomy, f"no patches found; {_wanted(patches.layout, taxonomy)}")
    ids = [entry.id for entry in entries]
    for pattern in patches.exclude if same_set else ():
        if not any(_matches(patch, pattern) for patch in ids):
            raise CatalogError(f"{root}: patches.exclude: {_unmatched(pattern, ids)}")
    kept = [entry for entry in entries if not any(_matches(entry.id, pattern) for pattern in patches.exclude)]
    if not kept:
        raise CatalogError(f"{root}: patches.exclude excludes all {len(entries)} patches; use narrower patterns")
    published = PUBLISHED.get(patches.layout)
    group_pattern = patches.group_pattern or (published.group_pattern if published else None)
    kept.sort(key=lambda entry: entry.id)
    stems = [PurePosixPath(entry.id).stem for entry in kept]
    if patches.group_pattern:  # a user's pattern can be slow
        groups = find_groups(patches.group_pattern, stems)
    else:
        groups = [_group(stem, group_pattern) for stem in stems]
    claims = tuple(_claim(entry, parse, group, group_pattern, cure) for entry, group in zip(kept, groups, strict=True))
    first = claims[0].problems
    unfit = patches.layout != "csv" and all(claim.problems for claim in claims)
    if unfit and (advice := settings_that_fit(root, patches.layout, taxonomy)):
        fault = f"no patch fits layout {patches.layout}: {first[0].message.partition(';')[0]}"
        raise CatalogError(f"{root}: {fault}; {contents_at(root)}; {advice}")
    return claims


def _entries(
    root: Location, patches: PatchesSection, taxonomy: Taxonomy
) -> tuple[list[Entry], Callable[[str], tuple[int, ...]], str]:
    """Return the entries of a layout, the parser of its labels, and advice for wrong labels."""
    layout = patches.layout
    if published := PUBLISHED.get(layout):
        _check_order(layout, published, taxonomy)
        entries = list(_published_entries(_training_folder(root, layout, published, taxonomy)))
        return entries, lambda text: parse_bracket(text, len(taxonomy)), "rename it"
    if layout == "folders":
        entries = list(_folder_entries(_existing_folder(root, layout, taxonomy)))
        return entries, lambda text: parse_names(text, taxonomy), "move it, rename the folder"
    if layout == "pattern":
        entries = list(_pattern_entries(_existing_folder(root, layout, taxonomy), patches.label_pattern))
        return entries, lambda text: parse_names(text, taxonomy), "rename it, change patches.label_pattern"
    if isinstance(root, Path) and is_directory(root):
        fault = "is a folder, expected a file; set patches.root to the CSV file, or patches.layout"
        raise _misfit(root, layout, taxonomy, fault)
    entries = list(csv_entries(root))
    return entries, lambda text: parse_cell(text, taxonomy), "correct the row"


def _misfit(root: Location, layout: Layout, taxonomy: Taxonomy, fault: str) -> CatalogError:
    """Return an error about a root that does not fit its layout. The message has the root's contents and advice."""
    advice = settings_that_fit(root, layout, taxonomy)
    return CatalogError("; ".join([f"{root}: {fault}", contents_at(root), *([advice] if advice else [])]))


def _unmatched(pattern: str, ids: Sequence[str]) -> str:
    """Return a message about a pattern that matches no patch. If possible, suggest a correct pattern."""
    fault = f"{pattern!r} matches none of the {len(ids)} patches, whose ids are like {min(ids)!r}"
    others = {
        "brackets match one of the characters in them": pattern.replace("[", "[[]"),
        "folders are separated by /": pattern.replace("\\", "/"),
        "an id begins below the folder of the patches": pattern.partition("/")[2],
        "an id has folders before the name": f"*/{pattern}",
    }
    for why, other in others.items():
        if other and other != pattern and any(_matches(patch, other) for patch in ids):
            return f"{fault}; {why}: write {other!r}"
    return f"{fault}; correct or remove it"


def _check_order(layout: Layout, published: Published, taxonomy: Taxonomy) -> None:
    """Check that the classes have the order of a published layout. Its labels are digits, not class names."""
    for number, name in enumerate(published.classes):
        with suppress(KeyError):
            if (index := taxonomy.index(name)) != number:
                raise CatalogError(
                    f"the labels of layout {layout} are digits for {', '.join(published.classes)}, in this order, but "
                    f"{name} has index {index} in the classes {', '.join(taxonomy.names)}; set patches.layout to the "
                    "layout of your patches, or list the classes in this order"
                )


def class_names(layout: Layout, root: Location, label_pattern: str | None = None) -> tuple[str, ...]:
    """Return the class names of a data set: published ones, or those in its folders, table or file names.

    Raises
    ------
    CatalogError
        The data set is missing, or names no class.
    ConfigError
        `label_pattern` is invalid, or it is None for layout pattern.
    """
    if layout in PUBLISHED:
        return PUBLISHED[layout].classes
    root = absolute(root)
    if layout == "folders":
        below = (relative.parts for relative, _ in files(_existing_folder(root, layout, Taxonomy(()))))
        labels = {parts[0] for parts in below if len(parts) > 1}
    elif layout == "pattern":
        entries = _pattern_entries(_existing_folder(root, layout, Taxonomy(())), label_pattern)
        labels = {entry.label for entry in entries} - {""}
        if entries and not labels:
            raise CatalogError(
                f"{root}: label pattern {label_pattern!r} finds no label in {len(entries)} file names, such as "
                f"{min(PurePosixPath(entry.id).stem for entry in entries)!r}; correct it"
            )
    else:
        labels = {entry.label for entry in csv_entries(root)}
    names = {name for label in labels if not label.strip().startswith("[") for name in split_names(label)}
    if not names:
        raise CatalogError(
            f"{root}: the data set names no class; name the classes in index order, as in --classes tumour,stroma"
        )
    return tuple(sorted({same_name(name): name for name in sorted(names, reverse=True)}.values()))


def absolute(root: Location) -> Location:
    """Return the absolute path of a root; URLs stay as they are."""
    return root.expanduser().absolute() if isinstance(root, Path) else root


def _claim(entry: Entry, parse: Callable[[str], tuple[int, ...]], group: str, pattern: str | None, cure: str) -> Claim:
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
        message = f"no slide or patient: its name without the suffix does not match the pattern {pattern!r}"
        problems.append(entry.problem("no_group", f"{message}; set patches.group_pattern, rename it {exclude}"))
    return Claim(entry.id, path, classes, group, tuple(problems), secret_url)


def _group(stem: str, pattern: str | None) -> str:
    """Return the slide or patient that a pattern finds in a stem, or "". Without a pattern, return the stem."""
    if pattern is None:
        return stem
    match = re.search(pattern, stem)
    return (match.group(1) or "") if match else ""


def _matches(patch: str, pattern: str) -> bool:
    # fnmatch reads a label in brackets as a set of characters; so equal texts are compared first
    return patch == pattern or fnmatchcase(patch, pattern)


def _training_folder(root: Location, layout: Layout, published: Published, taxonomy: Taxonomy) -> Location:
    _existing_folder(root, layout, taxonomy)
    if is_directory(root / published.training):
        return root / published.training
    if root.name == published.training or any(is_patch(name) for name, is_folder in listing(root) if not is_folder):
        return root
    fault = (
        f"has neither a folder {published.training!r} nor images, expected one of them for layout {layout}; set "
        f"patches.root to the folder that holds {published.training!r}, or check patches.layout"
    )
    raise _misfit(root, layout, taxonomy, fault)


def _existing_folder(root: Location, layout: Layout, taxonomy: Taxonomy) -> Location:
    wanted = f"expected the data set's folder for layout {layout}; set patches.root or patches.layout"
    if not isinstance(root, Path):
        if not listing(root):
            raise CatalogError(f"{root}: is empty or missing, {wanted}")
        return root
    try:
        mode = root.stat().st_mode
    except OSError as error:
        raise _misfit(root, layout, taxonomy, f"{error.strerror}, {wanted}") from error
    if not stat.S_ISDIR(mode):
        raise _misfit(root, layout, taxonomy, f"is not a folder, {wanted}")
    return root


def _wanted(layout: Layout, taxonomy: Taxonomy) -> str:
    kinds = f"expected files that end in {', '.join(SUFFIXES)}"
    if layout == "folders":
        return f"{kinds} in folders named by class ({', '.join(taxonomy.names)}); check patches.root and patches.layout"
    if layout == "csv":
        return "expected a row for each patch after the header; fill in the table or check patches.root"
    return f"{kinds}; check patches.root and patches.layout"


def _published_entries(folder: Location) -> Iterator[Entry]:
    for relative, path in files(folder):
        yield Entry(relative.as_posix(), path, relative.stem)


def _pattern_entries(root: Location, pattern: str | None) -> list[Entry]:
    if pattern is None:
        raise ConfigError(f"{root}: layout pattern needs patches.label_pattern, such as '^(?P<label>[A-Z]+)-'")
    found = list(files(root))
    labels = find_groups(pattern, [relative.stem for relative, _ in found], "label")
    stray: tuple[ProblemKind, str] = (
        "mislabelled",
        f"patches.label_pattern {pattern!r} finds no label in its name without the suffix",
    )
    return [
        Entry(relative.as_posix(), path, label, fault=None if label else stray)
        for (relative, path), label in zip(found, labels, strict=True)
    ]


def _folder_entries(root: Location) -> Iterator[Entry]:
    for relative, path in files(root):
        stray: tuple[ProblemKind, str] = ("mislabelled", "it is not in a folder that names its classes")
        fault = stray if len(relative.parts) == 1 else None
        yield Entry(relative.as_posix(), path, relative.parts[0], fault=fault)
