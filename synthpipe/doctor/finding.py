"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["fine", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

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
