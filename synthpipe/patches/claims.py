"""Records of patches: entries of a data set, claims of its layout, and problems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from synthpipe.config.fields import MOST
from synthpipe.patches.listing import is_patch

ProblemKind = Literal[
    "unreadable", "mislabelled", "no_group", "duplicate", "no_path", "too_small", "blank", "mask", "poor_donor"
]

_SHOWN = 3  # named patches of those with the same problem
_VARIES = re.compile(r"""'[^']*'|"[^"]*"|\d+""")


@dataclass(frozen=True, slots=True)
class Problem:
    """Reason why a patch cannot be used.

    `kind` is a stable snake_case word. `message` is a sentence that names the patch.
    """

    id: str
    kind: ProblemKind
    message: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A patch as its layout describes it, before its file is opened.

    `id`, `path`, `classes`, `group` and `secret_url` are those of `PatchRef`. If there are problems, `classes` and
    `group` can be empty.
    """

    id: str
    path: str
    classes: tuple[int, ...]
    group: str
    problems: tuple[Problem, ...] = ()
    secret_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A patch file or a row of a table, before its label is parsed.

    `label` is the text that holds the label set. `where` names the row, if there is one. `path` is the path or URL to
    read, with credentials and signatures.
    """

    id: str
    path: str
    label: str
    group: str = ""
    where: str = ""
    fault: tuple[ProblemKind, str] | None = None

    def problem(self, kind: ProblemKind, message: str) -> Problem:
        """Return a problem of this patch. Its message names the patch and its row."""
        where = f" ({self.where})" if self.where else ""
        return Problem(self.id, kind, f"patch {self.id!r}{where}: {message}")


def problem_lines(problems: Iterable[Problem], most: int = MOST) -> Iterator[str]:
    """Yield messages of problems. Patches with the same problem share a line. After `most` lines, count the rest."""
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
    """Replace a number or the name of a patch by ``#``. Then equal problems have equal messages."""
    quoted = found[0][0] in "'\""
    return found[0] if quoted and not is_patch(found[0][1:-1]) else "#"
