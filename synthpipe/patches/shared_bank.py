"""Share one donor bank among the processes of a machine.

The first process builds the bank, all processes use it, and the last one removes it. Each bank has a lock file. A
process that builds or removes the bank locks this file exclusively. Processes that use the bank share the lock. Other
users can neither read nor write the folder of the bank (`synthpipe.files.scratch`).
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
    ANOTHER_LOCATION,
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
    """Location of the bank of a build on every node.

    Attributes
    ----------
    name : str
        Name of the bank (`name_bank`). Banks with different contents have different names.
    scratch : Path or None
        Folder on every node's own disk; None for the node's temporary directory.
    shared : bool
        Whether the processes of a node share one bank. Otherwise, each process has its own bank.
    """

    name: str
    scratch: Path | None = None
    shared: bool = True

    @property
    def directory(self) -> Path:
        own = "" if self.shared else f"-{os.getpid()}"
        return directory_path(f"bank-{self.name}{own}", self.scratch)


def name_bank(*made_of: object) -> str:
    """Return the name of a bank. `made_of` must have all values that decide the bank's bytes."""
    return digest(made_of)[:16]


class HeldBank:
    """A bank that this process uses. The bank exists until all processes that use it have released it or ended."""

    def __init__(self, location: BankLocation, lock: int) -> None:
        self._location, self._lock = location, lock

    def release(self) -> None:
        """Release the bank. The last process of the node that uses the bank removes it."""
        if try_lock(self._lock, fcntl.LOCK_EX):
            remove(self._location.directory)
        os.close(self._lock)


def hold_bank(location: BankLocation, build: Callable[[Path], None]) -> HeldBank:
    """Hold the node's bank. If there is no bank, build it, or wait while another process builds it.

    A warning is logged if the other process makes no progress.

    Parameters
    ----------
    location : BankLocation
        Name and folder of the bank.
    build : callable
        Builds the bank in the empty directory that it receives. If it raises, the directory is removed, and the
        exception is raised again.

    Raises
    ------
    StoreError
        The bank cannot be built or held at this location.
    """
    directory = location.directory
    wait = _Wait(directory)
    if location.shared and not has_locks(location.scratch):
        raise StoreError(
            f"{directory.parent}: its file system gives one lock to several processes, so they cannot share a donor "
            f"bank there; {ANOTHER_LOCATION}"
        )
    try:
        sweep(location.scratch)
        while True:
            lock = open_lock(directory)
            try:
                if _hold(lock, directory, build):
                    return HeldBank(location, lock)
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            wait.moment()
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"{directory}: the donor bank cannot be created: {error.strerror}; {ANOTHER_LOCATION}"
        ) from error


class _Wait:
    """Wait for the process that builds a bank. Log a warning if the files of the bank stop growing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: list[tuple[str, int]] = []
        self._since, self._warned = time.monotonic(), False

    def moment(self) -> None:
        """Wait a moment. Log a warning once if no file has grown for some seconds."""
        sizes: list[tuple[str, int]] = []
        with suppress(FileNotFoundError):
            sizes = sorted((each.name, each.stat().st_size) for each in os.scandir(self._directory))
        if sizes != self._sizes:
            self._sizes, self._since = sizes, time.monotonic()
        elif not self._warned and time.monotonic() - self._since > _SECONDS_OF_SILENCE:
            self._warned = True
            _LOGGER.warning(
                "waiting for the donor bank %s: another process of yours is building it, but has written nothing for "
                "%.0f s; end that process if it hangs, or %s",
                *(self._directory, _SECONDS_OF_SILENCE, ANOTHER_LOCATION),
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _hold(lock: int, directory: Path, build: Callable[[Path], None]) -> bool:
    """Try to get a shared lock on a complete bank; build the bank if needed. Return True if this succeeds."""
    if not is_complete(directory):
        if not (try_lock(lock, fcntl.LOCK_EX) and is_lock_of(lock, directory)):
            return False  # another process builds the bank, or has just removed the lock file
        if not is_complete(directory):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
            try:
                build(directory)
            except BaseException:
                remove(directory)
                raise
    # another process may have removed the bank, even while this lock changed from exclusive to shared
    return try_lock(lock, fcntl.LOCK_SH) and is_lock_of(lock, directory) and is_complete(directory)
