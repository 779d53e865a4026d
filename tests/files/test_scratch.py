from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from synthpipe.core.errors import StoreError
from synthpipe.files.scratch import directory_path, has_locks, open_lock, open_own, private_directory, sweep

SPAWN = multiprocessing.get_context("spawn")
STRANGER = 12345
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")


def give_away(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


def let_all_write(path: Path) -> None:
    path.chmod(0o777)


def make_link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        pytest.param(give_away, f"belongs to user {STRANGER}, not to you", marks=as_root),
        (let_all_write, "has mode 777, so other users can write to it"),
        (make_link, "is a link"),
    ],
)
def test_what_others_made_or_may_write_is_not_used(tmp_path: Path, spoil: Callable[[Path], None], problem: str) -> None:
    directory = directory_path("bank", tmp_path / "folder")
    directory.parent.mkdir(parents=True, mode=0o700)
    spoil(directory.parent)
    with pytest.raises(StoreError, match=rf"folder/synthpipe-{os.getuid()}: {problem}.*TMPDIR.*--scratch"):
        open_lock(directory)
    assert not list(directory.parent.iterdir())

    directory = directory_path("bank", tmp_path / "lock")
    os.close(open_lock(directory))
    file = directory.with_name(f"{directory.name}.lock")
    spoil(file)
    with pytest.raises(StoreError, match=rf"{file.name}: {problem}.*TMPDIR.*--scratch"):
        open_lock(directory)
    with pytest.raises(StoreError, match=rf"{file.name}: {problem}.*TMPDIR.*--scratch"):
        open_own(file)


def test_what_is_no_file_or_folder_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(StoreError, match="pipe: is not a file"):
        open_own(pipe)
    (tmp_path / f"synthpipe-{os.getuid()}").touch()
    with pytest.raises(StoreError, match=r"synthpipe-\d+: is not a folder"):
        open_lock(directory_path("bank", tmp_path))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def hold(pipe: Connection) -> None:
    with private_directory() as directory:
        (directory / "something").touch()
        pipe.send(directory)
        pipe.recv()


def test_a_private_directory_is_nobody_elses_and_goes_in_any_case(temporary: Path) -> None:
    with private_directory() as directory, private_directory() as other:
        assert directory != other
        for each in (directory, directory.parent):
            assert stat.S_IMODE(each.stat().st_mode) == 0o700
        here, there = SPAWN.Pipe()
        process = SPAWN.Process(target=hold, args=(there,))
        process.start()
        assert here.poll(30)
        held: Path = here.recv()
        sweep(None)
        assert (held / "something").exists()
        process.kill()
        process.join()
        sweep(None)
        assert not held.exists() and directory.exists() and other.exists()
    assert not list(temporary.iterdir())


def test_a_temporary_directory_in_which_all_may_replace_what_lies_there_is_refused(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "all" / "mine"
    inner.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(inner))
    inner.parent.chmod(0o777)
    with pytest.raises(StoreError, match=r"all: every user can replace.*sticky.*TMPDIR"), private_directory():
        pass
    inner.parent.chmod(0o1777)
    with private_directory() as directory:
        assert directory.is_relative_to(inner)


def test_a_disk_where_locks_do_nothing_is_told_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_locks(tmp_path)
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    assert not has_locks(tmp_path) and not list(tmp_path.iterdir())
