"""Files that are made from code and from kept results."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import tests.pages
from tests.pages import main, outdated


def test_all_generated_files_are_what_their_sources_give() -> None:
    assert not outdated(), "run: make pages"


def test_an_outdated_file_is_named_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("old\n")
    monkeypatch.setattr(tests.pages, "ROOT", tmp_path)
    monkeypatch.setattr(tests.pages, "PAGES", {"page.md": lambda: "new\n"})
    checked = CliRunner().invoke(main, ["--check"])
    assert checked.exit_code == 1 and "page.md: outdated" in checked.output and page.read_text() == "old\n"
    written = CliRunner().invoke(main)
    assert written.exit_code == 0 and written.output == "page.md: written\n" and page.read_text() == "new\n"
    assert CliRunner().invoke(main, ["--check"]).exit_code == 0
