"""Entries, claims and problems of patches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from synthpipe.config.fields import MOST
from synthpipe.patches.listing import is_patch

ProblemKind = Literal["unreadable", "mislabelled", "no_group", "duplicate", "no_path", "too_small", "blank", "mask"]

_SHOWN = 3  # patches of those that share a problem
_VARIES = re.compile(r"""'[^']*'|"[^"]*"|\d+""")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a patch cannot be used: `kind` is a stable snake_case word, `message` a sentence that names the patch."""

    id: str
    kind: ProblemKind
    message: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A patch as its layout describes it, before its file is opened.

    `id`, `path`, `classes`, `group` and `secret_url` are those of `PatchRef`; where there are problems, `classes` may
    be empty and `group` blank.
    """

    id: str
    path: str
    classes: tuple[int, ...]
    group: str
    problems: tuple[Problem, ...] = ()
    secret_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or table row: `label` is the text that holds its label set, `where` the row it comes from.

    `path` holds what reading needs, credentials and signatures too.
    """

    id: str
    path: str
    label: str
    group: str = ""
    where: str = ""
    fault: tuple[ProblemKind, str] | None = None

    def problem(self, kind: ProblemKind, message: str) -> Problem:
        where = f" ({self.where})" if self.where else ""
        return Problem(self.id, kind, f"patch {self.id!r}{where}: {message}")


def problem_lines(problems: Iterable[Problem], most: int = MOST) -> Iterator[str]:
    """Yield the messages of problems in at most `most` lines; patches with the same problem share one."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        fault = _VARIES.sub(_without_names, problem.message.removeprefix(f"patch {problem.id!r}"))
        alike.setdefault((problem.kind, fault), []).append(problem)
    for number, (first, *others) in enumerate(alike.values()):
        if number == most:
            yield f"and {sum(map(len, list(alike.values())[most:]))} other problems"
            return
        if others:
            names = [repr(problem.id) for problem in others]
            more = len(names) - _SHOWN + 1
            listed = ", ".join(names[: _SHOWN - 1]) + (f" and {more} more" if more > 0 else "")
            yield f"{len(names) + 1} x {first.kind}: {first.message}; the same holds for {listed}"
        else:
            yield f"{first.kind}: {first.message}"


def _without_names(found: re.Match[str]) -> str:
    """Return a part of a message without what differs from patch to patch: numbers, and names of patches."""
    quoted = found[0][0] in "'\""
    return found[0] if quoted and not is_patch(found[0][1:-1]) else "#"
