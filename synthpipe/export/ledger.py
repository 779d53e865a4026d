"""Read and write ``export.json``, the record of an export's settings and written parts."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synthpipe.config.fields import differences
from synthpipe.core.errors import StaleRunError, StoreError
from synthpipe.files.folders import Kind
from synthpipe.files.locations import Location, exists
from synthpipe.files.reading import open_regular
from synthpipe.files.writing import write_atomically
from synthpipe.storage.run import json_text, read_json

FORMAT_VERSION = 1
NAME = "export.json"
EXPORT = Kind("export", (NAME,))


@dataclass(frozen=True, slots=True)
class PartRecord:
    """The record of a written part: its numbers of composites, files and bytes, and its digest.

    `read_back` is the package that read the part back, or None if the part was not read back.
    """

    composites: int
    files: int
    bytes: int
    sha256: str
    read_back: str | None


class Ledger:
    """The record of an export in its folder.

    Parameters
    ----------
    folder : path
        Folder of the export.
    purpose : mapping
        Form, curated set and settings, as values that JSON can store. An export resumes only with the same values.

    Raises
    ------
    StaleRunError
        The folder has an export with other settings.
    StoreError
        ``export.json`` is damaged.
    """

    def __init__(self, folder: Location, purpose: Mapping[str, Any]) -> None:
        self._path = folder / NAME
        self._purpose = {"format_version": FORMAT_VERSION, **purpose}
        self.parts: dict[int, PartRecord] = {}
        self.finished = False
        self._due = 0.0
        if exists(self._path):
            self._load(folder)

    def _load(self, folder: Location) -> None:
        try:
            data = read_json(self._path)
            found = {key: data[key] for key in data.keys() - {"finished", "parts"}}
            parts = {int(number): _record(record) for number, record in data["parts"].items()}
        except (StoreError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{self._path}: is damaged; remove {folder} and export again") from error
        if changes := list(differences(found, self._purpose)):
            message = f"{folder}: has another export; export into another folder, or undo these changes:"
            raise StaleRunError("\n  ".join([message, *changes]))
        self.parts, self.finished = parts, bool(data.get("finished"))

    def record(self, number: int, part: PartRecord) -> None:
        """Add a part. Write the file too, unless writing would take more than 5 % of the time."""
        self.parts[number] = part
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the file."""
        start = time.monotonic()
        parts = {str(number): asdict(self.parts[number]) for number in sorted(self.parts)}
        write_atomically(self._path, json_text({**self._purpose, "finished": self.finished, "parts": parts}))
        now = time.monotonic()
        self._due = now + 20 * (now - start)


def _record(data: Mapping[str, Any]) -> PartRecord:
    """Make a `PartRecord` from stored JSON. Raise `TypeError` if a value has another type."""
    found = PartRecord(**data)
    texts, numbers = (found.sha256, found.read_back or ""), (found.composites, found.files, found.bytes)
    if not (all(type(each) is str for each in texts) and all(type(each) is int for each in numbers)):
        raise TypeError(f"a part is {data}")
    return found


def digest_of(files: Iterable[tuple[str, bytes]]) -> tuple[int, int, str]:
    """Return the number, the total size and the digest of files.

    The digest is the SHA-256 of the lines that ``sha256sum`` prints.
    """
    count = size = 0
    sha256 = hashlib.sha256()
    for name, data in files:
        count, size = count + 1, size + len(data)
        sha256.update(f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode())
    return count, size, sha256.hexdigest()


def sha256_of(path: Location) -> str:
    """Return the SHA-256 of a file of any size."""
    sha256 = hashlib.sha256()
    with os.fdopen(open_regular(path), "rb") if isinstance(path, Path) else path.open("rb") as file:
        while data := file.read(1 << 20):
            sha256.update(data)
    return sha256.hexdigest()
