"""Records of a verification: single faults, the result of one check, and the report on a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from synthpipe.files.locations import Location

FaultKind = Literal["missing", "damaged", "extra", "metadata", "contradiction", "file", "patch"]
"""The kind of a fault.

- ``missing``: an object does not exist.
- ``damaged``: the bytes of an object differ from those that were stored.
- ``extra``: an object is in the folder of an array but not part of the array.
- ``metadata``: a ``zarr.json`` differs from the one that this version writes.
- ``contradiction``: the bytes of an object are intact, but its values contradict the data that they come from.
- ``file``: a small file of the run is missing or wrong.
- ``patch``: a patch is missing, or its bytes have changed since it was indexed.
"""

MAKE_AGAIN = "give --repair to make the object again, with the same bytes"


@dataclass(frozen=True, slots=True)
class Fault:
    """One object that is missing or wrong.

    Attributes
    ----------
    kind : FaultKind
        The kind of the fault.
    path : Path or UPath
        The object.
    found, expected : str
        The actual and the expected state of the object.
    cure : str
        Advice to the user.
    remove : tuple of path
        The objects that a repair removes, so that a build makes them again.
    replace : bytes or None
        The correct content of the object, if it is known.
    permanent : bool
        Whether no build can repair the fault.
    """

    kind: FaultKind
    path: Location
    found: str
    expected: str
    cure: str = MAKE_AGAIN
    remove: tuple[Location, ...] = ()
    replace: bytes | None = None
    permanent: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: found {self.found}; expected {self.expected}; {self.cure}"

    def to_json(self) -> dict[str, Any]:
        """Return the fault as JSON-ready data."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "found": self.found,
            "expected": self.expected,
            "cure": self.cure,
            "repairable": not self.permanent,
        }


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The faults that one check found, with the number and the bytes of the objects that it read."""

    faults: tuple[Fault, ...] = ()
    objects: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of verifying a run.

    Attributes
    ----------
    path : Path or UPath
        The run.
    finished : bool
        Whether the build of the run is complete.
    faults : tuple of Fault
        The faults, at most one for each object.
    notes : tuple of str
        The parts of the run that are not built yet or were not checked.
    objects, size : int
        The number and the bytes of the objects that were read.
    rendered : int
        The number of composites that were sampled and rendered again.
    seconds : float
        The duration of the verification.
    unread : bool
        Whether the patches were left unread because they are behind URLs that the user did not name.
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
        """Return the report as JSON-ready data."""
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
