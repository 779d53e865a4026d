"""List the patch files of a folder on a disk or at a URL. Only names are read."""

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
"""Suffixes of patch files, in upper or lower case."""


def is_patch(name: str) -> bool:
    """Return whether a file name has the suffix of a patch file."""
    return name.lower().endswith(SUFFIXES)


def files(folder: Location) -> Iterator[tuple[PurePosixPath, str]]:
    """Yield each patch file that is not hidden: its path below `folder`, and the path or URL to read."""
    if isinstance(folder, Path):
        yield from ((PurePosixPath(path.relative_to(folder)), str(path)) for path in _walk(folder, frozenset()))
        return
    for path in _answer(folder, lambda: folder.fs.find(folder.path)):
        below = path.removeprefix(folder.path.rstrip("/") + "/")
        relative = PurePosixPath(_unescaped(folder, below))
        if is_patch(relative.name) and not any(part.startswith(".") for part in relative.parts):
            yield relative, address(folder / below)


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Yield the patch files below `folder`. Links are followed, unless they lead to a folder in `above`."""
    above |= {os.path.realpath(folder)}
    for name, is_folder in listing(folder):
        if not is_folder and is_patch(name):
            yield folder / name
        elif is_folder and os.path.realpath(folder / name) not in above:
            yield from _walk(folder / name, above)


def is_directory(location: Location) -> bool:
    """Return whether a location is a folder. Return False if this user cannot read the location."""
    try:
        return location.is_dir()
    except OSError:
        return False


def listing(folder: Location) -> list[tuple[str, bool]]:
    """Return the names in a folder that are not hidden, each with True for a folder and False for a file."""
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
    """Return the real name of a listed object. HTTP servers list escaped names."""
    return unquote(name) if get_protocol(str(folder)).startswith("http") else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if is_patch(entry.name):
            return False  # reading this file later gives a clearer error
        raise CatalogError(
            f"{entry.path}: cannot be followed: {error.strerror}; correct or remove this link"
        ) from error


def _entries(folder: UPath) -> list[dict[str, Any]]:
    """Return the entries that fsspec lists in a folder at a URL. A missing folder has no entries."""
    try:
        return list(_answer(folder, lambda: folder.fs.ls(folder.path, detail=True)))
    except FileNotFoundError:
        return []


def _answer(folder: UPath, request: Callable[[], Iterable[Any]]) -> Iterable[Any]:
    """Send a request and return its result. Raise all errors as `CatalogError`, except `FileNotFoundError`."""
    try:
        return request()
    except FileNotFoundError:
        raise
    except Exception as error:  # clients of object stores raise exceptions of their own
        cure = cure_of(error) or "check the address"
        raise CatalogError(f"{folder}: cannot be listed: {cause_of(error)}; {cure}") from error
