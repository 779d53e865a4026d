"""Private directories in a shared folder such as /tmp, which other users cannot read, change or fake.

Each user has one private folder in the shared folder. Each directory in the private folder has a lock file beside it.
The operating system releases the lock when the process that holds it ends, even if the process is killed. So a
directory with a free lock is a leftover, which may be removed.
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

ANOTHER_LOCATION = "choose another folder with TMPDIR, or for `synthpipe build` with --scratch"
"""Advice in messages about a scratch directory that cannot be used."""

CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Flags for `os.open` that refuse links and do not wait for pipes."""

_OTHER_TMPDIR = "choose another folder with TMPDIR"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def directory_path(name: str, base: Path | None) -> Path:
    """Return the path of this user's directory `name`, in `base` (default: this machine's temporary directory)."""
    # several machines may share the folder
    return (base or Path(tempfile.gettempdir())) / f"synthpipe-{os.getuid()}" / f"{socket.gethostname()}-{name}"


def open_lock(directory: Path) -> int:
    """Open the lock file of a directory. If the file or the user's private folder is missing, create it.

    Raises
    ------
    StoreError
        Other users own the folder or the file, or can write to it.
    OSError
        The folder or the file cannot be created.
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
    """Open a file for reading, after checking that only this user can have written it.

    Raises
    ------
    StoreError
        The file is a link or not a regular file, or other users own it or can write to it.
    OSError
        The file cannot be opened.
    """
    return _open_own(path, os.O_RDONLY)


def keeps_others_out(path: Path, flags: int) -> bool:
    """Return whether this process's lock on a file really excludes others. Some file systems ignore locks.

    The function opens the file again with `flags`: ``os.O_RDONLY`` or ``os.O_RDWR``.
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
    """Return whether locks work in a folder. Locks do not work if several processes can get the same lock.

    If the test itself fails, the result is True, and the next use of the folder reports the reason.
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
    """Lock an open file: shared (`fcntl.LOCK_SH`) or exclusive (`fcntl.LOCK_EX`). Return False instead of waiting."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_lock_of(lock: int, directory: Path) -> bool:
    """Return True if an open file is still the lock file of a directory, neither removed nor replaced."""
    try:
        return os.path.samestat(os.fstat(lock), os.lstat(_lock_file(directory)))
    except FileNotFoundError:
        return False


def remove(directory: Path) -> None:
    """Remove a directory, its lock file, and the user's folder if empty. The caller must hold the lock."""
    shutil.rmtree(directory, ignore_errors=True)
    _lock_file(directory).unlink(missing_ok=True)
    with suppress(OSError):
        directory.parent.rmdir()


def sweep(base: Path | None) -> None:
    """Remove directories that this user's killed processes left on this machine, if locks work there."""
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
    """Make an empty directory with a random name in the temporary directory, and remove it when the block ends.

    No other user can write to the directory, so code can be loaded from it.

    Raises
    ------
    StoreError
        The directory cannot be made, or other users could replace it.
    """
    parent = Path(tempfile.gettempdir()).resolve()
    try:
        for each in (parent, *parent.parents):
            mode = each.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise StoreError(
                    f"{each}: every user can replace the files in it; set its sticky bit (chmod +t), or {_OTHER_TMPDIR}"
                )
        sweep(None)
        directory, lock = _make_directory(None)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{parent}: cannot make a private directory: {error.strerror}; {_OTHER_TMPDIR}") from error
    try:
        yield directory
    finally:
        remove(directory)
        os.close(lock)


def _make_directory(base: Path | None) -> tuple[Path, int]:
    """Make a directory with a random name. Return its path and its lock, which is held exclusively."""
    while True:
        directory = directory_path(secrets.token_hex(8), base)
        lock = open_lock(directory)
        try:
            if try_lock(lock, fcntl.LOCK_EX) and is_lock_of(lock, directory):  # a sweep may have removed the file
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
            raise StoreError(
                f"{path}: is a link, expected a file of yours; remove it, or {ANOTHER_LOCATION}"
            ) from error
        raise
    try:
        _check_own(path, os.fstat(descriptor), stat.S_IFREG)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_own(path: Path, found: os.stat_result, kind: int) -> None:
    """Raise `StoreError` if `found` is not of the file type `kind`, or if other users own it or can write to it."""
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_IFMT(found.st_mode) != kind:
        problem = (
            "is a link"
            if stat.S_ISLNK(found.st_mode)
            else "is not a folder"
            if kind == stat.S_IFDIR
            else "is not a file"
        )
    elif found.st_uid != os.getuid():
        problem = f"belongs to {_user(found.st_uid)}, not to you"
    elif mode & _OTHERS_WRITE:
        problem = f"has mode {mode:o}, so other users can write to it"
    else:
        return
    raise StoreError(f"{path}: {problem}; synthpipe does not use it; ask its owner to remove it, or {ANOTHER_LOCATION}")


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
