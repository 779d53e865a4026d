"""Stores that get another name."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_of_the_rest_only_what_was_copied_is_removed(store: Path) -> None:
    aside = store.with_name("aside")
    (aside / "image").mkdir(parents=True)
    (aside / "image" / "c.0").write_text("pixels")
    (store / "notes.txt").write_text("of a user")
    remove_rest(store, aside)
    assert sorted(path.name for path in store.rglob("*")) == ["notes.txt", "zarr.json"]
