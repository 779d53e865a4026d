"""Simulated power cuts: from a given step on, every change of a folder fails."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FOLDERS = {"os.rename": (2, 3), "os.link": (2, 3), "os.remove": (1, 1), "os.rmdir": (1, 1), "os.mkdir": (2, 2)}
"""Events that change a folder, and the positions of the arguments with the open folders of relative paths."""
_WRITING = os.O_WRONLY | os.O_RDWR


class Cut:
    """Counts the changes in a folder and below it: files opened for writing, and names made, changed and removed."""

    def __init__(self, folder: Path, step: float) -> None:
        self._folder, self._step = folder, step
        self.names: list[str] = []

    @property
    def steps(self) -> int:
        """The number of changes so far."""
        return len(self.names)

    @property
    def happened(self) -> bool:
        """Whether the power is cut."""
        return self.steps > self._step

    def count(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count a change, and raise OSError if the power is cut."""
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
            return
        paths = list(_paths(event, arguments))
        if not any(self._folder in (path, *path.parents) for path in paths):
            return
        self.names.append(paths[-1].name)
        if self.happened:
            raise OSError(errno.EIO, "the power is cut", str(arguments[0]))


def _paths(event: str, arguments: tuple[Any, ...]) -> Iterator[Path]:
    opened = iter(_FOLDERS.get(event, ()))
    for name in arguments:
        if isinstance(name, str | bytes | os.PathLike):
            path, folder = Path(os.fsdecode(name)), next(opened, None)
            if folder is not None and arguments[folder] >= 0 and not path.is_absolute():
                path = Path(f"/proc/self/fd/{arguments[folder]}").readlink() / path
            yield path


_cuts: list[Cut] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _cuts and (event == "open" or event in _FOLDERS):
        _cuts[-1].count(event, arguments)


@contextmanager
def cut_at(folder: Path, step: float) -> Iterator[Cut]:
    """Let every change of a folder by this process fail from the given step on."""
    if not getattr(sys, "_synthpipe_cuts", False):
        sys.addaudithook(_hook)  # an audit hook cannot be removed
        sys._synthpipe_cuts = True  # type: ignore[attr-defined]
    _cuts.append(Cut(folder, step))
    try:
        yield _cuts[-1]
    finally:
        _cuts.pop()
