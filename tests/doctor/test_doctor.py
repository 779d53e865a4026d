from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from synthpipe.cli import main
from synthpipe.core.packages import TORCH
from synthpipe.doctor import CheckResult, installation, machine
from synthpipe.doctor.check_result import checked
from synthpipe.files.locations import parse_location


def examined(directory: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """Give the command, and return its exit code and what it found by name."""
    command = [sys.executable, "-m", "synthpipe", "doctor", str(directory), "--json"]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, {each["what"]: each for each in json.loads(result.stdout)}


def test_a_machine_that_is_fit(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", str(tmp_path / "new" / "runs")])
    assert result.exit_code == 0 and result.stdout.endswith("synthpipe can work here\n")
    for what in ("Python", "packages", "processor", "kernels", "disk of runs", "storage", "locks", "Dask"):
        assert f"  {what} " in result.stdout
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_said_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n")
    driver.chmod(0o755)
    code, found = examined(
        tmp_path / "file" / "runs", PATH=f"{tmp_path}:{os.environ['PATH']}", CUDA_VISIBLE_DEVICES="7"
    )
    assert code == 1
    assert found["GPU"]["state"] == "wrong" and "CUDA_VISIBLE_DEVICES" in found["GPU"]["cure"]
    assert found["storage"]["state"] == "wrong" and str(tmp_path / "file") in found["storage"]["found"]
    assert found["Dask"]["state"] == "fine"  # one thing that is wrong does not hide the others


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [("numpy<1", "numpy is 2"), ("no-such-package>=3", "no-such-package is not installed"), ("numpy>=1", None)],
)
def test_versions_are_compared_with_what_is_needed(requirement: str, problem: str | None) -> None:
    found = installation._problem(Requirement(requirement))
    assert found is None if problem is None else (found or "").startswith(problem)


def test_a_full_disk_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ENOUGH_SPACE", 1 << 60)
    assert machine.free_space("disk", tmp_path / "none", "buy one") == CheckResult(
        "disk", "note", machine.free_space("disk", tmp_path / "none", "").found, "buy one"
    )


def test_no_place_for_compiled_kernels_is_a_check_result(tmp_path: Path) -> None:
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": "/proc/nope"}
    code, found = examined(tmp_path, **nowhere)
    assert code == 0 and found["kernels"]["state"] == "note" and "compiles them again" in found["kernels"]["found"]
    assert "set NUMBA_CACHE_DIR" in found["kernels"]["cure"]


def test_a_missing_package_is_told_by_doctor_and_by_every_command(tmp_path: Path) -> None:
    for name in ("distributed", "zarr"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name='{name}')\n")
    code, found = examined(tmp_path, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert found["package"]["found"] == "zarr cannot be imported: no zarr"
    assert found["workers"]["found"] == "cannot be checked: ModuleNotFoundError: no distributed"
    assert found["Python"]["state"] == found["packages"]["state"] == "fine"
    for arguments in (["--help"], ["build", "pipelines/demo.yaml"], ["verify", str(tmp_path)]):
        command = [sys.executable, "-m", "synthpipe", *arguments]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert re.fullmatch(
            r"Error: a package that this command needs cannot be imported: no \w+; "
            r"`synthpipe doctor` says what to install\n",
            result.stderr,
        )


def test_old_packages_do_not_end_the_examination(tmp_path: Path) -> None:
    for name in ("cv2", "distributed"):  # as a package does that misses a name of another
        (tmp_path / f"{name}.py").write_text("raise AttributeError('module has no attribute x')\n")
    code, found = examined(tmp_path, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert found["package"]["found"] == "cv2 cannot be imported: module has no attribute x"
    assert found["workers"]["found"] == "cannot be checked: AttributeError: module has no attribute x"
    assert found["storage"]["state"] == "fine"  # one thing that is wrong does not hide the others


def test_files_without_an_installation_are_a_check_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    found = installation.python()
    assert found.state == "wrong" and "synthpipe is not installed" in found.found and "pip install" in found.cure
    assert not list(installation.packages()) and not list(installation.extras())


def test_packages_of_the_filter_may_be_missing_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_version", lambda name: None if name in TORCH else version(name))
    assert {each.state for each in installation.packages() if each.what == "package"} == {"wrong"}
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    assert {each.state for each in installation.packages()} == {"fine"}


def test_a_check_that_fails_is_a_check_result() -> None:
    def check() -> Iterator[CheckResult]:
        yield CheckResult("disk", "fine", "one")
        raise KeyError("gone")

    first, second = checked("disk", check)
    assert first.state == "fine"
    assert second.state == "wrong" and second.found == "cannot be checked: KeyError: 'gone'"


def test_a_store_that_cannot_be_reached_is_a_check_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # other tests' clients have no credentials
    (found,) = machine.storage(parse_location("s3://bucket/runs"))
    assert found.state == "wrong" and "s3://bucket/runs: cannot be used: Could not connect" in found.found
