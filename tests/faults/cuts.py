"""A power cut at any step of what is done to a folder: from the step on, nothing there changes any more."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
_WRITING = os.O_WRONLY | os.O_RDWR


class Cut:
    """Counts the steps right in a folder; those below it are shards, which have tests of their own."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._left = folder, step
        self.happened = False

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in _STEPS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING)
        paths = [Path(os.fsdecode(each)) for each in arguments if isinstance(each, str | bytes | os.PathLike)]
        if not writes or not any(self._folder in path.parents for path in paths):
            return
        if event in _STEPS and any(path.parent == self._folder for path in paths):
            self._left -= 1
            self.happened |= self._left < 0
        if self.happened:
            raise OSError(errno.EIO, "the power is cut", str(paths[0]))


_cuts: list[Cut] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _cuts and (event == "open" or event in _STEPS):
        _cuts[-1].see(event, arguments)


@contextmanager
def cut_at(folder: Path, step: int) -> Iterator[Cut]:
    """Let all that would change a folder fail, from the given step on, in this process."""
    if not getattr(sys, "_synthpipe_cuts", False):
        sys.addaudithook(_hook)  # there for good
        sys._synthpipe_cuts = True  # type: ignore[attr-defined]
    _cuts.append(Cut(folder, step))
    try:
        yield _cuts[-1]
    finally:
        _cuts.pop()
