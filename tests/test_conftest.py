"""The tests that continuous integration may skip exist under their names."""

from __future__ import annotations

import pytest

from tests.conftest import MAY_BE_SKIPPED, ROOT


@pytest.mark.parametrize("start", MAY_BE_SKIPPED)
def test_what_may_be_skipped_exists(start: str) -> None:
    file, _, name = start.partition("::")
    assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text(encoding="utf-8")
