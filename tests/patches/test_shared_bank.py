from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from synthpipe.core.errors import CatalogError, StoreError
from synthpipe.files.scratch import sweep
from synthpipe.patches import shared_bank as node_bank
from synthpipe.patches.bank import build_bank, is_complete
from synthpipe.patches.shared_bank import BankLocation, hold_bank, name_bank

SPAWN = multiprocessing.get_context("spawn")


def build(directory: Path) -> None:
    """Slowly build a bank without patches, and create a mark file for each build."""
    (directory.parents[1] / f"built-{os.getpid()}").touch()
    time.sleep(0.3)
    build_bank(directory, [], None, 3, lambda: None, 1)


def build_forever(directory: Path) -> None:
    (directory / "half").touch()
    time.sleep(60)


def plant_bank(location: BankLocation, user: int) -> None:
    """As another user, create a bank and its lock with the names of our own, writable for all users."""
    os.umask(0)
    os.setuid(user)
    directory = location.directory.parent.with_name("synthpipe-0") / location.directory.name
    directory.mkdir(parents=True)
    build_bank(directory, [], None, 3, lambda: None, 1)
    directory.with_name(f"{directory.name}.lock").touch()


def hold_until(location: BankLocation, builder: Callable[[Path], None], held: Event, leave: Event) -> None:
    bank = hold_bank(location, builder)
    held.set()
    leave.wait(30)
    assert is_complete(location.directory)
    bank.release()


def test_a_bank_is_built_once_a_node_and_goes_with_its_last_process(tmp_path: Path) -> None:
    location, leave = BankLocation("bank", tmp_path), [SPAWN.Event() for _ in range(4)]
    held = [SPAWN.Event() for _ in leave]
    processes = [
        SPAWN.Process(target=hold_until, args=(location, build, *pair)) for pair in zip(held, leave, strict=True)
    ]
    for process in processes:
        process.start()
    assert all(event.wait(30) for event in held)
    assert len(list(tmp_path.glob("built-*"))) == 1
    for number, process in enumerate(processes):
        assert is_complete(location.directory)
        sweep(location.scratch)  # removes nothing that is in use
        leave[number].set()
        process.join(30)
        assert process.exitcode == 0
    assert not list(tmp_path.glob("synthpipe-*"))


@pytest.mark.parametrize("builder", [build, build_forever])
def test_what_a_killed_process_leaves_is_swept(tmp_path: Path, builder: Callable[[Path], None]) -> None:
    location, held, leave = BankLocation("old", tmp_path), SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=hold_until, args=(location, builder, held, leave))
    process.start()
    deadline = time.monotonic() + 30
    while not (held.is_set() or (location.directory / "half").exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert location.directory.exists()
    other = BankLocation("new", tmp_path)
    bank = hold_bank(other, build)
    assert other.directory.exists() and not location.directory.exists()
    bank.release()
    assert not list(tmp_path.glob("synthpipe-*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_a_bank_that_another_user_planted_is_not_used() -> None:
    with tempfile.TemporaryDirectory() as shared:  # that of pytest is closed to others
        Path(shared).chmod(0o1777)
        check_planted_bank(BankLocation("bank", Path(shared)))


def check_planted_bank(location: BankLocation) -> None:
    process = SPAWN.Process(target=plant_bank, args=(location, 12345))
    process.start()
    process.join()
    assert process.exitcode == 0 and is_complete(location.directory)
    with pytest.raises(StoreError, match=r"synthpipe-0: belongs to user 12345, not to you.*TMPDIR.*--scratch"):
        hold_bank(location, build)
    assert is_complete(location.directory)


def test_a_builder_that_hangs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(node_bank, "_SECONDS_OF_SILENCE", 0.3)
    location, held, leave = BankLocation("bank", tmp_path), SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=hold_until, args=(location, build_forever, held, leave))
    process.start()
    deadline = time.monotonic() + 30
    while not (location.directory / "half").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    caplog.set_level(logging.WARNING)
    waiting = threading.Thread(target=lambda: hold_bank(location, build).release())
    waiting.start()
    while not caplog.messages and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    waiting.join(30)
    (message,) = caplog.messages
    assert f"waiting for the donor bank {location.directory}: another process of yours" in message
    assert "TMPDIR" in message and not waiting.is_alive()


def test_what_fails_while_building_leaves_nothing(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise CatalogError("patch 'a' is broken")

    with pytest.raises(CatalogError, match="patch 'a' is broken"):
        hold_bank(BankLocation("bank", tmp_path), fail)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be created: .*; choose .* TMPDIR, or for `synthpipe build` with --"):
        hold_bank(BankLocation("bank", tmp_path / "file"), fail)


def test_a_name_follows_from_all_that_a_bank_is_made_of() -> None:
    assert name_bank("digest", None, 3) == name_bank("digest", None, 3)
    assert len({name_bank("digest", None, 3), name_bank("digest", None, 4), name_bank("other", None, 3)}) == 3
