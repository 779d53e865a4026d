"""One set of patches and one undisturbed build for all fault tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.faults.builds import Builds, digests


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A finished run, and the digests of its files."""

    builds: Builds
    run: Path
    digests: dict[str, str]


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    return Builds.of_phantom(tmp_path_factory.mktemp("data") / "phantom")  # its own: tests change patches


@pytest.fixture(scope="session")
def whole(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(builds, tmp_path_factory)


@pytest.fixture(scope="session", params=["stored", "virtual"])
def each_whole(request: pytest.FixtureRequest, builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """An undisturbed build of each kind of pixels."""
    if request.param == "stored":
        found: Undisturbed = request.getfixturevalue("whole")
        return found
    return undisturbed(replace(builds, pixels="virtual"), tmp_path_factory)


def undisturbed(builds: Builds, factory: pytest.TempPathFactory) -> Undisturbed:
    run = factory.mktemp("runs") / "whole"  # not shared by processes: its catalog has the paths of `builds`
    builds.finish(run, "--workers", "0")
    return Undisturbed(builds, run, digests(run))
