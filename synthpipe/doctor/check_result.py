"""The result of one check of the machine, with advice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from synthpipe.core.errors import SynthpipeError

State = Literal["fine", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes
    ----------
    what : str
        Subject of the check, such as ``Python``.
    state : {"fine", "note", "wrong"}
        ``note`` means that the subject works, but not fully.
    found : str
        State of the subject in words.
    cure : str
        Advice. Empty if nothing is wrong.
    """

    what: str
    state: State
    found: str
    cure: str = ""


def checked(what: str, check: Callable[[], CheckResult | Iterable[CheckResult]]) -> Iterator[CheckResult]:
    """Run a check and yield its results. If the check raises an error, yield the error as a result."""
    try:
        found = check()
        yield from (found,) if isinstance(found, CheckResult) else found
    except SynthpipeError as error:
        yield CheckResult(what, "wrong", str(error), "fix this problem, then run the command again")
    except Exception as error:
        said = f"cannot be checked: {type(error).__name__}: {error}"
        yield CheckResult(what, "wrong", said, "fix the problems above; if there are none, please report this error")
