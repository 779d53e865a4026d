"""The work of an export's worker process: write a part if it does not exist yet, and read the part back."""

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

_ADVICE = "check the disk, and export into another folder"


class StoppedError(Exception):
    """Signal that the export was interrupted while a part was written."""


@dataclass(frozen=True, slots=True)
class ExportJob:
    """Settings of an export for its workers.

    `part_size` is the number of composites per part. If `check` is True, each part is read back.
    """

    curated: CuratedSet
    form: Form
    folder: Location
    part_size: int
    check: bool


class _Worker:
    """The state of this process as a worker."""

    job: ExportJob
    stop: Event | threading.Event


def begin(job: ExportJob, stop: Event) -> None:
    """Prepare this worker process for a job. The worker ends when its parent process ends."""
    cv2.setNumThreads(1)
    work_for(job, stop)
    if parent := parent_process():
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def work_for(job: ExportJob, stop: Event | threading.Event) -> None:
    """Set the job of this process, and the event that interrupts it."""
    _Worker.job, _Worker.stop = job, stop


def _end_with(sentinel: int) -> None:
    """Wait until the process of `sentinel` ends, then end this process."""
    wait([sentinel])
    os._exit(1)


def do_part(number: int, recorded: PartRecord | None) -> tuple[PartRecord, bool]:
    """Write a part, unless it exists as recorded. Read the part back if the job asks for it.

    Returns
    -------
    PartRecord
        Record of the written part.
    bool
        Whether the part existed already.

    Raises
    ------
    StoreError
        The part cannot be written, or differs from the set when it is read back.
    StoppedError
        The export was interrupted. The part is not recorded, and all its existing files are complete.
    """
    job = _Worker.job
    part = part_of(job.curated, number, job.part_size)
    exists = recorded is not None and _is_written(job, part, recorded)
    record = recorded if recorded and exists else _write(job, part)
    if job.check and record.read_back is None:
        record = replace(record, read_back=read_back(job, part))
    return record, exists


def read_back(job: ExportJob, part: Part) -> str:
    """Compare a part with the curated set pixel by pixel. Return the package that read the part, with its version.

    Raises
    ------
    StoreError
        A sample differs. The message names the sample.
    """
    read, package = reader_of(job.form, job.folder)
    for entry, copy in _pairs(job, part, read(job.folder, part)):
        _compare(job, entry, copy)
    return package


def reader_of(form: Form, folder: Location) -> tuple[Callable[[Location, Part], Iterator[Copy]], str]:
    """Return the function that reads a form's parts in a folder, and the name and version of the package it uses.

    This package is the form's own library if it is installed and the folder is on a disk. Otherwise it is Pillow.
    """
    if isinstance(folder, Path):
        with suppress(PackageNotFoundError):
            return form.read_by_library, f"{form.library} {version(form.library)}"
    return form.read, f"pillow {version('pillow')}"


def _pairs(job: ExportJob, part: Part, copies: Iterable[Copy]) -> Iterator[tuple[Entry, Copy]]:
    entries = {entry.key: entry for entry in part.entries}
    for copy in copies:
        _check_stop()
        if copy.key not in entries:
            raise StoreError(
                f"{_where(job, part)}: has {copy.key!r}, which occurs twice or is not in this part; {_ADVICE}"
            )
        yield entries.pop(copy.key), copy
    if entries:
        raise StoreError(f"{_where(job, part)}: lacks {len(entries)} composites, such as {min(entries)!r}; {_ADVICE}")


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
            f"{job.folder}: {entry.key}: was read back by {job.form.library} and differs in {', '.join(wrong)} from "
            f"composite {entry.position} of {job.curated.path}; {_ADVICE}"
        )


def _is_written(job: ExportJob, part: Part, recorded: PartRecord) -> bool:
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
        _check_stop()
        sample = job.curated[entry.position]
        yield sample.image, sample.mask


def _check_stop() -> None:
    if _Worker.stop.is_set():
        raise StoppedError


def _where(job: ExportJob, part: Part) -> str:
    return str(job.folder / next(job.form.names(part)))
