"""One process at a time writes into a folder: builds a run, exports, trains.

On a disk the system holds the lock, and lets go of it when the process ends, however it ends. Where it cannot, and
behind a URL, the lock is an object that its holder renews: one that is no longer renewed is nobody's.
"""

from __future__ import annotations

import _thread
import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from synthpipe.errors import StaleRunError, StoreError
from synthpipe.files import Location, told, write_atomically

_NAME = ".lock"
_RENEWED = 10.0  # seconds between two
_SILENCE = 3 * _RENEWED  # after which a lock is nobody's


@contextmanager
def held(run: Location) -> Iterator[None]:
    """Hold a run, or another folder, while the block writes into it.

    Raises
    ------
    StaleRunError
        Another process holds it.
    StoreError
        It cannot be written to.
    """
    path = run / _NAME
    if isinstance(path, Path):
        with told(path, "cannot be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with told(path, "cannot be written"):
                locked = _locked(descriptor, run)
            if locked:
                try:
                    yield
                finally:
                    os.ftruncate(descriptor, 0)
                return
        finally:
            os.close(descriptor)
    with _renewed(path, run):
        yield


def holder_of(run: Location) -> str | None:
    """Return who holds a folder, such as ``process 7 on node3``; None where nobody does, as far as its lock tells."""
    found = _read(run / _NAME)
    return _who(found) if found and not _is_gone(found) else None


def _locked(descriptor: int, run: Location) -> bool:
    """Lock an open file; False where its file system knows no locks."""
    until = time.monotonic() + _SILENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            found = os.pread(descriptor, 1000, 0)
            if not _is_gone(found) or time.monotonic() > until:
                raise _refusal(run, found) from error
            time.sleep(_RENEWED / 100)  # processes that it forked still end
        except OSError:
            return False
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(_holder()).encode(), 0)
    return True


@contextmanager
def _renewed(path: Location, run: Location) -> Iterator[None]:
    holder = _holder()
    if (found := _read(path)) and not _is_gone(found):
        until = time.monotonic() + _SILENCE
        while time.monotonic() < until and (now := _read(path)):
            if now != found:
                raise _refusal(run, now)
            time.sleep(_RENEWED / 10)
    ended = threading.Event()
    lost: list[bytes] = []

    def renew() -> None:
        while not ended.wait(_RENEWED):
            with suppress(StoreError):  # the network may be back the next time
                if not _is(found := _read(path), holder):  # we were silent for too long
                    lost.append(found)
                    # SIGINT may be ignored, as it is behind `nohup`; a handler of SIGTERM is the command line's
                    handled = callable(signal.getsignal(signal.SIGTERM))
                    _thread.interrupt_main(signal.SIGTERM if handled else signal.SIGINT)
                    return
                holder["renewed"] += 1
                write_atomically(path, json.dumps(holder))

    write_atomically(path, json.dumps(holder))
    time.sleep(_RENEWED / 10)
    if not _is(found := _read(path), holder):  # another took it at the same moment
        raise _refusal(run, found)
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt as error:
        if lost:
            raise _refusal(run, lost[0]) from error
        raise
    else:
        if lost:  # the block ended by itself when it was asked to
            raise _refusal(run, lost[0])
    finally:
        ended.set()
        thread.join()
        with suppress(StoreError):  # nobody renews it
            if _is(_read(path), holder):
                path.unlink(missing_ok=True)


def _read(path: Location) -> bytes:
    """Return what a lock holds; nothing where there is none."""
    with told(path, "cannot be read"), suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def _is(found: bytes, holder: dict[str, Any]) -> bool:
    """Whether a lock is this holder's, however often it was renewed."""
    try:
        return bool(json.loads(found)["build"] == holder["build"])
    except (ValueError, KeyError, TypeError):
        return False


def _holder() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid(), "build": uuid4().hex, "renewed": 0}


def _is_gone(found: bytes) -> bool:
    """Whether a lock's holder was a process of this machine that is no more."""
    try:
        holder = json.loads(found)
        if holder["host"] != socket.gethostname():
            return False
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, OSError):
        return False
    return False


def _refusal(run: Location, found: bytes) -> StaleRunError:
    return StaleRunError(f"{run}: is being written by {_who(found)}; wait for it, stop it, or choose another directory")


def _who(found: bytes) -> str:
    try:
        holder = json.loads(found)
        return f"process {holder['process']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
