"""Exporting a curated set: parts in parallel, resumable, and then what the whole needs."""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from synthpipe.core.errors import AccessError, ConfigError, StaleRunError, StoreError
from synthpipe.core.packages import require
from synthpipe.core.progress import Reporter
from synthpipe.core.threads import available_cores
from synthpipe.curated import CuratedSet, Description
from synthpipe.export.coco import CocoRuns
from synthpipe.export.fiftyone import FiftyOneFolder
from synthpipe.export.form import Form
from synthpipe.export.hf import HuggingFaceParquet
from synthpipe.export.ledger import EXPORT, Ledger, PartRecord
from synthpipe.export.nnunet import NnUNetRaw
from synthpipe.export.png import PngFolders
from synthpipe.export.webdataset import WebDatasetShards
from synthpipe.export.work import ExportJob, begin, do_part
from synthpipe.files.folders import claim, sweep
from synthpipe.files.locations import Location, exists
from synthpipe.files.lock import held
from synthpipe.files.writing import stream_atomically, write_atomically
from synthpipe.report.data_cards.croissant import croissant
from synthpipe.report.data_cards.facts import card_facts, finished_run_of
from synthpipe.report.data_cards.readme import readme

Done = tuple[PartRecord, bool]
_FORMS: Mapping[str, Callable[[Description], Form]] = {
    "png": PngFolders,
    "webdataset": WebDatasetShards,
    "hf": HuggingFaceParquet,
    "coco": CocoRuns,
    "nnunet": NnUNetRaw,
    "fiftyone": FiftyOneFolder,
}
FORMS = tuple(_FORMS)
PART = 1000
"""Composites a part, unless another number is asked for."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export: composites, files and bytes of its parts, how many of these were there before, readers."""

    composites: int
    files: int
    bytes: int
    parts: int
    kept: int
    read_back: tuple[str, ...]


def export(
    curated: CuratedSet,
    name: str,
    folder: Location,
    reporter: Reporter,
    part: int = PART,
    workers: int | None = None,
    check: bool = True,
) -> Exported:
    """Write a curated set in another form, or go on with an export that was interrupted.

    Parameters
    ----------
    curated : CuratedSet
        What to export.
    name : str
        The form, one of `FORMS`.
    folder : Path or UPath
        Where to: new, empty, or begun with the same arguments.
    reporter : Reporter
        Told about the progress.
    part : int
        Composites a part: what is written, held in memory by a worker, and resumed as a whole.
    workers : int, optional
        Processes; by default one a core.
    check : bool
        Whether to read back all that was written, and compare it with the set pixel by pixel.

    Raises
    ------
    StaleRunError
        The folder holds something else, or another process is exporting into it.
    StoreError
        Something cannot be read or written, or was not read back as it was written.
    ConfigError
        There is no such form.
    MissingPackageError
        The form needs a package that is not installed.
    """
    form = form_of(name, curated.description)
    require(f"form {name}", *form.requires)
    _refuse_stores(folder)
    settings = {"form": name, "part": part, "curated": {"digest": curated.digest, "composites": len(curated)}}
    folder = claim(folder, EXPORT)
    Ledger(folder, settings)
    with held(folder, EXPORT):
        ledger = Ledger(folder, settings)
        sweep(folder)
        try:
            kept = _parts(ExportJob(curated, form, folder, part, check), ledger, reporter, workers or available_cores())
            for file, chunks in form.whole(folder, len(ledger.parts), len(curated)):
                stream_atomically(folder / file, chunks)
            _write_cards(curated, form, folder, ledger)
            ledger.finished = True
            ledger.write()
        finally:
            sweep(folder)
    records = [*ledger.parts.values()]
    return Exported(
        composites=sum(record.composites for record in records),
        files=sum(record.files for record in records),
        bytes=sum(record.bytes for record in records),
        parts=len(records),
        kept=kept,
        read_back=tuple(sorted({record.read_back or "" for record in records} - {""})),
    )


def _write_cards(curated: CuratedSet, form: Form, folder: Location, ledger: Ledger) -> None:
    facts = card_facts(curated, finished_run_of(curated))
    card = form.card(folder, len(curated), sum(record.bytes for record in ledger.parts.values()))
    write_atomically(folder / "README.md", readme(facts, card.lines, card.header))
    write_atomically(folder / "croissant.json", croissant(facts, card.files, card.records))


def form_of(name: str, description: Description) -> Form:
    """Return a form for sets of such samples.

    Raises
    ------
    ConfigError
        There is no such form.
    """
    if name not in _FORMS:
        raise ConfigError(f"form {name!r}: expected one of {', '.join(FORMS)}")
    return _FORMS[name](description)


def _parts(job: ExportJob, ledger: Ledger, reporter: Reporter, workers: int) -> int:
    """See that every part is written and recorded; return how many were there already."""
    count = math.ceil(len(job.curated) / job.part_size)
    before = {number: record for number, record in ledger.parts.items() if number in range(count)}
    ledger.parts, ledger.finished, kept = dict(before), False, 0
    ledger.write()  # before any part, so that the folder is known for an export's however early this is killed
    with reporter.stage("export", len(job.curated)) as advance, _pool(job, max(1, min(workers, count))) as pool:
        with _signals_held():
            futures = {pool.submit(do_part, number, before.get(number)): number for number in range(count)}
        try:
            for number, (record, there) in _results(job, futures):
                kept += there
                ledger.record(number, record)
                advance(record.composites)
        except BaseException:
            with suppress(StoreError):  # there is a worse error
                ledger.write()
            raise
    ledger.write()
    return kept


@contextmanager
def _pool(job: ExportJob, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Give worker processes; when the block is left early, they stop at the next composite."""
    context = multiprocessing.get_context("spawn")  # threads of the parent's libraries do not survive a fork
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, begin, (job, stop))
    try:
        yield pool
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back from the processes that the block starts, for good: a terminal tells them too, we by `stop`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _results(job: ExportJob, futures: Mapping[Future[Done], int]) -> Iterator[tuple[int, Done]]:
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise StoreError(
            f"{job.folder}: a worker process was killed, by somebody or for its memory; give the command again, with "
            "fewer --workers or a smaller --part into another folder where memory is short: whole parts are kept"
        ) from error


def _refuse_stores(folder: Location) -> None:
    for place in (folder, *folder.parents):
        found = False
        with suppress(AccessError):  # as of a bucket of which only a part is the user's
            found = exists(place / "zarr.json")
        if found:
            raise StaleRunError(f"{folder}: lies in the Zarr store {place}; export into a folder outside of it")
