"""Check, before writing into a folder, that synthpipe made it and that it contains no links."""

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
"""Name of the lock file of a folder (`files.lock`). In a folder without a marker, the lock also names the kind."""

LARGEST_LOCK = 1000  # bytes
_TEMPORARY = re.compile(
    r"\..+\.[0-9a-f]{32}\.partial"  # files.writing.replacing
    r"|c(\.\d+)+\.[0-9a-f]{8}\.partial"  # storage.direct_io.LocalFile
    r"|zarr\.[0-9a-f]{32}\.partial"  # zarr's own writing of a zarr.json
)
_PATTERN = re.compile(r"[*?[]")  # some stores treat such a name as a pattern, and remove all matches
_NAMED = 3  # names that a message lists


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of folder that synthpipe writes into.

    Attributes
    ----------
    name : str
        Name of the kind in messages and locks.
    markers : tuple of str
        Relative paths of files that mark a folder as one of this kind. One of these files is enough.
    parts : tuple of str, optional
        Shell patterns of the names that synthpipe writes in the folder (default: all names).
    """

    name: str
    markers: tuple[str, ...]
    parts: tuple[str, ...] = ("*",)


def claim(folder: Location, kind: Kind, known: bool = False) -> Location:
    """Check that synthpipe may write into a folder. Nothing is written.

    Parameters
    ----------
    folder : Path or UPath
        A folder, or a name that does not exist yet.
    kind : Kind
        The kind that the folder has or will have.
    known : bool
        Whether the caller already knows that the folder is of this kind.

    Returns
    -------
    Path or UPath
        The folder; if `folder` is a link, its target.

    Raises
    ------
    StoreError
        The folder holds files and is of another kind, contains a link, or cannot be read. The error is also raised for
        a file, and for a URL with a pattern.
    """
    with translate_errors(folder, "cannot be used"):
        if isinstance(folder, Path):
            folder = resolved(folder)
            if folder.exists() and not folder.is_dir():
                raise StoreError(f"{folder}: is not a folder; choose another name")
        elif _PATTERN.search(folder.path):
            raise StoreError(
                f"{folder}: the name contains *, ? or [, so removing files there could also remove files of other "
                "folders; choose another name"
            )
        if not (known or belongs(folder, kind)) and (foreign := _names(folder)):
            more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
            listed = ", ".join(repr(printable(name)) for name in foreign[:_NAMED])
            raise StoreError(f"{folder}: holds {listed}{more} but no {kind.name}; choose a new or empty folder")
        for path, what in irregular(folder, kind.parts):
            raise StoreError(
                f"{path}: is {what}, expected a file or a folder, because synthpipe writes here; remove it, or replace "
                "it with a copy of its target"
            )
    return folder


def resolved(folder: Path) -> Path:
    """Return a folder, or its target if the folder is a link."""
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder


def belongs(folder: Location, kind: Kind) -> bool:
    """Return whether a folder has a marker of this kind, or a lock that names this kind.

    The lock is written before the markers.
    """
    return is_marked(folder, kind) or _lock_of(folder).get("of") == kind.name


def is_marked(folder: Location, kind: Kind) -> bool:
    """Return whether a folder contains a marker of this kind. A link counts as a marker, but `claim` refuses links."""
    paths = (folder / marker for marker in kind.markers)
    return any(os.path.lexists(path) if isinstance(path, Path) else exists(path) for path in paths)


def is_empty(folder: Location) -> bool:
    """Return True if a folder is missing, or contains at most a lock and half-written files."""
    return not _names(folder)


def irregular(folder: Location, parts: Collection[str] = ("*",)) -> Iterator[tuple[Path, str]]:
    """Find links, pipes and other entries that are neither files nor folders.

    Parameters
    ----------
    folder : Path or UPath
        The folder to search. Links below the folder are not followed. A URL has no such entries.
    parts : collection of str
        Shell patterns of the names in `folder` to search. Folders with such names are searched completely.

    Yields
    ------
    path : Path
        The entry.
    kind : str
        The kind of the entry, such as ``a link``.
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
        with suppress(FileNotFoundError):  # another process removed it
            mode = entry.stat(follow_symlinks=False).st_mode
            yield Path(entry.path), KINDS.get(stat.S_IFMT(mode), "a device")


def is_half_written(path: str) -> bool:
    """Return whether a path has a temporary name of synthpipe, which files have while they are written."""
    return _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


def sweep(folder: Location, deep: bool = True) -> None:
    """Remove half-written files that killed processes left in a folder, and in all folders below it if `deep`.

    Only files with synthpipe's temporary names are removed, and links are not followed. The caller must hold the
    folder, so that no other process writes there.
    """
    if isinstance(folder, Path) and not folder.is_symlink():  # a store removes unfinished uploads by its own rules
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False):
                if deep:
                    sweep(Path(entry.path))
            elif entry.is_file(follow_symlinks=False) and is_half_written(entry.name):
                Path(entry.path).unlink(missing_ok=True)


def parse_lock(data: bytes) -> Mapping[str, Any] | None:
    """Parse the content of a lock. Return an empty mapping for an empty lock, and None for any other file."""
    if not data:
        return {}
    try:
        found = parse_json(data)
    except ValueError:
        return None
    holder = {"host", "process", "build"}  # the keys that older versions wrote
    return found if isinstance(found, dict) and ("of" in found or holder <= found.keys()) else None


def read_lock(folder: Location) -> bytes:
    """Return the bytes of a folder's lock, or no bytes if the folder has no lock.

    Raises
    ------
    StoreError
        The lock is not a regular file, is too large for a lock, or cannot be read.
    """
    path = folder / LOCK
    with translate_errors(path, "the lock cannot be read", "remove it, or choose another folder"):
        if isinstance(path, Path) and path.is_symlink():
            raise OSError("it is a link")
        with suppress(FileNotFoundError):
            return read_regular(path, LARGEST_LOCK)
    return b""


def _lock_of(folder: Location) -> Mapping[str, Any]:
    """Return the content of a folder's lock, or an empty mapping if the folder has no lock of synthpipe."""
    with suppress(StoreError):
        return parse_lock(read_lock(folder)) or {}
    return {}


def _names(folder: Location) -> list[str]:
    """Return the names in a folder without its lock and without half-written files."""
    with suppress(FileNotFoundError, NotADirectoryError):  # URLs raise the latter
        entries = os.scandir(folder) if isinstance(folder, Path) else folder.iterdir()
        return sorted(entry.name for entry in entries if not (entry.name == LOCK or is_half_written(entry.name)))
    return []


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from entries
