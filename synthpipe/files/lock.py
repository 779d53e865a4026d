"""Locks that let only one process at a time write into a folder: a build, an export, a training.

On a disk the system holds the lock, and lets go of it when the process ends, however it ends. Where it cannot, and
behind a URL, the lock is an object that its holder renews: one that is no longer renewed is nobody's.
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

_RENEWED = 10.0  # seconds between two
_SILENCE = 3 * _RENEWED  # after which a lock is nobody's


@contextmanager
def held(folder: Location, kind: Kind) -> Iterator[Location]:
    """Hold a folder while the block writes into it; yield the folder, a link to it being resolved.

    Its lock is written first. It stays only where nothing else says yet whose the folder's files are. A folder that was
    made for the block and stays empty is removed.

    Raises
    ------
    StaleRunError
        Another process holds it.
    StoreError
        It cannot be written to, is not synthpipe's to write into, or its lock is no lock of synthpipe.
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
    """Return who holds a folder, such as ``process 7 on node3``; None where nobody does, as far as its lock tells.

    Where the system does not tell whether a lock is held, the answer ends with ``as its lock says``: the process may
    have been killed.
    """
    path, source = folder / LOCK, ", as its lock says"
    if isinstance(path, Path):
        with suppress(OSError):  # there is none, or the file system has no locks
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
    """Whether this process still holds a folder; another takes a lock that was not renewed for long."""
    holder = parse_lock(read_lock(folder)) or {}
    return bool(holder.get("host") == socket.gethostname() and holder.get("process") == os.getpid())


def _locked(folder: Path, kind: Kind) -> int | None:
    """Lock a folder, and return its lock as an open file; None where its file system has no locks that work."""
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
            os.close(descriptor)  # its last holder has removed it meanwhile


def _sign(descriptor: int, folder: Path, kind: Kind) -> None:
    """Write into a lock who holds it."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_holder(kind)).encode(), 0)
    except OSError:  # the disk is full
        _let_go(folder, kind)
        raise


def _open(path: Path) -> int:
    """Open a lock for writing, or make it; what is no lock of synthpipe is refused, and keeps its bytes."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | CAREFULLY, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _foreign(path, "is a link") from error
        raise
    try:
        found, folder = os.fstat(descriptor), path.parent.stat()
        if not stat.S_ISREG(found.st_mode):
            raise _foreign(path, "is no file")
        if found.st_nlink > 1:
            raise _foreign(path, "is a file that has other names too")
        if found.st_uid not in (os.geteuid(), folder.st_uid):
            raise _foreign(path, "belongs to another user")
        if parse_lock(os.pread(descriptor, LARGEST_LOCK + 1, 0)) is None:
            raise _foreign(path, "holds something else")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _foreign(path: Location, found: str) -> StoreError:
    return StoreError(f"{path}: {found}, expected a lock of synthpipe; remove it, or choose another folder")


def _flock(descriptor: int, folder: Path) -> bool:
    """Lock an open file; False where its file system knows no locks."""
    until = time.monotonic() + _SILENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            found = os.pread(descriptor, LARGEST_LOCK, 0)
            if not _is_gone(found) or time.monotonic() > until:
                raise _refusal(folder, found) from error
            time.sleep(_RENEWED / 100)  # processes that it forked still end
        except OSError:
            return False


def _let_go(folder: Location, kind: Kind) -> None:
    """Remove a lock, or leave it as the mark of a folder that has no marker yet."""
    with suppress(OSError):  # a lock of a process that has ended is a mark too
        if is_marked(folder, kind) or is_empty(folder):
            (folder / LOCK).unlink(missing_ok=True)
        else:
            write_atomically(folder / LOCK, json.dumps({"of": kind.name}))


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that were made and hold nothing, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _renewed(folder: Location, kind: Kind) -> Iterator[None]:
    path, holder = folder / LOCK, _holder(kind)
    found = read_lock(folder)
    if parse_lock(found) is None:
        raise _foreign(path, "holds something else")
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
                if not _is(found := read_lock(folder), holder):  # we were silent for too long
                    lost.append(found)
                    # SIGINT may be ignored, as it is behind `nohup`; a handler of SIGTERM is the command line's
                    handled = callable(signal.getsignal(signal.SIGTERM))
                    _thread.interrupt_main(signal.SIGTERM if handled else signal.SIGINT)
                    return
                holder["renewed"] += 1
                write_atomically(path, json.dumps(holder))

    write_atomically(path, json.dumps(holder))
    time.sleep(_RENEWED / 10)
    if not _is(found := read_lock(folder), holder):  # another took it at the same moment
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
        if lost:  # the block ended by itself when it was asked to
            raise _refusal(folder, lost[0])
    finally:
        ended.set()
        thread.join()
        with suppress(StoreError):  # nobody renews it
            if _is(read_lock(folder), holder):
                _let_go(folder, kind)


def _is(found: bytes, holder: dict[str, Any]) -> bool:
    """Whether a lock is this holder's, however often it was renewed."""
    return bool((parse_lock(found) or {}).get("build") == holder["build"])


def _holder(kind: Kind) -> dict[str, Any]:
    return {"of": kind.name, "host": socket.gethostname(), "process": os.getpid(), "build": uuid4().hex, "renewed": 0}


def _is_gone(found: bytes) -> bool:
    """Whether a lock names nobody, or a process of this machine that is no more."""
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
