"""What the wheel and the source distribution hold, and that tests run from the latter."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import click
import pytest

from synthpipe.cli import main
from tests.conftest import ROOT

_SHIPPED = {str(path.relative_to(ROOT)) for path in (ROOT / "pipelines").rglob("*.yaml")}
_SOURCE = (
    *("synthpipe", "pipelines", "tests", "docs", "benchmarks", "requirements", "changelog.d", ".ci", ".github"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE", "MANIFEST.in"),
    *("setup.cfg", "pyproject.toml", "constraints.txt", ".pre-commit-config.yaml"),
    *("Makefile", "Dockerfile", ".dockerignore"),
)
_QUICK = (
    "tests/core/test_verdict_text.py",
    "tests/cli/test_settings.py",
    "tests/core/test_packages.py",
    "-k",
    "not torch",
)


def done(*command: str, folder: Path) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source distribution, unpacked too, and the wheel that is made of it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in _SOURCE:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    done("build", "--no-isolation", "--outdir", str(out), str(source), folder=out)
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        archive.extractall(out, filter="data")
    return out


def test_the_wheel_holds_the_package_and_its_pipeline_files(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert wheel.read("synthpipe/pipelines/demo.yaml") == (ROOT / "pipelines" / "demo.yaml").read_bytes()
    package = {path for path in (ROOT / "synthpipe").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert held == {f"synthpipe/{name}" for name in _SHIPPED} | {str(path.relative_to(ROOT)) for path in package}


def test_the_image_is_built_by_commands_that_there_are() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    commands = re.findall(r"&& synthpipe (.+?)(?= &&|\n)", text)
    assert [each.split()[0] for each in commands] == ["phantom", "build"]
    for each in commands:
        name, *arguments = shlex.split(each)
        command = main.get_command(click.Context(main), name)
        assert command
        command.make_context(name, arguments)  # refuses what it does not know


def test_the_source_distribution_holds_what_the_tests_need(built: Path) -> None:
    (unpacked,) = built.glob("synthpipe-*/")
    for name in _SOURCE:
        path = ROOT / name
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert (unpacked / file.relative_to(ROOT)).is_file(), file
    assert all((unpacked / "synthpipe" / name).is_file() for name in _SHIPPED)
    assert not any(path.is_symlink() for path in unpacked.rglob("*"))


@pytest.mark.slow
def test_the_source_distribution_installs_and_its_tests_pass(built: Path, tmp_path: Path) -> None:
    (unpacked,) = built.glob("synthpipe-*/")
    install = ("pip", "install", "--no-deps", "--no-build-isolation", "--target", str(tmp_path))
    done(*install, str(next(built.glob("*.tar.gz"))), folder=built)
    assert (tmp_path / "synthpipe" / "pipelines" / "demo.yaml").is_file()
    done("pytest", "-q", "-p", "no:cacheprovider", *_QUICK, folder=unpacked)
