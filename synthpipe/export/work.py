"""What a worker process of an export does: write a part, or find it written, and read it back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from pathlib import Path

import cv2
import numpy as np

from synthpipe.core.errors import StoreError
from synthpipe.curated import CuratedSet
from synthpipe.export.entries import Copy, Entry, Part, part_of
from synthpipe.export.form import Form, Pixels
from synthpipe.export.ledger import PartRecord, digest_of
from synthpipe.files.locations import Location
from synthpipe.files.writing import write_atomically


class StoppedError(Exception):
    """The export was interrupted while a part was written."""


@dataclass(frozen=True, slots=True)
class ExportJob:
    """What workers share: the curated set, the form, where it goes, composites a part, and whether parts are read."""

    curated: CuratedSet
    form: Form
    folder: Location
    part_size: int
    check: bool


class _Worker:
    """The state of this worker process."""

    job: ExportJob
    stop: Event


def begin(job: ExportJob, stop: Event) -> None:
    """Prepare this process for the parts of a job; it ends when the process that started it does, however that ends."""
    cv2.setNumThreads(1)
    _Worker.job, _Worker.stop = job, stop
    if parent := parent_process():
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def do_part(number: int, recorded: PartRecord | None) -> tuple[PartRecord, bool]:
    """Write a part unless it is there as recorded; read it back where that is asked for.

    Returns
    -------
    PartRecord
        What is there now.
    bool
        Whether it was there already.

    Raises
    ------
    StoreError
        It cannot be written, or what is read back is not what was written.
    StoppedError
        The export was interrupted; the part is not recorded, and its files are whole.
    """
    job = _Worker.job
    part = part_of(job.curated, number, job.part_size)
    there = recorded is not None and _is_there(job, part, recorded)
    record = recorded if recorded and there else _write(job, part)
    if job.check and record.read_back is None:
        record = replace(record, read_back=read_back(job, part))
    return record, there


def read_back(job: ExportJob, part: Part) -> str:
    """Compare a part, pixel by pixel, with the curated set; return the name and version of what read it.

    Raises
    ------
    StoreError
        Something differs; the message names it.
    """
    read, package = reader_of(job.form, job.folder)
    for entry, copy in _paired(job, part, read(job.folder, part)):
        _compare(job, entry, copy)
    return package


def reader_of(form: Form, folder: Location) -> tuple[Callable[[Location, Part], Iterator[Copy]], str]:
    """Return what reads a form's parts in a folder, and the name and version of its package.

    It is the form's own library where that is installed and the folder is on a disk, else Pillow.
    """
    if isinstance(folder, Path):
        with suppress(PackageNotFoundError):
            return form.read_by_library, f"{form.library} {version(form.library)}"
    return form.read, f"pillow {version('pillow')}"


def _paired(job: ExportJob, part: Part, copies: Iterable[Copy]) -> Iterator[tuple[Entry, Copy]]:
    entries = {entry.key: entry for entry in part.entries}
    for copy in copies:
        _go_on()
        if copy.key not in entries:
            raise StoreError(f"{_where(job, part)}: read back {copy.key!r}, which is none of its composites, or twice")
        yield entries.pop(copy.key), copy
    if entries:
        raise StoreError(f"{_where(job, part)}: lacks {len(entries)} composites when read back, as {min(entries)!r}")


def _compare(job: ExportJob, entry: Entry, copy: Copy) -> None:
    sample = job.curated[entry.position]
    same = {
        "image": np.array_equal(copy.image, sample.image),
        "mask": np.array_equal(copy.mask, sample.mask),
        "labels": copy.labels is None or copy.labels == entry.labels,
        "description": copy.about is None or copy.about == entry.to_json(),
    }
    if wrong := [name for name, is_same in same.items() if not is_same]:
        raise StoreError(
            f"{job.folder}: {entry.key}: {', '.join(wrong)} read back by {job.form.library} differ from composite "
            f"{entry.position} of {job.curated.path}; check the disk, and export into another folder"
        )


def _is_there(job: ExportJob, part: Part, recorded: PartRecord) -> bool:
    try:
        files = digest_of((name, (job.folder / name).read_bytes()) for name in job.form.names(part))
    except OSError:
        return False
    return files == (recorded.files, recorded.bytes, recorded.sha256)


def _write(job: ExportJob, part: Part) -> PartRecord:
    def written() -> Iterator[tuple[str, bytes]]:
        for name, data in job.form.files(part, _pixels(job, part)):
            write_atomically(job.folder / name, data)
            yield name, data

    count, size, digest = digest_of(written())
    return PartRecord(len(part.entries), count, size, digest, None)


def _pixels(job: ExportJob, part: Part) -> Iterator[Pixels]:
    for entry in part.entries:
        _go_on()
        sample = job.curated[entry.position]
        yield sample.image, sample.mask


def _go_on() -> None:
    if _Worker.stop.is_set():
        raise StoppedError


def _where(job: ExportJob, part: Part) -> str:
    return str(job.folder / next(job.form.names(part)))
