"""What a checkup finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from synthpipe.files.locations import Location

FaultKind = Literal["missing", "damaged", "extra", "metadata", "contradiction", "file", "patch"]
"""``missing``: an object is not there. ``damaged``: its bytes are not those that were stored. ``extra``: an object lies
in the folder of an array that does not have it. ``metadata``: a ``zarr.json`` is not what this version writes.
``contradiction``: its bytes are sound, and say something else than what they follow from. ``file``: one of the run's
small files. ``patch``: a patch is gone, or another than was indexed."""

MADE_AGAIN = "give --repair: it is made again, with the bytes it had"


@dataclass(frozen=True, slots=True)
class Fault:
    """One object that is not as it should be.

    Attributes
    ----------
    kind : str
        What sort of fault.
    path : Path or UPath
        The object.
    found, expected : str
        What it is, and what it should be.
    cure : str
        What to do.
    remove : tuple of path
        What has to go so that a build makes it again.
    replace : bytes or None
        What the object ought to hold, where that is known.
    lasting : bool
        Whether no build can mend it.
    """

    kind: FaultKind
    path: Location
    found: str
    expected: str
    cure: str = MADE_AGAIN
    remove: tuple[Location, ...] = ()
    replace: bytes | None = None
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: found {self.found}; expected {self.expected}; {self.cure}"

    def to_json(self) -> dict[str, Any]:
        """Return what machines need, JSON-ready."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "found": self.found,
            "expected": self.expected,
            "cure": self.cure,
            "repairable": not self.lasting,
        }


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a part of a checkup found, and how much it read."""

    faults: tuple[Fault, ...] = ()
    objects: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a whole checkup found.

    Attributes
    ----------
    path : Path or UPath
        The run.
    finished : bool
        Whether its build came to its end.
    faults : tuple of Fault
        In order of the objects.
    notes : tuple of str
        What is not made yet, and what was not checked.
    objects, size : int
        How many objects were read, and their bytes.
    rendered : int
        How many composites were sampled and rendered again.
    seconds : float
        It took.
    unread : bool
        Whether patches were to be read, but lie behind URLs that the user did not name.
    """

    path: Location
    finished: bool
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    objects: int
    size: int
    rendered: int
    seconds: float
    unread: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return all of it, JSON-ready."""
        return {
            "path": str(self.path),
            "sound": not self.faults,
            "finished": self.finished,
            "faults": [fault.to_json() for fault in self.faults],
            "notes": list(self.notes),
            "objects": self.objects,
            "bytes": self.size,
            "rendered": self.rendered,
            "seconds": round(self.seconds, 3),
        }
