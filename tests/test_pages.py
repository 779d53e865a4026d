"""Files that are made from code and from kept results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import tests.pages
from tests.conftest import ROOT
from tests.pages import PAGES, main, outdated


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


def test_written_pages_use_the_words_of_the_glossary() -> None:
    glossary = ROOT / "docs" / "glossary.md"
    table = glossary.read_text(encoding="utf-8").split("## Words that are not used")[1]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")][1:]
    words = [word.strip() for cell in cells if "(" not in cell for word in cell.split(",")]
    assert len(words) > 8
    pattern = re.compile(rf"\b({'|'.join(words)})s?\b", re.IGNORECASE)
    pages = {*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")} - {ROOT / name for name in PAGES} - {glossary}
    found = {page.name: pattern.findall(page.read_text(encoding="utf-8")) for page in pages}
    assert not {name: words for name, words in found.items() if words}
