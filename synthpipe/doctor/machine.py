"""What the machine itself is: compiled kernels, disks, the speed of storage, what its file systems can do."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np

from synthpipe.core.errors import StoreError, SynthpipeError
from synthpipe.doctor.finding import Finding, checked
from synthpipe.files.folders import Kind
from synthpipe.files.locations import Location, translate_errors
from synthpipe.files.lock import held
from synthpipe.files.scratch import OTHER_SCRATCH, has_locks, private_directory
from synthpipe.storage.direct_io import ObjectWriter

_ROOM = 20 << 30  # bytes: some 100,000 composites of 224 px
_LARGE, _BLOCK = 256 << 20, 4 << 20  # bytes of an object that is written, and of what is handed over at once
_TRIAL = Kind("trial", ("large",))
_SMALL_OBJECTS = 20
_SLOW, _SLOW_OBJECT = 50e6, 0.1  # bytes a second; seconds a small object


def machine(directory: Location) -> Iterator[Finding]:
    """Yield what is found, one thing after the other; runs would be built in `directory`, which is left as it was."""
    scratch = Path(tempfile.gettempdir())
    yield from checked("kernels", kernels)
    yield from checked(
        "scratch disk",
        lambda: room("scratch disk", scratch, "set TMPDIR, or give --scratch, to a disk with more space"),
    )
    yield from checked("scratch locks", scratch_locks)
    if isinstance(directory, Path):
        cure = "build into a directory on another disk (-o)"
        yield from checked("disk of runs", lambda: room("disk of runs", directory, cure))
    yield from checked("storage", lambda: storage(directory))


def kernels() -> Finding:
    """Look where compiled kernels are kept from one process to the next."""
    try:
        from synthpipe.compose import kernels as compiled
    except RuntimeError as error:  # numba found no folder that it may write to
        return Finding("kernels", "wrong", str(error), "set NUMBA_CACHE_DIR to a folder that you may write to")
    (folder,) = {Path(each.stats.cache_path) for each in vars(compiled).values() if hasattr(each, "stats")}
    return Finding("kernels", "fine", f"compiled once, and kept in {folder}")


def room(what: str, directory: Path, cure: str) -> Finding:
    """Look at the free room where `directory` is, or would be."""
    free = shutil.disk_usage(_existing(directory)).free
    found = f"{free / 2**30:.1f} GiB free at {directory}"
    return Finding(what, "fine", found) if free >= _ROOM else Finding(what, "note", found, cure)


def storage(directory: Location) -> Iterator[Finding]:
    """Write, read and lock where runs would lie, as a build does."""
    place = directory / f".doctor-{uuid4().hex}"
    made = _missing(place)
    try:
        with translate_errors(directory, "cannot be used"):
            yield _speed(place)
            with held(place, _TRIAL):
                yield locks(place)
            if isinstance(place, Path):
                yield from renames(place)
    except (SynthpipeError, OSError) as error:
        yield Finding("storage", "wrong", str(error), "choose a place that you may write to (-o)")
    finally:
        _remove(place, made)


def locks(place: Location) -> Finding:
    """Look whether the file system of a folder, which holds the file ``large``, has locks that keep others out."""
    if not isinstance(place, Path):
        return Finding("locks", "fine", "a build can hold its run")
    with (place / "large").open("rb+") as first, (place / "large").open("rb+") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = "flock gives one lock to several processes"
        except BlockingIOError:
            return Finding("locks", "fine", "a build can hold its run")
        except OSError as error:
            found = f"no flock: {error.strerror}"
    cure = (
        "a build renews its .lock every 10 s instead; after it was killed, the next one waits half a minute, and "
        "`synthpipe status` knows the holder of a run only from that file"
    )
    return Finding("locks", "note", found, cure)


def renames(place: Path) -> Iterator[Finding]:
    """Look whether the file system of a folder renames files that are open, and folders."""
    source, target = place / "renamed", place / "replaced"
    target.touch()
    found = []
    try:
        with source.open("wb"):
            source.replace(target)
    except OSError as error:
        found.append(f"no rename of a file that is open: {error.strerror}")
        source.replace(target)  # closed it must go
    source.touch()
    try:
        with target.open("rb"):
            source.replace(target)
    except OSError as error:
        found.append(f"no rename over a file that is open: {error.strerror}")
    if found:
        cure = "builds close files before; do not read a run by other programs while it is built, or the build may stop"
        yield Finding("renames", "note", "; ".join(found), cure)
    (place / "folder").mkdir()
    (place / "folder" / "file").touch()
    try:
        (place / "folder").rename(place / "moved")
    except OSError as error:
        cure = "`synthpipe build --extend` copies the former curated set: it needs time, and space for a second copy"
        yield Finding("renames", "note", f"no rename of a folder: {error.strerror}", cure)
        return
    if not found:
        yield Finding("renames", "fine", "files and folders")


def scratch_locks() -> Finding:
    """Look whether processes can share a private folder in the temporary directory."""
    with private_directory():
        if has_locks(None):
            return Finding("scratch locks", "fine", "processes can share files there")
    found = f"{tempfile.gettempdir()}: flock gives one lock to several processes"
    cure = f"each worker builds a donor bank of its own, and workers of a cluster refuse to; {OTHER_SCRATCH}"
    return Finding("scratch locks", "note", found, cure)


def _speed(place: Location) -> Finding:
    data = np.random.default_rng(0).integers(0, 256, _BLOCK, np.uint8)
    begun = time.perf_counter()
    _write(place / "large", [data] * (_LARGE // _BLOCK))
    written = _LARGE / (time.perf_counter() - begun)
    begun = time.perf_counter()
    with (place / "large").open("rb") as file:
        while file.read(_BLOCK):
            pass
    read = _LARGE / (time.perf_counter() - begun)
    begun = time.perf_counter()
    for number in range(_SMALL_OBJECTS):
        _write(place / f"small-{number}", [data[:1000]])
    small = (time.perf_counter() - begun) / _SMALL_OBJECTS
    found = f"writes {written / 1e6:.0f} MB/s, reads {read / 1e6:.0f} MB/s, {small * 1000:.1f} ms a small object"
    if min(written, read) >= _SLOW and small <= _SLOW_OBJECT:
        return Finding("storage", "fine", found)
    cure = "larger shards (store.shard) make fewer objects; a faster disk, or more workers where it is shared, helps"
    return Finding("storage", "note", found, cure)


def _write(path: Location, blocks: list[np.ndarray[tuple[int], np.dtype[np.uint8]]]) -> None:
    writer = ObjectWriter(path)
    try:
        for block in blocks:
            writer.reserve(block.size)[:] = block
        writer.finish()
        writer.wait()
        writer.appear()
    finally:
        writer.close()


def _remove(place: Location, made: list[Path]) -> None:
    if not isinstance(place, Path):
        with suppress(StoreError), translate_errors(place, "cannot be removed"):
            if place.exists():
                place.fs.rm(place.path, recursive=True)
        return
    shutil.rmtree(place, ignore_errors=True)
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


def _missing(path: Location) -> list[Path]:
    """Return the folders of a path that are not there, the innermost first."""
    return [each for each in (path, *path.parents) if not each.exists()] if isinstance(path, Path) else []


def _existing(path: Path) -> Path:
    """Return the nearest folder above that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
