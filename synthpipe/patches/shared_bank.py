"""The donor bank of a node: built once by whichever process comes first, held by all that use it, removed by the last.

Processes of a node meet at a lock file. Who builds or removes the bank holds the lock alone; who uses the bank shares
it. The bank lies where other users can neither read nor write (`synthpipe.files.scratch`).
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from synthpipe.config.fields import digest
from synthpipe.core.errors import StoreError
from synthpipe.files.scratch import (
    ANOTHER_PLACE,
    directory_path,
    has_locks,
    is_lock_of,
    open_lock,
    remove,
    sweep,
    try_lock,
)
from synthpipe.patches.bank import is_complete

_LOGGER = logging.getLogger("synthpipe")
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_OF_SILENCE = 5.0


@dataclass(frozen=True, slots=True)
class BankLocation:
    """Where the bank of a build lies on whichever node asks.

    Attributes
    ----------
    name : str
        Tells banks of different contents apart; see `name_bank`.
    scratch : Path or None
        Folder on every node's own disk; None is the node's temporary directory.
    shared : bool
        Whether the processes of a node share one bank; otherwise each has a bank of its own.
    """

    name: str
    scratch: Path | None = None
    shared: bool = True

    @property
    def directory(self) -> Path:
        own = "" if self.shared else f"-{os.getpid()}"
        return directory_path(f"bank-{self.name}{own}", self.scratch)


def name_bank(*made_of: object) -> str:
    """Return a name that follows from all that decides a bank's bytes."""
    return digest(made_of)[:16]


class HeldBank:
    """A bank that stays where it is until this process, and every other of the node, released it or ended."""

    def __init__(self, place: BankLocation, lock: int) -> None:
        self._place, self._lock = place, lock

    def release(self) -> None:
        """Let go; the last process of the node removes the bank."""
        if try_lock(self._lock, fcntl.LOCK_EX):
            remove(self._place.directory)
        os.close(self._lock)


def hold_bank(place: BankLocation, build: Callable[[Path], None]) -> HeldBank:
    """Hold the node's bank; build it first where it is not there, or wait while another process does.

    A warning is logged if that process stops making progress.

    Parameters
    ----------
    place : BankLocation
        Which bank, and where.
    build : callable
        Makes the bank in the empty directory that it is given; what it raises is raised, and the directory removed.

    Raises
    ------
    StoreError
        There can be no bank at this place.
    """
    directory = place.directory
    wait = _Wait(directory)
    if place.shared and not has_locks(place.scratch):
        raise StoreError(
            f"{directory.parent}: its file system gives one lock to several processes, so they cannot share a donor "
            f"bank there; {ANOTHER_PLACE}"
        )
    try:
        sweep(place.scratch)
        while True:
            lock = open_lock(directory)
            try:
                if _hold(lock, directory, build):
                    return HeldBank(place, lock)
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            wait.moment()
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{directory}: there can be no donor bank: {error.strerror}; {ANOTHER_PLACE}") from error


class _Wait:
    """A wait for the process that builds a bank; a warning tells if its files stop growing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: list[tuple[str, int]] = []
        self._since, self._warned = time.monotonic(), False

    def moment(self) -> None:
        """Wait a moment."""
        seen: list[tuple[str, int]] = []
        with suppress(FileNotFoundError):
            seen = sorted((each.name, each.stat().st_size) for each in os.scandir(self._directory))
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        elif not self._warned and time.monotonic() - self._since > _SECONDS_OF_SILENCE:
            self._warned = True
            _LOGGER.warning(
                "waiting for the donor bank %s: another process of yours builds it, and has written nothing for "
                "%.0f s; end that process if it hangs, or %s",
                *(self._directory, _SECONDS_OF_SILENCE, ANOTHER_PLACE),
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _hold(lock: int, directory: Path, build: Callable[[Path], None]) -> bool:
    """Try to end with a shared lock on a complete bank."""
    if not is_complete(directory):
        if not (try_lock(lock, fcntl.LOCK_EX) and is_lock_of(lock, directory)):
            return False  # another builds, or removed the lock file just now
        if not is_complete(directory):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
            try:
                build(directory)
            except BaseException:
                remove(directory)
                raise
    # another may have removed the bank before this, or while the lock changed
    return try_lock(lock, fcntl.LOCK_SH) and is_lock_of(lock, directory) and is_complete(directory)
