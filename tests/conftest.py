"""What the tests share: a small pipeline and donors whose colour gives away their class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from synthpipe.compose import Donors
from synthpipe.config.pipeline import Pipeline
from synthpipe.config.pipeline_file import load
from synthpipe.core.records import Donor

# tests run side by side, a core each; with more threads each waits for the rest
os.environ.setdefault("OMP_NUM_THREADS", "1")

Item = TypeVar("Item")
ROOT = Path(__file__).parent.parent
DEMO = ROOT / "pipelines" / "demo.yaml"
FLAT_COLORS = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)

SMALL = (
    *("canvas=32", "mosaic.tile=16", "filter.network=test_resnet", "filter.candidates=40", "filter.epochs=1"),
    *("curation.rule=top_k", "curation.wanted=12", "curation.candidates=20", "curation.max_candidates=80"),
    "store.shard=8",
)
"""The demo pipeline made small: a build of seconds, with a filter that is really trained."""


def pipeline(*overrides: str) -> Pipeline:
    """The demo pipeline, with keys replaced."""
    return load(DEMO, overrides)


def textured_donors(count: int = 30, height: int = 80, width: int = 70) -> Donors:
    """Donors of three classes with random pixels, a few sizes, and slides of three patches each."""
    rng = np.random.default_rng(7)
    return Donors(
        Donor(
            id=f"slide{number // 3:02}-{number:03}.png",
            group=f"slide{number // 3:02}",
            label=number % 3,
            image=rng.integers(0, 256, (height + number % 5, width + number % 7, 3), dtype=np.uint8),
            mask=None,
        )
        for number in range(count)
    )


def flat_donors(size: int = 80) -> Donors:
    """One donor a class, each of one colour: every pixel of a composite shows where it came from."""
    return Donors(
        Donor(f"flat-{label}.png", f"slide{label}", label, np.full((size, size, 3), color, np.uint8), None)
        for label, color in enumerate(FLAT_COLORS)
    )


def pytest_configure() -> None:
    from hypothesis import settings  # workers that run a test's functions import this file too

    settings.register_profile("synthpipe", deadline=None)  # no test may fail by the clock
    settings.load_profile("synthpipe")


class Watched(tuple[Item, ...]):
    """Items that count how many of them were taken, for who must not take them all at once."""

    taken = 0

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            self.taken += 1
            yield item


@pytest.fixture
def demo() -> Pipeline:
    return pipeline()
