"""Rename a curated set: in one step, or by a copy if the file system cannot rename folders.

A folder is a curated set only if it contains the root file ``zarr.json``. A copy has three steps: the other files are
copied, the root file is moved, and the rest of the original is removed. If a process is killed between two steps, the
next process completes the move.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from synthpipe.files.locations import Location, exists, translate_errors

ROOT = "zarr.json"
"""The file that makes a folder a store."""


def set_aside(store: Location, paths: Iterable[Location]) -> Location:
    """Move a store to the first free path of `paths`, and return that path.

    Raises
    ------
    StoreError
        The new path cannot be written. The store keeps its path, and a partial copy is removed.
    """
    aside = next(filter(_is_free, paths))
    if isinstance(store, Path):
        with suppress(OSError):  # some file systems cannot rename folders
            store.rename(str(aside))
            return aside
    with translate_errors(aside, "cannot be written"):
        _copy(store, aside)
    with translate_errors(store, "cannot be removed"):
        remove_rest(store, aside)
    return aside


def remove_rest(store: Location, aside: Location) -> None:
    """Remove the files of a store that were already copied to `aside`."""
    files, below = _system(store)
    copied = {each.removeprefix(_system(aside)[1]) for each in files.find(_system(aside)[1])}
    if rest := [each for each in files.find(below) if each.removeprefix(below) in copied]:
        files.rm(rest)
    if isinstance(store, Path):
        for folder, _, _ in os.walk(store, topdown=False):
            with suppress(OSError):  # it has other files
                Path(folder).rmdir()


def _copy(store: Location, aside: Location) -> None:
    """Copy all files of a store except the root file, then move the root file."""
    files, source = _system(store)
    target = _system(aside)[1]
    root = f"{source}/{ROOT}"
    objects = [
        each for each in files.find(source) if each != root
    ]  # `mv` would look for folders, which object stores do not have
    try:
        files.copy(objects, [f"{target}{each.removeprefix(source)}" for each in objects])
    except BaseException:
        with suppress(Exception):  # the partial copy takes disk space, which may be the reason of the error
            remove_rest(aside, store)
        raise
    if isinstance(store, Path):
        os.sync()  # otherwise a power cut could leave names without bytes
        (store / ROOT).replace(f"{target}/{ROOT}")
    else:
        files.copy([root], [f"{target}/{ROOT}"])
        files.rm([root])


def _system(path: Location) -> tuple[Any, str]:
    """Return the file system of a path, and the path inside that file system."""
    return (LocalFileSystem(auto_mkdir=True), str(path.absolute())) if isinstance(path, Path) else (path.fs, path.path)


def _is_free(path: Location) -> bool:
    """Return True if a path does not exist or is a partial copy."""
    if isinstance(path, Path) and os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        return False
    return not exists(path / ROOT)
