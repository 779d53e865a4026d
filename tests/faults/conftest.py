"""One set of patches, and one build that nobody disturbed, for all faults."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.builds import Builds, digests


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A finished run, the digests of its files, and the seconds that it took."""

    run: Path
    digests: dict[str, str]
    seconds: float


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    return Builds.of_phantom(tmp_path_factory.mktemp("data") / "phantom")


@pytest.fixture(scope="session")
def whole(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    run, start = tmp_path_factory.mktemp("runs") / "whole", time.monotonic()
    builds.finish(run, "--workers", "1")
    return Undisturbed(run, digests(run), time.monotonic() - start)
