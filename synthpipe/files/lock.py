"""Locks that let only one process at a time write into a folder: a build, an export, a training.

On a disk, the operating system holds the lock. The lock is released when the process ends, even if the process is
killed. On file systems without locks, and behind URLs, the lock is a file that its holder renews. A lock that is no
longer renewed is free.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from synthpipe.core.display import printable
from synthpipe.core.errors import StaleRunError, StoreError
from synthpipe.files.folders import LARGEST_LOCK, LOCK, Kind, claim, is_empty, is_marked, parse_lock, read_lock
from synthpipe.files.locations import Location, translate_errors
from synthpipe.files.scratch import CAREFULLY, keeps_others_out
from synthpipe.files.writing import write_atomically

_RENEWED = 10.0  # seconds between two renewals
_SILENCE = 3 * _RENEWED  # seconds without a renewal after which a lock is free


@contextmanager
def held(folder: Location, kind: Kind) -> Iterator[Location]:
    """Lock a folder while the block writes into it, and yield the folder with links resolved.

    The lock is written first and removed at the end. But if the folder has files and no marker at the end, the lock
    stays and names the folder's kind. A folder that was made for the block is removed if it is still empty.

    Raises
    ------
    StaleRunError
        Another process holds the folder.
    StoreError
        The folder cannot be written to, does not belong to synthpipe, or contains a lock that is not synthpipe's.
    """
    folder = claim(folder, kind)
    with ExitStack() as stack:
        if isinstance(folder, Path):
            stack.callback(_remove_empty, [each for each in (folder, *folder.parents) if not each.exists()])
            descriptor = _locked(folder, kind)
            if descriptor is not None:
                stack.callback(os.close, descriptor)
                stack.callback(_let_go, folder, kind)
                yield folder
                return
        with _renewed(folder, kind):
            yield folder


def holder_of(folder: Location) -> str | None:
    """Return a text that names the holder of a folder, such as ``process 7 on node3``; None if there is no holder.

    If the file system has no locks, the text ends with ``as its lock says``, because the holder may have been killed.
    """
    path, source = folder / LOCK, ", as its lock says"
    if isinstance(path, Path):
        with suppress(OSError):  # the lock is missing, or the file system has no locks
            descriptor = os.open(path, os.O_RDONLY | CAREFULLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if keeps_others_out(path, os.O_RDONLY):
                    return None
            except BlockingIOError:
                source = ""
            finally:
                os.close(descriptor)
    found = read_lock(folder)
    return f"{_who(found)}{source}" if found and not _is_gone(found) else None


def holds(folder: Location) -> bool:
    """Return whether this process still holds a folder. Another process can take a lock that is not renewed."""
    holder = parse_lock(read_lock(folder)) or {}
    return bool(holder.get("host") == socket.gethostname() and holder.get("process") == os.getpid())


def _locked(folder: Path, kind: Kind) -> int | None:
    """Lock a folder and return its open lock file, or None if locks do not work on its file system."""
    path = folder / LOCK
    while True:
        with translate_errors(path, "cannot be written"):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _open(path)
            try:
                if not _flock(descriptor, folder):
                    os.close(descriptor)
                    return None
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), path.lstat()):
                        if not keeps_others_out(path, os.O_RDWR):
                            os.close(descriptor)
                            return None
                        _sign(descriptor, folder, kind)
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the previous holder has just removed this file


def _sign(descriptor: int, folder: Path, kind: Kind) -> None:
    """Record in a lock that this process is the holder."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_holder(kind)).encode(), 0)
    except OSError:  # the disk is full
        _let_go(folder, kind)
        raise


def _open(path: Path) -> int:
    """Open or create a lock file for writing. Any other file is refused, and its content is not changed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | CAREFULLY, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _foreign(path, "is a link") from error
        raise
    try:
        found, folder = os.fstat(descriptor), path.parent.stat()
        if not stat.S_ISREG(found.st_mode):
            raise _foreign(path, "is not a file")
        if found.st_nlink > 1:
            raise _foreign(path, "is a file with several names (hard links)")
        if found.st_uid not in (os.geteuid(), folder.st_uid):
            raise _foreign(path, "belongs to another user")
        if parse_lock(os.pread(descriptor, LARGEST_LOCK + 1, 0)) is None:
            raise _foreign(path, "has other content")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _foreign(path: Location, found: str) -> StoreError:
    return StoreError(f"{path}: {found}, expected a lock of synthpipe; remove it, or choose another folder")


def _flock(descriptor: int, folder: Path) -> bool:
    """Lock an open file. Return False if its file system has no locks."""
    until = time.monotonic() + _SILENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            found = os.pread(descriptor, LARGEST_LOCK, 0)
            if not _is_gone(found) or time.monotonic() > until:
                raise _refusal(folder, found) from error
            time.sleep(_RENEWED / 100)  # forked processes of the previous holder are still ending
        except OSError:
            return False


def _let_go(folder: Location, kind: Kind) -> None:
    """Release a lock. The file is removed, or stays to name the kind of a folder that has files but no marker."""
    with suppress(OSError):  # the lock of an ended process also names the kind
        if is_marked(folder, kind) or is_empty(folder):
            (folder / LOCK).unlink(missing_ok=True)
        else:
            write_atomically(folder / LOCK, json.dumps({"of": kind.name}))


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove the empty ones of these folders. `folders` must list the innermost folder first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _renewed(folder: Location, kind: Kind) -> Iterator[None]:
    path, holder = folder / LOCK, _holder(kind)
    found = read_lock(folder)
    if parse_lock(found) is None:
        raise _foreign(path, "has other content")
    if found and not _is_gone(found):
        until = time.monotonic() + _SILENCE
        while time.monotonic() < until and (now := read_lock(folder)):
            if now != found:
                raise _refusal(folder, now)
            time.sleep(_RENEWED / 10)
    ended = threading.Event()
    lost: list[bytes] = []

    def renew() -> None:
        while not ended.wait(_RENEWED):
            with suppress(StoreError):  # the network may be back the next time
                if not _is(found := read_lock(folder), holder):  # another process took it: our renewals came too late
                    lost.append(found)
                    # `nohup` and shells may ignore SIGINT; only the command line sets a handler for SIGTERM
                    handled = callable(signal.getsignal(signal.SIGTERM))
                    _thread.interrupt_main(signal.SIGTERM if handled else signal.SIGINT)
                    return
                holder["renewed"] += 1
                write_atomically(path, json.dumps(holder))

    write_atomically(path, json.dumps(holder))
    time.sleep(_RENEWED / 10)
    if not _is(found := read_lock(folder), holder):  # another process took it at the same moment
        raise _refusal(folder, found)
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt as error:
        if lost:
            raise _refusal(folder, lost[0]) from error
        raise
    else:
        if lost:  # the block ended normally after the interruption
            raise _refusal(folder, lost[0])
    finally:
        ended.set()
        thread.join()
        with suppress(StoreError):  # a lock that stays becomes free, because it is not renewed
            if _is(read_lock(folder), holder):
                _let_go(folder, kind)


def _is(found: bytes, holder: dict[str, Any]) -> bool:
    """Return whether a lock belongs to this holder. The number of renewals does not matter."""
    return bool((parse_lock(found) or {}).get("build") == holder["build"])


def _holder(kind: Kind) -> dict[str, Any]:
    return {"of": kind.name, "host": socket.gethostname(), "process": os.getpid(), "build": uuid4().hex, "renewed": 0}


def _is_gone(found: bytes) -> bool:
    """Return True if a lock names no process, or names a process of this machine that has ended."""
    try:
        holder = parse_lock(found) or {}
        if "host" in holder:
            if holder["host"] != socket.gethostname():
                return False
            os.kill(holder["process"], 0)
            return False
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, OverflowError, OSError):
        return False
    return True


def _refusal(folder: Location, found: bytes) -> StaleRunError:
    return StaleRunError(
        f"{folder}: is being written by {_who(found)}; wait for it, stop it, or choose another directory"
    )


def _who(found: bytes) -> str:
    holder = parse_lock(found) or {}
    if not {"process", "host"} <= holder.keys():
        return "another process"
    return printable(f"process {holder['process']} on {holder['host']}")
