"""One result of the doctor, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from synthpipe.core.errors import SynthpipeError

State = Literal["fine", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of the doctor.

    Attributes
    ----------
    what : str
        Such as ``Python``.
    state : {"fine", "note", "wrong"}
        ``note``: works, but is worth knowing.
    found : str
        What there is.
    cure : str
        What to do; empty where nothing is to be done.
    """

    what: str
    state: State
    found: str
    cure: str = ""


def checked(what: str, check: Callable[[], Finding | Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds, or a finding that says why the check failed: any package may be missing or old."""
    try:
        found = check()
        yield from (found,) if isinstance(found, Finding) else found
    except SynthpipeError as error:
        yield Finding(what, "wrong", str(error), "mend that, then look again")
    except Exception as error:
        said = f"cannot be checked: {type(error).__name__}: {error}"
        yield Finding(what, "wrong", said, "fix what is wrong above; if nothing is, please report this")
