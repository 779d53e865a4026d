"""Workers whose memory limit is too low."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.builds import Builds, digests
from tests.faults.conftest import Undisturbed


@pytest.mark.faults
def test_too_little_memory_ends_a_build_with_what_to_set(builds: Builds, whole: Undisturbed, tmp_path: Path) -> None:
    build = builds.start(tmp_path / "run", "--workers", "1", "--memory", "300MiB")
    _, log = build.communicate(timeout=300)
    error = log[log.index("Error: ") :]
    assert build.returncode == 1 and "Traceback" not in log
    assert "its whole limit. Finished work is kept. Give each worker more memory (--memory" in error
    assert "Pipeline(" not in error
    builds.finish(tmp_path / "run", "--workers", "0")
    assert digests(tmp_path / "run") == whole.digests
