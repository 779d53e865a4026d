"""A few kills at random moments; `python -m tests.faults.kills` does many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.builds import digests, objects
from tests.faults.conftest import Undisturbed
from tests.faults.kills import kill_drivers, kill_workers

pytestmark = pytest.mark.faults


def test_killed_workers_change_no_byte(each_whole: Undisturbed, tmp_path: Path) -> None:
    assert kill_workers(each_whole.builds, tmp_path / "run", 4, seed=1) > 0
    assert digests(tmp_path / "run") == each_whole.digests


def test_killed_builds_resume_to_the_same_bytes(each_whole: Undisturbed, tmp_path: Path) -> None:
    assert list(kill_drivers(each_whole.builds, tmp_path / "run", 4, 2, len(objects(each_whole.run))))
    assert digests(tmp_path / "run") == each_whole.digests
