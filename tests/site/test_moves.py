"""Runs and patches that were moved."""

from __future__ import annotations

from pathlib import Path

from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.progress import Silent
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.stages import build
from synthpipe.verification import verify
from tests.test_build import small


def test_verify_names_the_option_that_says_where_patches_are_now(tmp_path: Path) -> None:
    write_phantom(tmp_path / "phantom", PhantomSpec(slides=6, patches=60, size=48, images=0))
    settings = small(tmp_path / "phantom", "filter.enabled=false")
    build(settings, tmp_path / "run", ClusterSettings(Local(processes=False)), Silent())
    (tmp_path / "phantom").rename(tmp_path / "moved")
    (tmp_path / "run").rename(tmp_path / "other")
    faults = verify(tmp_path / "other", 2, Silent()).faults
    assert faults and all("--patches DIR" in fault.cure for fault in faults)
    assert not verify(tmp_path / "other", 2, Silent(), root=str(tmp_path / "moved")).faults
