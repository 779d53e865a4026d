"""Stores that get another name."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from synthpipe.core.errors import StoreError
from synthpipe.storage.aside import remove_rest, set_aside


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "curated.zarr"
    (store / "image").mkdir(parents=True)
    (store / "zarr.json").write_text("{}")
    (store / "image" / "c.0").write_text("pixels")
    return store


def test_a_name_that_anything_has_is_not_used(store: Path) -> None:
    names = [store.with_name(name) for name in ("file", "link", "set", "free")]
    names[0].touch()
    names[1].symlink_to(store.parent)
    names[2].mkdir()
    (names[2] / "zarr.json").touch()
    assert set_aside(store, names) == names[3]
    assert not store.exists() and (names[3] / "image" / "c.0").read_text() == "pixels"


def test_half_a_copy_is_removed_where_the_disk_is_full(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Path] = []

    def copyfile(source: str, target: str) -> None:
        if copies:
            raise OSError(errno.ENOSPC, "No space left on device")
        copies.append(Path(target))
        copies[0].write_text("half")

    def rename(path: Path, target: str) -> Path:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (store / "image" / "c.1").write_text("pixels")
    monkeypatch.setattr("shutil.copyfile", copyfile)
    monkeypatch.setattr(Path, "rename", rename)
    aside, before = store.with_name("aside"), sorted(store.rglob("*"))
    with pytest.raises(StoreError, match="aside: cannot be written: No space left on device"):
        set_aside(store, [aside])
    assert copies and not aside.exists() and sorted(store.rglob("*")) == before


def test_of_the_rest_only_what_was_copied_is_removed(store: Path) -> None:
    aside = store.with_name("aside")
    (aside / "image").mkdir(parents=True)
    (aside / "image" / "c.0").write_text("pixels")
    (store / "notes.txt").write_text("of a user")
    remove_rest(store, aside)
    assert sorted(path.name for path in store.rglob("*")) == ["notes.txt", "zarr.json"]
