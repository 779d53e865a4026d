"""Runs and patches that were moved."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from synthpipe.build import build
from synthpipe.cli import main
from synthpipe.core.progress import Silent
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.verification import verify
from tests.build.test_build import small


def test_verify_and_replay_name_the_option_that_says_where_patches_are_now(tmp_path: Path) -> None:
    write_phantom(tmp_path / "phantom", PhantomSpec(slides=6, patches=60, size=48, images=0))
    settings = small(tmp_path / "phantom", "filter.enabled=false")
    build(settings, tmp_path / "run", ClusterSettings(Local(0)), Silent())
    (tmp_path / "phantom").rename(tmp_path / "moved")
    (tmp_path / "run").rename(tmp_path / "other")
    faults = verify(tmp_path / "other", 2, Silent()).faults
    assert faults and all("--patches ROOT" in fault.cure for fault in faults)
    assert not verify(tmp_path / "other", 2, Silent(), root=str(tmp_path / "moved")).faults
    replay = ["replay", str(tmp_path / "other"), "mosaic", "0", "-o", str(tmp_path / "0.png")]
    result = CliRunner().invoke(main, replay)
    assert (
        result.exit_code == 1 and "if the patches have moved, give their new location: --patches ROOT" in result.stderr
    )
    assert not (tmp_path / "0.png").exists()
    result = CliRunner().invoke(main, [*replay, "--patches", str(tmp_path / "moved")])
    assert result.exit_code == 0 and "equal to the stored pixels" in result.stdout
