"""The donor bank of a node: built once by whichever process comes first, held by all that use it, removed by the last.

Processes of a node meet at a lock file. Who builds or removes the bank holds the lock alone; who uses the bank shares
it. The system takes the locks of processes that end, however they end, so a bank whose lock nobody holds is rubbish.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from synthpipe.config import digest
from synthpipe.errors import StoreError
from synthpipe.patches.bank import ANOTHER_PLACE, is_complete

_SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True, slots=True)
class BankPlace:
    """Where the bank of a build lies on whichever node asks.

    Attributes
    ----------
    name : str
        Tells banks of different contents apart; see `name_bank`.
    scratch : Path or None
        Folder on every node's own disk; None is the node's temporary directory.
    """

    name: str
    scratch: Path | None = None

    @property
    def directory(self) -> Path:
        return self._base / f"{_prefix()}{self.name}"

    @property
    def _base(self) -> Path:
        return self.scratch or Path(tempfile.gettempdir())


def name_bank(*made_of: object) -> str:
    """Return a name that follows from all that decides a bank's bytes."""
    return digest(made_of)[:16]


class HeldBank:
    """A bank that stays where it is until this process, and every other of the node, released it or ended."""

    def __init__(self, place: BankPlace, lock: int) -> None:
        self._place, self._lock = place, lock

    def release(self) -> None:
        """Let go; the last process of the node removes the bank."""
        if _try_lock(self._lock, fcntl.LOCK_EX):
            _remove(self._place.directory)
        os.close(self._lock)


def hold_bank(place: BankPlace, build: Callable[[Path], None]) -> HeldBank:
    """Hold the node's bank; build it first where it is not there, or wait while another process does.

    Parameters
    ----------
    place : BankPlace
        Which bank, and where.
    build : callable
        Makes the bank in the empty directory that it is given; what it raises is raised, and the directory removed.

    Raises
    ------
    StoreError
        There can be no bank at this place.
    """
    directory = place.directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        sweep_banks(place)
        while True:
            lock = os.open(_lock_file(directory), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if _hold(lock, directory, build):
                    return HeldBank(place, lock)
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{directory}: there can be no donor bank: {error.strerror}; {ANOTHER_PLACE}") from error


def sweep_banks(place: BankPlace) -> None:
    """Remove what killed processes of this user left beside, and at, `place`."""
    for file in place.directory.parent.glob(f"{_prefix()}*.lock"):
        with suppress(OSError):  # someone else sweeps too
            lock = os.open(file, os.O_RDWR)
            try:
                if _try_lock(lock, fcntl.LOCK_EX) and _is_at(lock, file):
                    _remove(file.with_suffix(""))
            finally:
                os.close(lock)


def _hold(lock: int, directory: Path, build: Callable[[Path], None]) -> bool:
    """Try to end with a shared lock on a complete bank."""
    file = _lock_file(directory)
    if not is_complete(directory):
        if not (_try_lock(lock, fcntl.LOCK_EX) and _is_at(lock, file)):
            return False  # another builds, or removed the file just now
        if not is_complete(directory):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
            try:
                build(directory)
            except BaseException:
                _remove(directory)
                raise
    # another may have removed the bank before this, or while the lock changed
    return _try_lock(lock, fcntl.LOCK_SH) and _is_at(lock, file) and is_complete(directory)


def _remove(directory: Path) -> None:
    """Remove a bank, and then its lock file, which the caller holds alone."""
    shutil.rmtree(directory, ignore_errors=True)
    _lock_file(directory).unlink(missing_ok=True)


def _lock_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.lock")


def _try_lock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(lock: int, file: Path) -> bool:
    """Whether an open lock file still is the one of that name."""
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except FileNotFoundError:
        return False


def _prefix() -> str:
    """Begin a name that no other node, and no other user of the same folder, gives."""
    return f"synthpipe-{socket.gethostname()}-{os.getuid()}-"
