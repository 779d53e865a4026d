"""Pages for people, and files about the project: their links lead somewhere, and they say the same."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from synthpipe.config.pipeline import PatchesSection
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("changelog.d/*.md")])
PACKAGES = "|".join(path.parent.name for path in (ROOT / "synthpipe").glob("*/__init__.py"))
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target} does not exist"
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), f"{page.name}: no heading #{anchor}"


def test_the_glossary_is_alphabetical_and_defines_each_term_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    for table in text.split("\n## ")[1:]:
        cells = [line.split("|")[1].lower() for line in table.splitlines() if line.startswith("| ")][1:]
        terms = [re.sub("[^a-z]", "", cell) for cell in cells]
        assert len(terms) > 10 and terms == sorted(set(terms))


@pytest.mark.parametrize("name", ["architecture", "building", "runs", "training"])
def test_pages_name_modules_and_functions_that_exist(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    named = re.findall(rf"`(?:synthpipe\.)?({PACKAGES})((?:\.(?!json|zarr)\w+)+)", text)
    assert len(named) > 4
    for package, rest in named:
        first, *others = rest[1:].split(".")
        module = ROOT / "synthpipe" / package / first
        if package == "patches" and first in PatchesSection.model_fields:
            continue
        file = next((each for each in (module.with_suffix(".py"), module / "__init__.py") if each.exists()), None)
        names = others if file else [first]
        content = (file or module.parent / "__init__.py").read_text(encoding="utf-8")
        assert all(re.search(rf"\b{each}\b", content) for each in names), f"{name}.md: `{package}{rest}` does not exist"


def test_contributors_find_all_named_files() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w.]+/[\w./]*|[\w-]+\.(?:cfg|cff|txt))`", text)
    assert len(named) > 20
    assert not [name for name in named if not any((folder / name).exists() for folder in (ROOT, ROOT / "synthpipe"))]


def test_all_files_about_the_project_have_its_version_and_license() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    version, licence = settings["metadata"]["version"], settings["metadata"]["license"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (version, licence)
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_changelog_fragments_are_of_a_kind_that_releases_collect() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]
    kinds = "|".join(kind["directory"] for kind in settings["type"])
    names = [path.name for path in (ROOT / settings["directory"]).iterdir() if path.name != "README.md"]
    assert not [name for name in names if not re.fullmatch(rf"\+[a-z0-9-]+\.({kinds})\.md", name)]
    assert settings["start_string"] in (ROOT / settings["filename"]).read_text(encoding="utf-8")


def test_hooks_before_a_commit_run_commands_of_make_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin")
    checks = "".join(makefile.split(f"\n{target}:")[1].split("\n\n")[0] for target in ("types", "style"))
    assert [hook["entry"] for hook in hooks if hook["entry"] not in checks.replace("format --check", "format")] == []
