"""Check the compiled kernels, free disk space, and the speed and features of the file systems."""

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
from synthpipe.doctor.check_result import CheckResult, checked
from synthpipe.files.folders import Kind
from synthpipe.files.locations import Location, translate_errors
from synthpipe.files.lock import held
from synthpipe.files.scratch import ANOTHER_LOCATION, has_locks, private_directory
from synthpipe.storage.direct_io import ObjectWriter

_ENOUGH_SPACE = 20 << 30  # bytes; enough for about 100,000 composites of 224 px
_LARGE, _BLOCK = 256 << 20, 4 << 20  # bytes of the large test object, and of each block that is written
_TRIAL = Kind("trial", ("large",))
_SMALL_OBJECTS = 20
_SLOW, _SLOW_OBJECT = 50e6, 0.1  # bytes per second; seconds per small object


def machine(directory: Location) -> Iterator[CheckResult]:
    """Check this machine for builds in `directory`. All test files are removed."""
    scratch = Path(tempfile.gettempdir())
    yield from checked("kernels", kernels)
    yield from checked(
        "scratch disk",
        lambda: free_space("scratch disk", scratch, "set TMPDIR or --scratch to a folder on a disk with more space"),
    )
    yield from checked("scratch locks", scratch_locks)
    if isinstance(directory, Path):
        cure = "build into a directory on another disk (-o)"
        yield from checked("disk of runs", lambda: free_space("disk of runs", directory, cure))
    yield from checked("storage", lambda: storage(directory))


def kernels() -> CheckResult:
    """Check the folder that keeps compiled kernels for later processes."""
    from synthpipe.compose import kernels as compiled

    folders = {each.stats.cache_path for each in vars(compiled).values() if hasattr(each, "stats")}
    if None in folders:
        found = "no folder can store compiled kernels, so each process compiles them again, for about ten seconds"
        return CheckResult("kernels", "note", found, "set NUMBA_CACHE_DIR to a folder that you can write to")
    return CheckResult("kernels", "fine", f"compiled and stored in {Path(folders.pop())}")


def free_space(what: str, directory: Path, cure: str) -> CheckResult:
    """Check the free space on the disk of `directory`, which need not exist."""
    free = shutil.disk_usage(_existing(directory)).free
    found = f"{free / 2**30:.1f} GiB free at {directory}"
    return CheckResult(what, "fine", found) if free >= _ENOUGH_SPACE else CheckResult(what, "note", found, cure)


def storage(directory: Location) -> Iterator[CheckResult]:
    """Write, read and lock files in the directory of runs, as a build does."""
    folder = directory / f".doctor-{uuid4().hex}"
    made = _missing(folder)
    try:
        with translate_errors(directory, "cannot be used"):
            yield _speed(folder)
            with held(folder, _TRIAL):
                yield locks(folder)
            if isinstance(folder, Path):
                yield from renames(folder)
    except (SynthpipeError, OSError) as error:
        yield CheckResult("storage", "wrong", str(error), "choose a directory that you can write to (-o)")
    finally:
        _remove(folder, made)


def locks(folder: Location) -> CheckResult:
    """Check whether file locks work in a folder. The check locks the file ``large`` twice."""
    if not isinstance(folder, Path):
        return CheckResult("locks", "fine", "a build can hold its run")
    with (folder / "large").open("rb+") as first, (folder / "large").open("rb+") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = "flock gives one lock to several processes"
        except BlockingIOError:
            return CheckResult("locks", "fine", "a build can hold its run")
        except OSError as error:
            found = f"no flock: {error.strerror}"
    cure = (
        "instead, a build renews its file .lock every 10 s; if a build is killed, the next build waits half a minute; "
        "`synthpipe status` knows the holder of a run only from .lock"
    )
    return CheckResult("locks", "note", found, cure)


def renames(folder: Path) -> Iterator[CheckResult]:
    """Check whether open files and folders can be renamed in a folder."""
    source, target = folder / "renamed", folder / "replaced"
    target.touch()
    found = []
    try:
        with source.open("wb"):
            source.replace(target)
    except OSError as error:
        found.append(f"an open file cannot be renamed: {error.strerror}")
        source.replace(target)  # a closed file can be renamed
    source.touch()
    try:
        with target.open("rb"):
            source.replace(target)
    except OSError as error:
        found.append(f"an open file cannot be replaced: {error.strerror}")
    if found:
        cure = "builds close files first; do not read a run with other programs during its build, or the build may stop"
        yield CheckResult("renames", "note", "; ".join(found), cure)
    (folder / "folder").mkdir()
    (folder / "folder" / "file").touch()
    try:
        (folder / "folder").rename(folder / "moved")
    except OSError as error:
        cure = "`synthpipe build --extend` copies the former curated set, which needs time and space for a second copy"
        yield CheckResult("renames", "note", f"a folder cannot be renamed: {error.strerror}", cure)
        return
    if not found:
        yield CheckResult("renames", "fine", "files and folders")


def scratch_locks() -> CheckResult:
    """Check whether processes can share a private folder in the temporary directory."""
    with private_directory():
        if has_locks(None):
            return CheckResult("scratch locks", "fine", "processes can share files there")
    found = f"{tempfile.gettempdir()}: flock gives one lock to several processes"
    cure = f"each worker builds its own donor bank, and workers of a cluster stop; {ANOTHER_LOCATION}"
    return CheckResult("scratch locks", "note", found, cure)


def _speed(folder: Location) -> CheckResult:
    data = np.random.default_rng(0).integers(0, 256, _BLOCK, np.uint8)
    begun = time.perf_counter()
    _write(folder / "large", [data] * (_LARGE // _BLOCK))
    written = _LARGE / (time.perf_counter() - begun)
    begun = time.perf_counter()
    with (folder / "large").open("rb") as file:
        while file.read(_BLOCK):
            pass
    read = _LARGE / (time.perf_counter() - begun)
    begun = time.perf_counter()
    for number in range(_SMALL_OBJECTS):
        _write(folder / f"small-{number}", [data[:1000]])
    small = (time.perf_counter() - begun) / _SMALL_OBJECTS
    found = f"writes {written / 1e6:.0f} MB/s, reads {read / 1e6:.0f} MB/s, {small * 1000:.1f} ms per small object"
    if min(written, read) >= _SLOW and small <= _SLOW_OBJECT:
        return CheckResult("storage", "fine", found)
    cure = "use larger shards (store.shard), a faster disk, or more workers on a shared disk"
    return CheckResult("storage", "note", found, cure)


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


def _remove(folder: Location, made: list[Path]) -> None:
    if not isinstance(folder, Path):
        with suppress(StoreError), translate_errors(folder, "cannot be removed"):
            if folder.exists():
                folder.fs.rm(folder.path, recursive=True)
        return
    shutil.rmtree(folder, ignore_errors=True)
    for each in made:
        with suppress(OSError):
            each.rmdir()


def _missing(path: Location) -> list[Path]:
    """Return those of a path and the folders above it that do not exist, innermost first."""
    return [each for each in (path, *path.parents) if not each.exists()] if isinstance(path, Path) else []


def _existing(path: Path) -> Path:
    """Return a path if it exists, else the nearest existing folder above it."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
