"""Checks of the folders that synthpipe writes into: synthpipe made them, and they have no links to other locations."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from synthpipe.core.display import printable
from synthpipe.core.errors import StoreError
from synthpipe.core.strict_json import parse_json
from synthpipe.files.locations import KINDS, Location, exists, translate_errors
from synthpipe.files.reading import read_regular

LOCK = ".lock"
"""The file by which a folder is held (`files.lock`); in a folder that has no marker yet, it says whose it is."""

LARGEST_LOCK = 1000  # bytes
_TEMPORARY = re.compile(
    r"\..+\.[0-9a-f]{32}\.partial"  # files.replacing
    r"|c(\.\d+)+\.[0-9a-f]{8}\.partial"  # storage.objects.LocalFile
    r"|zarr\.[0-9a-f]{32}\.partial"  # zarr's own writing of a zarr.json
)
_PATTERN = re.compile(r"[*?[]")  # for stores that remove what matches
_NAMED = 3  # names that a message lists


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of folder that synthpipe writes into.

    Attributes
    ----------
    name : str
        What it is, for messages and in its lock.
    markers : tuple of str
        Files by any of which such a folder is known, as paths below it.
    parts : tuple of str, optional
        Shell patterns of the names that synthpipe writes there; by default all that lies there is synthpipe's.
    """

    name: str
    markers: tuple[str, ...]
    parts: tuple[str, ...] = ("*",)


def claim(folder: Location, kind: Kind, known: bool = False) -> Location:
    """Refuse a folder that is not synthpipe's to write into; nothing is written.

    Parameters
    ----------
    folder : Path or UPath
        It need not exist.
    kind : Kind
        What it is, or will be.
    known : bool
        Whether it is already known to be of this kind.

    Returns
    -------
    Path or UPath
        The folder; where `folder` is a link, what that leads to now.

    Raises
    ------
    StoreError
        It holds files and is of another kind, is no folder, cannot be read, holds a link, or is a URL with a pattern.
    """
    with translate_errors(folder, "cannot be used"):
        if isinstance(folder, Path):
            folder = resolved(folder)
            if folder.exists() and not folder.is_dir():
                raise StoreError(f"{folder}: is no folder; choose another name")
        elif _PATTERN.search(folder.path):
            raise StoreError(
                f"{folder}: has *, ? or [ in its name, so that what is removed there could be files of other folders "
                "too; choose another name"
            )
        if not (known or belongs(folder, kind)) and (foreign := _names(folder)):
            more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
            listed = ", ".join(repr(printable(name)) for name in foreign[:_NAMED])
            raise StoreError(f"{folder}: holds {listed}{more} but no {kind.name}; choose a new or empty folder")
        for path, what in irregular(folder, kind.parts):
            raise StoreError(
                f"{path}: is {what}, expected a file or a folder, since synthpipe writes here; remove it, or put a "
                "copy of what it stands for in its place"
            )
    return folder


def resolved(folder: Path) -> Path:
    """Return a folder; where it is a link, what that leads to now."""
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder


def belongs(folder: Location, kind: Kind) -> bool:
    """Whether a folder is of a kind, by its markers, or by the lock of a process that was about to write them."""
    return is_marked(folder, kind) or _lock_of(folder).get("of") == kind.name


def is_marked(folder: Location, kind: Kind) -> bool:
    """Whether a folder holds a marker of a kind; a link counts, and is refused by its own name."""
    paths = (folder / marker for marker in kind.markers)
    return any(os.path.lexists(path) if isinstance(path, Path) else exists(path) for path in paths)


def is_empty(folder: Location) -> bool:
    """Whether a folder holds nothing but a lock, or is not there."""
    return not _names(folder)


def irregular(folder: Location, parts: Collection[str] = ("*",)) -> Iterator[tuple[Path, str]]:
    """Yield what is neither file nor folder among some parts of a folder and below, with what it is: a link, a pipe.

    Links are not followed, but for `folder` itself. Behind a URL there are none.
    """
    if isinstance(folder, Path):
        for entry in _entries(folder):
            if any(fnmatchcase(entry.name, part) for part in parts):
                yield from _irregular(entry)


def _irregular(entry: os.DirEntry[str]) -> Iterator[tuple[Path, str]]:
    if entry.is_dir(follow_symlinks=False):
        for below in _entries(Path(entry.path)):
            yield from _irregular(below)
    elif not entry.is_file(follow_symlinks=False):
        with suppress(FileNotFoundError):  # somebody removed it
            mode = entry.stat(follow_symlinks=False).st_mode
            yield Path(entry.path), KINDS.get(stat.S_IFMT(mode), "a device")


def is_half_written(path: str) -> bool:
    """Whether a path has a name that synthpipe gives files while it writes them."""
    return _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


def sweep(folder: Location, deep: bool = True) -> None:
    """Remove what killed processes of synthpipe were writing in a folder, and where `deep` in those below it.

    Files alone, by the names that synthpipe gives them; links are not followed. Nobody else may be writing there.
    """
    if isinstance(folder, Path) and not folder.is_symlink():  # a store removes unfinished uploads by its own rules
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False):
                if deep:
                    sweep(Path(entry.path))
            elif entry.is_file(follow_symlinks=False) and is_half_written(entry.name):
                Path(entry.path).unlink(missing_ok=True)


def parse_lock(data: bytes) -> Mapping[str, Any] | None:
    """Return what a lock of synthpipe says: nothing where it is empty; None where it is something else."""
    if not data:
        return {}
    try:
        found = parse_json(data)
    except ValueError:
        return None
    holder = {"host", "process", "build"}  # all that versions before this one wrote
    return found if isinstance(found, dict) and ("of" in found or holder <= found.keys()) else None


def read_lock(folder: Location) -> bytes:
    """Return the bytes of a folder's lock; nothing where there is none.

    Raises
    ------
    StoreError
        It is no regular file, too large for a lock, or cannot be read.
    """
    path = folder / LOCK
    with translate_errors(path, "is no lock that can be read", "remove it, or choose another folder"):
        if isinstance(path, Path) and path.is_symlink():
            raise OSError("it is a link")
        with suppress(FileNotFoundError):
            return read_regular(path, LARGEST_LOCK)
    return b""


def _lock_of(folder: Location) -> Mapping[str, Any]:
    """Return what a folder's lock says; nothing where there is none of synthpipe."""
    with suppress(StoreError):
        return parse_lock(read_lock(folder)) or {}
    return {}


def _names(folder: Location) -> list[str]:
    """Return what a folder holds beside a lock, and what a killed process left half written."""
    with suppress(FileNotFoundError, NotADirectoryError):  # the latter of a URL
        entries = os.scandir(folder) if isinstance(folder, Path) else folder.iterdir()
        return sorted(entry.name for entry in entries if not (entry.name == LOCK or is_half_written(entry.name)))
    return []


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from entries
