"""The tests that continuous integration may skip exist under their names, and pytest finds all tests."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest

from tests.conftest import MAY_BE_SKIPPED, ROOT


@pytest.mark.parametrize("start", MAY_BE_SKIPPED)
def test_what_may_be_skipped_exists(start: str) -> None:
    file, _, name = start.partition("::")
    assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text(encoding="utf-8")


def test_pytest_enters_every_folder_of_tests(pytestconfig: pytest.Config) -> None:
    left_out = pytestconfig.getini("norecursedirs")
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert "build" in folders and not [name for name in folders if any(fnmatch(name, each) for each in left_out)]
