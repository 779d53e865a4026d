"""Directories on a machine's own disk, in a shared folder such as /tmp, that other users can neither enter nor plant.

Each user has one private folder there. A directory in it is held by a lock file beside it. The system releases the
locks of processes that end, however they end, so a directory whose lock nobody holds is a leftover and may be removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from synthpipe.core.errors import StoreError

OTHER_SCRATCH = "name another place with TMPDIR, or for `synthpipe build` with --scratch"
"""What to do where a directory cannot be used, whichever command needs it."""

CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Flags to open a file with that follow no link and wait for no pipe."""

_OTHER_TMPDIR = "name another place with TMPDIR"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def directory_path(name: str, base: Path | None) -> Path:
    """Return where this user's directory `name` lies on this machine; `base` None is the temporary directory."""
    # a folder may be shared by machines too
    return (base or Path(tempfile.gettempdir())) / f"synthpipe-{os.getuid()}" / f"{socket.gethostname()}-{name}"


def open_lock(directory: Path) -> int:
    """Open the lock file of a directory, and make it and the private folder around it where they are missing.

    Raises
    ------
    StoreError
        The folder or the file is not this user's alone.
    OSError
        It cannot be made.
    """
    folder = directory.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):  # another process removed the empty folder just now
            _check_own(folder, os.lstat(folder), stat.S_IFDIR)
            return _open_own(_lock_file(directory), os.O_RDWR | os.O_CREAT)


def open_own(path: Path) -> int:
    """Open a file for reading that only this user can have written.

    Raises
    ------
    StoreError
        It is a link, no file, another user's, or others may write to it.
    OSError
        It cannot be opened.
    """
    return _open_own(path, os.O_RDONLY)


def keeps_others_out(path: Path, flags: int) -> bool:
    """Whether the lock of a file, which this process holds, is refused to others; some file systems give it to all.

    `flags` are those that the file is opened with: ``os.O_RDONLY`` or ``os.O_RDWR``.
    """
    other = os.open(path, flags | CAREFULLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(other)


def has_locks(base: Path | None) -> bool:
    """Whether locks work in a folder; False where its file system gives one lock to several processes.

    True too where that cannot be tried, so that whoever uses the folder says why.
    """
    with suppress(OSError):
        directory, lock = _make_directory(base)
        try:
            return keeps_others_out(_lock_file(directory), os.O_RDWR)
        finally:
            remove(directory)
            os.close(lock)
    return True


def try_lock(lock: int, kind: int) -> bool:
    """Take an open lock file, shared (`fcntl.LOCK_SH`) or alone (`fcntl.LOCK_EX`), unless that means to wait."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_lock_of(lock: int, directory: Path) -> bool:
    """Whether an open lock file still is the one of a directory, and was not removed or replaced."""
    try:
        return os.path.samestat(os.fstat(lock), os.lstat(_lock_file(directory)))
    except FileNotFoundError:
        return False


def remove(directory: Path) -> None:
    """Remove a directory, then its lock file, which the caller holds alone, and the user's folder if that is empty."""
    shutil.rmtree(directory, ignore_errors=True)
    _lock_file(directory).unlink(missing_ok=True)
    with suppress(OSError):
        directory.parent.rmdir()


def sweep(base: Path | None) -> None:
    """Remove the directories of this user's processes on this machine that were killed; none where locks do nothing."""
    prefix = directory_path("", base)
    with suppress(OSError):
        _check_own(prefix.parent, os.lstat(prefix.parent), stat.S_IFDIR)
        for file in prefix.parent.glob(f"{prefix.name}*.lock"):
            directory = file.with_suffix("")
            with suppress(OSError):  # another process sweeps too
                lock = _open_own(file, os.O_RDWR)
                try:
                    is_held = try_lock(lock, fcntl.LOCK_EX) and is_lock_of(lock, directory)
                    if is_held and keeps_others_out(file, os.O_RDWR):
                        remove(directory)
                finally:
                    os.close(lock)


@contextmanager
def private_directory() -> Iterator[Path]:
    """Make an empty directory of a random name in the temporary directory, and remove it when the block ends.

    Code may be loaded from it: no other user can put something there.

    Raises
    ------
    StoreError
        It cannot be made, or others could replace it.
    """
    parent = Path(tempfile.gettempdir()).resolve()
    try:
        for each in (parent, *parent.parents):
            mode = each.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise StoreError(
                    f"{each}: every user may replace what lies in it; set its sticky bit (chmod +t), or {_OTHER_TMPDIR}"
                )
        sweep(None)
        directory, lock = _make_directory(None)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{parent}: no private directory can be made: {error.strerror}; {_OTHER_TMPDIR}") from error
    try:
        yield directory
    finally:
        remove(directory)
        os.close(lock)


def _make_directory(base: Path | None) -> tuple[Path, int]:
    """Make a directory of a random name; return it and its lock, which is held alone."""
    while True:
        directory = directory_path(secrets.token_hex(8), base)
        lock = open_lock(directory)
        try:
            if try_lock(lock, fcntl.LOCK_EX) and is_lock_of(lock, directory):  # a sweep may have come between
                directory.mkdir(mode=0o700)
                return directory, lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _lock_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.lock")


def _open_own(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | CAREFULLY, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path}: is a link, expected a file of yours; remove it, or {OTHER_SCRATCH}") from error
        raise
    try:
        _check_own(path, os.fstat(descriptor), stat.S_IFREG)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_own(path: Path, found: os.stat_result, kind: int) -> None:
    """Raise `StoreError` unless what was found is a folder or a file that this user alone can write to."""
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_IFMT(found.st_mode) != kind:
        problem = (
            "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder" if kind == stat.S_IFDIR else "is no file"
        )
    elif found.st_uid != os.getuid():
        problem = f"belongs to {_user(found.st_uid)}, not to you"
    elif mode & _OTHERS_WRITE:
        problem = f"has mode {mode:o}, so that other users may write to it"
    else:
        return
    raise StoreError(f"{path}: {problem}; nothing in it is used: have it removed, or {OTHER_SCRATCH}")


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
