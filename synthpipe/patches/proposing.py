"""Find the layout of an unknown folder of patches from its folder and file names."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath

from synthpipe.config.messages import shown
from synthpipe.config.pipeline import Layout
from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.patterns import pattern_fault
from synthpipe.core.taxonomy import Taxonomy, TissueClass, same_name
from synthpipe.files.locations import Location
from synthpipe.patches.hints import contents_at, layout_of
from synthpipe.patches.labels import split_names
from synthpipe.patches.layouts import absolute, class_names
from synthpipe.patches.listing import files, is_directory, is_patch, listing
from synthpipe.patches.names import is_mask_folder
from synthpipe.patches.published import PUBLISHED

_SPLIT = re.compile(r"[\d. _-]*((?P<train>train(ing)?)|val(id(ation)?)?|test(ing)?)", re.IGNORECASE)
_SLIDE = re.compile(r".*(slide|wsi|patient|case|TCGA|\d{3})", re.IGNORECASE)  # a class name can have one or two digits
_MOST_CLASSES = 30
_LEAST_PATCHES = 2  # of a class or slide, on average; with fewer, a pattern finds another part of the names
_LABEL_PATTERNS = (
    *(f"^(?P<label>{letters}){sign}" for letters, sign in product(("[A-Z+]+", "[A-Za-z+]+"), ("-", "_", " ", r"\."))),
    *(f"{sign}(?P<label>{letters})$" for letters, sign in product(("[A-Z+]+", "[A-Za-z+]+"), ("-", "_", " ", r"\."))),
)
_GROUP_PATTERNS = (
    r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})",  # a patient of TCGA
    r"^(.+?)[-_]\d+[-_]\d+$",  # slide, x, y
    r"^(.+?)[-_]\d+$",  # slide, number
    r"^([^-_]+)[-_]",  # slide first
)


@dataclass(frozen=True, slots=True)
class Found:
    """Root and layout of a folder of patches. `exclude` has a pattern for each folder of masks."""

    root: Location
    layout: Layout
    label_pattern: str | None = None
    exclude: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the data set's folders, table or file names."""
        names = class_names(self.layout, self.root, self.label_pattern)
        return tuple(name for name in names if f"{glob.escape(name)}/*" not in self.exclude)


def choose_layout(root: Location, layout: Layout | None, pattern: str | None) -> Found:
    """Return the layout that the user chose, directly or by a label pattern. Without a choice, find the layout.

    Raises
    ------
    CatalogError
        The user chose no layout, and no layout fits.
    ConfigError
        Layout pattern has no label pattern, another layout has one, or the pattern is invalid.
    """
    if pattern and (fault := pattern_fault(pattern, "label")):
        raise ConfigError(f"--label-pattern {shown(pattern)}: {fault}")
    if pattern and layout not in (None, "pattern"):
        raise ConfigError(
            f"--label-pattern: layout {layout} uses no label pattern; give --layout pattern, or no --label-pattern"
        )
    if layout == "pattern" and not pattern:
        raise ConfigError("--layout pattern: give --label-pattern too, such as '^(?P<label>[A-Z]+)-'")
    if pattern:
        return Found(absolute(root), "pattern", pattern)
    return Found(absolute(root), layout) if layout else find_layout(absolute(root))


def find_layout(root: Location) -> Found:
    """Find the layout of the patches at a root, in its only folder, or in its training folder.

    Raises
    ------
    CatalogError
        No layout fits. The message gives the contents of the root and the expected contents.
    """
    if not is_directory(root) and root.name.lower().endswith(".csv"):
        return Found(root, "csv")
    if isinstance(root, Path) and not root.is_dir():
        raise CatalogError(f"{root}: is a file, expected the folder of the patches, or a table whose name ends in .csv")
    for published in PUBLISHED.values():
        layout = layout_of(root, Taxonomy(tuple(TissueClass(name, (0, 0, 0)) for name in published.classes)))
        if layout and layout in PUBLISHED:
            return Found(root, layout)
    found = listing(root)
    inner = sorted(name for name, is_folder in found if is_folder and next(files(root / name), None))
    folders = [name for name in inner if not is_mask_folder(name)]
    exclude = tuple(f"{glob.escape(name)}/*" for name in inner if name not in folders)
    images = [name for name, is_folder in found if not is_folder and is_patch(name)]
    tables = [name for name, is_folder in found if not is_folder and name.lower().endswith(".csv")]
    splits = {name: match for name in folders if (match := _SPLIT.fullmatch(name))}
    below = [name for name, match in splits.items() if match["train"]] if splits else folders
    if len(below) == 1 and not images and not tables:
        return find_layout(root / below[0])
    names = [relative for relative, _ in files(root) if not is_mask_folder(relative.parts[0])]
    pattern = label_pattern([name.stem for name in names])
    if len(folders) > 1 and not images and len(splits) < len(folders) and not (pattern and _are_slides(names, pattern)):
        return Found(root, "folders", exclude=exclude)
    if pattern:
        return Found(root, "pattern", pattern, exclude)
    if len(tables) == 1:
        return Found(root / tables[0], "csv")
    raise CatalogError(
        f"{root}: no labels found: {contents_at(root)}; expected a folder for each of two classes or more, file "
        "names that begin or end with the class, such as TUM_1.png, a CSV with the columns path and labels, or a "
        "published data set; give --layout, or --label-pattern with the group (?P<label>...)"
    )


def _are_slides(names: Sequence[PurePosixPath], pattern: str) -> bool:
    """Return whether all folders have names of slides, and a label in the file names occurs in several folders."""
    labels = {(name.parts[0], match["label"]) for name in names if (match := re.search(pattern, name.stem))}
    return all(_SLIDE.match(folder) for folder, _ in labels) and len({label for _, label in labels}) < len(labels)


def label_pattern(stems: Sequence[str]) -> str | None:
    """Return a pattern that finds a class name in each file name, or None if none fits or it finds too many classes.

    Parameters
    ----------
    stems : sequence of str
        File names without their suffixes.
    """
    for pattern in _LABEL_PATTERNS:
        labels = [match["label"] if (match := re.search(pattern, stem)) else "" for stem in stems]
        classes = {same_name(name) for label in labels for name in split_names(label)}
        if all(labels) and 1 < len(classes) <= min(_MOST_CLASSES, len(stems) // _LEAST_PATCHES):
            return pattern
    return None


def group_pattern(stems: Sequence[str], labels: Sequence[str]) -> str | None:
    """Return a pattern that finds a slide in each file name, or None if none fits or patches share no slides.

    Parameters
    ----------
    stems : sequence of str
        File names without their suffixes.
    labels : sequence of str
        The label of each name. A pattern whose matches follow the labels does not find slides.
    """
    for pattern in _GROUP_PATTERNS:
        groups = [match[1] if (match := re.search(pattern, stem)) else "" for stem in stems]
        count = Counter(groups)
        is_label = len({*zip(groups, labels, strict=True)}) == len(count) <= len(set(labels))
        if all(groups) and 1 < len(count) <= len(stems) // _LEAST_PATCHES and not is_label:
            return pattern
    return None
