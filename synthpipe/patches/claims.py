"""What a layout says of patches before anyone opens them: entries, claims, and problems."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ProblemKind = Literal["unreadable", "mislabelled", "no_group", "duplicate", "no_path"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a patch cannot be used: `kind` is a stable snake_case word, `message` a sentence that names the patch."""

    id: str
    kind: ProblemKind
    message: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A patch as its layout presents it, before anyone has opened the file.

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
