"""Names of patches: which patches are masks of others, and which folders hold the same names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

_WORDS = "labels?|annotations?|annos?|annots?|gt|ground[ _-]?truths?|seg|segmentations?"
# a number behind such a word makes the name of a slide or site, such as GT12 or seg_1
_MASK_FOLDER = re.compile(rf"(.*[^a-z])?(masks?([^a-z].*)?|({_WORDS})([^a-z0-9][^0-9]*)?)", re.IGNORECASE)
_MASK_STEM = re.compile(rf"(?P<image>.+?)(?P<mask>[ _.-]+(masks?|{_WORDS}))", re.IGNORECASE)

Place = tuple[tuple[str, ...], tuple[str, ...]]


def is_mask_folder(name: str) -> bool:
    """Whether a folder holds masks by its name."""
    return _MASK_FOLDER.fullmatch(name) is not None


def masks_among(ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return patches that are masks by their names, each with its image and the pattern that excludes it.

    A mask lies in a folder such as ``masks`` while its image lies beside that folder or in another one beside it, or
    has the name of an image in its folder with ``_mask`` behind it.
    """
    named = {patch: places for patch in ids if (places := list(_mask_places(patch)))}
    if not named:
        return {}
    asked = {place for places in named.values() for place, _ in places}
    images = {
        place: patch for patch in reversed(ids) if patch not in named for place in _places(patch) if place in asked
    }
    found = {}
    for patch, places in named.items():
        for place, pattern in places:
            if place in images:
                found[patch] = images[place], pattern
                break
    return found


def _mask_places(patch: str) -> Iterator[tuple[Place, str]]:
    """Yield where the image of a patch would lie if the patch were a mask, and the pattern of such masks."""
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


def _places(patch: str) -> Iterator[Place]:
    """Yield all that `_mask_places` may say of the masks of an image: with any one folder left out, or none."""
    path = PurePosixPath(patch)
    parts = (*path.parts[:-1], path.stem)
    for number in range(len(parts)):
        yield parts[:number], parts[number:]
        if number < len(parts) - 1:
            yield parts[:number], parts[number + 1 :]


def alike_folders(ids: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """Yield the folders, two or more in one folder, that hold images of the same names, and the first of these."""
    stems: dict[PurePosixPath, list[str]] = {}
    for patch in ids:
        path = PurePosixPath(patch)
        stems.setdefault(path.parent, []).append(path.stem)
    alike: dict[tuple[PurePosixPath, tuple[str, ...]], list[str]] = {}
    for folder, names in sorted(stems.items()):
        if folder.parts:
            alike.setdefault((folder.parent, tuple(sorted(names))), []).append(str(folder))
    yield from ((folders, names[0]) for (_, names), folders in alike.items() if len(folders) > 1)
