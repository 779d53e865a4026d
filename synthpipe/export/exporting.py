"""Export a curated set. Write or resume its parts in parallel, then write the files of the whole set."""

from __future__ import annotations

import math
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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
from synthpipe.export.work import ExportJob, begin, do_part, work_for
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
"""Default number of composites in a part."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The numbers of a finished export.

    `kept` is the number of parts that an earlier export wrote. `read_back` names the packages that read the parts back.
    """

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
    """Write a curated set in another form, or resume an interrupted export.

    Parameters
    ----------
    curated : CuratedSet
        The set to export.
    name : str
        The form, one of `FORMS`.
    folder : Path or UPath
        Output folder: new, empty, or with an interrupted export of the same set and settings.
    reporter : Reporter
        Reports the progress.
    part : int
        Number of composites in a part. A worker keeps a whole part in memory.
    workers : int, optional
        Number of processes; by default one for each core. With 0, this process writes all parts itself.
    check : bool
        Whether to read all files back and compare them with the set pixel by pixel.

    Raises
    ------
    StaleRunError
        The folder contains something else, or another process is exporting into the folder.
    StoreError
        A file cannot be read or written, or differs from the set when it is read back.
    ConfigError
        `name` is not a form.
    MissingPackageError
        The form needs a package that is not installed.
    """
    form = form_of(name, curated.description)
    require(f"form {name}", *form.requires)
    _refuse_store(folder)
    settings = {"form": name, "part": part, "curated": {"digest": curated.digest, "composites": len(curated)}}
    folder = claim(folder, EXPORT)
    Ledger(folder, settings)
    with held(folder, EXPORT):
        ledger = Ledger(folder, settings)
        sweep(folder)
        try:
            kept = _write_parts(
                ExportJob(curated, form, folder, part, check),
                ledger,
                reporter,
                available_cores() if workers is None else workers,
            )
            for file, chunks in form.whole(folder, len(ledger.parts), len(curated)):
                stream_atomically(folder / file, chunks)
            _write_cards(curated, form, folder, ledger)
            ledger.finished = True
            ledger.write()
        finally:
            sweep(folder)
    return _summary([*ledger.parts.values()], kept)


def _summary(records: Sequence[PartRecord], kept: int) -> Exported:
    return Exported(
        composites=sum(record.composites for record in records),
        files=sum(record.files for record in records),
        bytes=sum(record.bytes for record in records),
        parts=len(records),
        kept=kept,
        read_back=tuple(sorted({record.read_back or "" for record in records} - {""})),
    )


def _write_cards(curated: CuratedSet, form: Form, folder: Location, ledger: Ledger) -> None:
    """Write ``README.md`` and ``croissant.json``."""
    facts = card_facts(curated, finished_run_of(curated))
    card = form.card(folder, len(curated), sum(record.bytes for record in ledger.parts.values()))
    write_atomically(folder / "README.md", readme(facts, card.lines, card.header))
    write_atomically(folder / "croissant.json", croissant(facts, card.files, card.records))


def form_of(name: str, description: Description) -> Form:
    """Make the form called `name` for curated sets with this description.

    Raises
    ------
    ConfigError
        `name` is not a form.
    """
    if name not in _FORMS:
        raise ConfigError(f"form {name!r}: expected one of {', '.join(FORMS)}")
    return _FORMS[name](description)


def _write_parts(job: ExportJob, ledger: Ledger, reporter: Reporter, workers: int) -> int:
    """Write and record all missing parts, and return the number of parts that existed already."""
    count = math.ceil(len(job.curated) / job.part_size)
    before = {number: record for number, record in ledger.parts.items() if number in range(count)}
    ledger.parts, ledger.finished, kept = dict(before), False, 0
    ledger.write()  # marks the folder as an export, even if this process is killed early
    parts = {number: before.get(number) for number in range(count)}
    with reporter.stage("export", len(job.curated)) as advance, _pool(job, min(workers, count)) as pool:
        try:
            for number, (record, existed) in _results(job, parts, pool):
                kept += existed
                ledger.record(number, record)
                advance(record.composites)
        except BaseException:
            with suppress(StoreError):  # the first error matters more
                ledger.write()
            raise
    ledger.write()
    return kept


@contextmanager
def _pool(job: ExportJob, workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Yield a pool of worker processes. If the block raises an error, the workers stop at the next composite.

    With no workers, prepare this process for the job and yield None.
    """
    if not workers:
        work_for(job, threading.Event())
        yield None
        return
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
    """Block SIGINT and SIGTERM in processes that start in this block. The pool's `stop` event ends them instead."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _results(
    job: ExportJob, parts: Mapping[int, PartRecord | None], pool: ProcessPoolExecutor | None
) -> Iterator[tuple[int, Done]]:
    """Do the parts, and yield the number and the result of each as soon as it is done."""
    if pool is None:
        yield from ((number, do_part(number, recorded)) for number, recorded in parts.items())
        return
    with _signals_held():
        futures = {pool.submit(do_part, number, recorded): number for number, recorded in parts.items()}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise StoreError(
            f"{job.folder}: a worker process was killed, by a user or because memory ran out; run the command again to "
            "resume (complete parts are kept); if memory runs out, use fewer --workers, or export into another folder "
            "with a smaller --part"
        ) from error


def _refuse_store(folder: Location) -> None:
    """Raise a `StaleRunError` if a folder is in a Zarr store."""
    for location in (folder, *folder.parents):
        found = False
        with suppress(AccessError):  # for example, if the user has access to a part of a bucket only
            found = exists(location / "zarr.json")
        if found:
            raise StaleRunError(f"{folder}: is in the Zarr store {location}; export into a folder outside of it")
