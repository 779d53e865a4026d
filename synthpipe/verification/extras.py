"""What lies in the stores of a run and is nothing that its pipeline makes.

A user may keep arrays and files there: these are named in a note and left alone. What could be taken for an object of
one of the pipeline's arrays is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator

from synthpipe.files.locations import Location, translate_access_errors
from synthpipe.files.writing import PARTIAL
from synthpipe.storage.nodes import METADATA
from synthpipe.verification.expected import ExpectedGroup
from synthpipe.verification.faults import Fault

_LISTED = 5  # names in a note
_REMOVED = "remove it, or give --repair, which does"


def check_extras(group: ExpectedGroup) -> Iterator[Fault]:
    """Yield the objects in the folders of arrays that no array has."""
    planned = group.planned()
    for stored in group.arrays.values():
        known = {stored.object(shard).name for shard in stored.shards() if shard < planned}
        for name in sorted(stored.names()):
            if name.startswith("c.") and name not in known and not name.endswith(PARTIAL):
                path = stored.path / name
                yield Fault("extra", path, "an object", f"{planned} shards of this array", _REMOVED, remove=(path,))


def note_extras(groups: list[ExpectedGroup]) -> Iterator[str]:
    """Yield a line for each folder of some groups in which something else lies."""
    known: dict[Location, set[str]] = {}
    for group in groups:
        for folder in (path.parent for path in group.metadata):
            known.setdefault(folder, {METADATA})
            if folder.parent in known:
                known[folder.parent].add(folder.name)
    for folder, names in known.items():
        with translate_access_errors(folder):
            found = [each.name for each in folder.iterdir()] if folder.is_dir() else []
        others = sorted(
            name for name in found if name not in names and not name.startswith("c.") and PARTIAL not in name
        )
        if others:
            listed = ", ".join(others[:_LISTED]) + (", ..." if len(others) > _LISTED else "")
            yield f"{folder}: {listed}: not part of what the pipeline makes; not checked"
