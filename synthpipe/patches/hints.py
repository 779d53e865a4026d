"""Describe the contents of a root that does not fit its layout, and find settings that fit the root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from synthpipe.config.pipeline import Layout
from synthpipe.core.errors import CatalogError
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.locations import Location
from synthpipe.patches.labels import parse_bracket, parse_names
from synthpipe.patches.listing import is_directory, is_patch, listing
from synthpipe.patches.published import PUBLISHED

_NAMED = 5  # names in a message
_EXAMINED = 50  # names of a folder that are examined


def contents_at(root: Location) -> str:
    """Return a clause about the contents of a folder. For a missing folder or a file, describe the folder above it."""
    folder = root
    while isinstance(folder, Path) and not is_directory(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        found = sorted(listing(folder))
    except CatalogError as error:
        return str(error)
    folders = [name for name, is_folder in found if is_folder]
    images = [name for name, is_folder in found if not is_folder and is_patch(name)]
    tables = [name for name, is_folder in found if not is_folder and _is_table(name)]
    parts = [f"the folders {_listed(folders)}"] if folders else []
    parts += [f"{len(images)} images such as {images[0]!r}"] if images else []
    parts += [f"the tables {_listed(tables)}"] if tables else []
    return f"{folder} holds {' and '.join(parts) or 'no folder, image or table'}"


def settings_that_fit(root: Location, layout: Layout, taxonomy: Taxonomy) -> str:
    """Return advice to set the root and layout that fit the patches at or near a root; empty if nothing fits."""
    for location in _near(root):
        found = layout_of(location, taxonomy)
        if (location, found) == (root, layout):
            break
        if found:
            moved = [] if location == root else [f"patches.root: {location}"]
            changed = [] if found == layout else [f"patches.layout: {found}"]
            return f"set {' and '.join(moved + changed)}"
    return ""


def _near(root: Location) -> Iterator[Location]:
    """Yield a root, the folders and tables in it, and the two folders above it."""
    yield root
    with suppress(CatalogError):
        inside = sorted(listing(root), key=_training_first)[:_EXAMINED] if is_directory(root) else []
        yield from (root / name for name, inner in inside if inner or _is_table(name))
    if isinstance(root, Path):
        yield from root.parents[:2]


def _training_first(entry: tuple[str, bool]) -> tuple[bool, str]:
    return "train" not in entry[0].lower(), entry[0]


def layout_of(location: Location, taxonomy: Taxonomy) -> Layout | None:
    """Return the layout that fits a table or the names in a folder, or None if no layout fits."""
    try:
        if not location.is_dir():
            return "csv" if _is_table(location.name) and location.is_file() else None
        found = listing(location)
        folders = [name for name, is_folder in found if is_folder]
        trainings = {each.training for each in PUBLISHED.values()}.intersection(folders)
        lists = {name: listing(location / name) for name in trainings}
    except (CatalogError, OSError):
        return None
    for layout, published in PUBLISHED.items():
        inside = lists.get(published.training, found)[:_EXAMINED]
        stems = [PurePosixPath(name).stem for name, is_folder in inside if not is_folder and is_patch(name)]
        if len(taxonomy) == len(published.classes) and any(
            re.search(published.group_pattern, stem) and _has_label(stem, taxonomy) for stem in stems
        ):
            return layout
    return "folders" if any(_names_classes(name, taxonomy) for name in folders) else None


def _names_classes(name: str, taxonomy: Taxonomy) -> bool:
    try:
        return bool(parse_names(name, taxonomy))
    except CatalogError:
        return False


def _has_label(stem: str, taxonomy: Taxonomy) -> bool:
    try:
        return bool(parse_bracket(stem, len(taxonomy)))
    except CatalogError:
        return False


def _is_table(name: str) -> bool:
    return name.lower().endswith(".csv")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
