"""Which files of a folder, on a disk or at a URL, are patches by their name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from fsspec.utils import get_protocol
from upath import UPath

from synthpipe.core.errors import CatalogError, cause_of, cure_of
from synthpipe.files.locations import Location, address

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""File names that are patches end in one of these, in any case."""


def is_patch(name: str) -> bool:
    """Whether a file is a patch by its name."""
    return name.lower().endswith(SUFFIXES)


def files(folder: Location) -> Iterator[tuple[PurePosixPath, str]]:
    """Yield the paths, below `folder`, of all patch files that are not hidden, and what to read each by."""
    if isinstance(folder, Path):
        yield from ((PurePosixPath(path.relative_to(folder)), str(path)) for path in _walk(folder, frozenset()))
        return
    for path in _asked(folder, lambda: folder.fs.find(folder.path)):
        below = path.removeprefix(folder.path.rstrip("/") + "/")
        relative = PurePosixPath(_unescaped(folder, below))
        if is_patch(relative.name) and not any(part.startswith(".") for part in relative.parts):
            yield relative, address(folder / below)


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Yield the patch files below `folder`; links are followed, except to one of the folders `above`."""
    above |= {os.path.realpath(folder)}
    for name, is_folder in listing(folder):
        if not is_folder and is_patch(name):
            yield folder / name
        elif is_folder and os.path.realpath(folder / name) not in above:
            yield from _walk(folder / name, above)


def is_directory(place: Location) -> bool:
    """Whether a folder lies at a place, as far as this user may see."""
    try:
        return place.is_dir()
    except OSError:
        return False


def listing(folder: Location) -> list[tuple[str, bool]]:
    """Return the names in a folder that are not hidden, and whether each is a folder."""
    if not isinstance(folder, Path):
        listed = [
            (_unescaped(folder, PurePosixPath(entry["name"]).name), entry["type"] == "directory")
            for entry in _entries(folder)
        ]
        return [(name, is_folder) for name, is_folder in listed if not name.startswith(".")]
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise CatalogError(f"{folder}: cannot be listed: {error.strerror}; check the folder and its links") from error


def _unescaped(folder: UPath, name: str) -> str:
    """Return a name that a store lists; HTTP lists links, whose names are escaped."""
    return unquote(name) if get_protocol(str(folder)).startswith("http") else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if is_patch(entry.name):
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
        cure = cure_of(error) or "check the address"
        raise CatalogError(f"{folder}: cannot be listed: {cause_of(error)}; {cure}") from error
