"""Disks that fill up, and patches that change during a build."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.builds import Builds, digests
from tests.faults.conftest import Undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a separate file system with 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no right to mount a small file system: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def failed(builds: Builds, run: Path) -> str:
    """Build, expect an error, and return it."""
    build = builds.start(run, "--workers", "0")
    _, log = build.communicate(timeout=300)
    assert build.returncode == 1, log
    assert "Traceback" not in log and not list(run.rglob("*.partial")), log
    return log[log.index("Error: ") :]


@pytest.mark.faults
def test_a_build_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    builds: Builds, whole: Undisturbed, small_disk: Path
) -> None:
    run = small_disk / "run"
    assert "cannot be written: No space left on device; free some space" in failed(builds, run)
    # space for the filter's composites, but not for all weights
    weights = (whole.run / "filter" / "mosaic.safetensors").stat().st_size
    size = 2**20 + sum(file.stat().st_size for file in (whole.run / "filter" / "training.zarr").rglob("c.*")) + weights
    subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)
    error = failed(builds, run)
    assert "filter/" in error and "cannot be written: No space left on device; free some space" in error
    subprocess.run(["mount", "-o", "remount,size=800m", str(small_disk)], check=True)
    builds.finish(run, "--workers", "2")
    assert digests(run) == whole.digests


@pytest.mark.faults
def test_a_patch_that_changed_since_it_was_indexed_is_named(builds: Builds, whole: Undisturbed, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole.run, tmp_path / "run"))
    (run / "build.json").unlink()
    shutil.rmtree(run / "curated.zarr")
    donor = next(path for path in sorted((builds.patches / "1.training").iterdir()) if "[1, 0, 0]" in path.name)
    data = donor.read_bytes()
    try:
        donor.write_bytes(data + b"more")
        error = failed(builds, run)
        assert f"{donor}: has changed since it was indexed; restore it" in error
        donor.unlink()
        assert f"{donor}: cannot be read: No such file" in failed(builds, run)
    finally:
        donor.write_bytes(data)
    builds.finish(run, "--workers", "0")
    assert digests(run) == whole.digests
