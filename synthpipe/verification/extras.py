"""Find arrays and files in a run's stores that the pipeline does not make.

Users may keep their own arrays and files in a store. A note names such arrays and files, and they stay. But a file with
the name of a shard is a fault, because it looks like a part of the pipeline's arrays.
"""

from __future__ import annotations

from collections.abc import Iterator

from synthpipe.files.locations import Location, translate_access_errors
from synthpipe.files.writing import PARTIAL
from synthpipe.storage.nodes import METADATA
from synthpipe.verification.expected import ExpectedGroup
from synthpipe.verification.faults import Fault

_LISTED = 5  # names in a note
_REMOVED = "remove it, or give --repair to remove it"


def check_extras(group: ExpectedGroup) -> Iterator[Fault]:
    """Yield a fault for each object in the folder of an array that is not part of the array."""
    planned = group.planned()
    for stored in group.arrays.values():
        expected = {stored.object(shard).name for shard in stored.shards() if shard < planned}
        for name in sorted(stored.names()):
            if name.startswith("c.") and name not in expected and not name.endswith(PARTIAL):
                path = stored.path / name
                yield Fault(
                    "extra",
                    path,
                    "an object outside the array",
                    f"only the {planned} shards of the array",
                    _REMOVED,
                    remove=(path,),
                )


def note_extras(groups: list[ExpectedGroup]) -> Iterator[str]:
    """Yield a line for each folder of these groups that contains other files or folders."""
    expected: dict[Location, set[str]] = {}
    for group in groups:
        for folder in (path.parent for path in group.metadata):
            expected.setdefault(folder, {METADATA})
            if folder.parent in expected:
                expected[folder.parent].add(folder.name)
    for folder, names in expected.items():
        with translate_access_errors(folder):
            found = [each.name for each in folder.iterdir()] if folder.is_dir() else []
        others = sorted(
            name for name in found if name not in names and not name.startswith("c.") and PARTIAL not in name
        )
        if others:
            listed = ", ".join(others[:_LISTED]) + (", ..." if len(others) > _LISTED else "")
            yield f"{folder}: not checked: the pipeline did not make {listed}"
