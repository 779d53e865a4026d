"""Find masks among patches by their names, and find folders that hold the same file names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

_WORDS = "labels?|annotations?|annos?|annots?|gt|ground[ _-]?truths?|seg|segmentations?"
# a word with a number behind it, such as GT12 or seg_1, names a slide or site
_MASK_FOLDER = re.compile(rf"(.*[^a-z])?(masks?([^a-z].*)?|({_WORDS})([^a-z0-9][^0-9]*)?)", re.IGNORECASE)
_MASK_STEM = re.compile(rf"(?P<image>.+?)(?P<mask>[ _.-]+(masks?|{_WORDS}))", re.IGNORECASE)

SplitPath = tuple[tuple[str, ...], tuple[str, ...]]
"""A path without its suffix, in two parts: above and below a folder that may contain masks."""


def is_mask_folder(name: str) -> bool:
    """Return whether a folder has a name that folders of masks usually have."""
    return _MASK_FOLDER.fullmatch(name) is not None


def masks_among(ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Find masks among patches. Return the image of each mask, and a pattern that excludes the mask.

    There are two kinds of masks. Some are in a folder such as ``masks``; their images are beside this folder or in a
    folder beside it. Others have the name of an image in the same folder, followed by ``_mask``.
    """
    named = {patch: paths for patch in ids if (paths := list(_image_paths(patch)))}
    if not named:
        return {}
    wanted = {path for paths in named.values() for path, _ in paths}
    images = {
        path: patch for patch in reversed(ids) if patch not in named for path in _split_paths(patch) if path in wanted
    }
    found = {}
    for patch, paths in named.items():
        for path, pattern in paths:
            if path in images:
                found[patch] = images[path], pattern
                break
    return found


def _image_paths(patch: str) -> Iterator[tuple[SplitPath, str]]:
    """Yield possible paths of the image of a mask, each with a pattern that excludes such masks."""
    path = PurePosixPath(patch)
    parts = (*path.parts[:-1], path.stem)
    stem = _MASK_STEM.fullmatch(path.stem)
    if stem:
        pattern = f"*{glob.escape(stem['mask'] + path.suffix)}"
        yield (parts[:-1], (stem["image"],)), pattern
    for number, part in enumerate(parts[:-1]):
        if is_mask_folder(part):
            pattern = f"{'*/' if number else ''}{glob.escape(part)}/*"
            yield (parts[:number], parts[number + 1 :]), pattern
            if stem:
                yield (parts[:number], (*parts[number + 1 : -1], stem["image"])), pattern


def _split_paths(patch: str) -> Iterator[SplitPath]:
    """Yield all pairs that `_image_paths` can yield for the masks of an image."""
    path = PurePosixPath(patch)
    parts = (*path.parts[:-1], path.stem)
    for number in range(len(parts)):
        yield parts[:number], parts[number:]
        if number < len(parts) - 1:
            yield parts[:number], parts[number + 1 :]


def alike_folders(ids: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """Find sibling folders with the same file names. Yield each list of such folders with the first of the names."""
    stems: dict[PurePosixPath, list[str]] = {}
    for patch in ids:
        path = PurePosixPath(patch)
        stems.setdefault(path.parent, []).append(path.stem)
    alike: dict[tuple[PurePosixPath, tuple[str, ...]], list[str]] = {}
    for folder, names in sorted(stems.items()):
        if folder.parts:
            alike.setdefault((folder.parent, tuple(sorted(names))), []).append(str(folder))
    yield from ((folders, names[0]) for (_, names), folders in alike.items() if len(folders) > 1)
