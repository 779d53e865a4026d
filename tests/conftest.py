"""What the tests share: a small pipeline and donors whose colour gives away their class."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator, Iterator
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


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder `name`, which one process of this test run makes, and all others use as it is.

    The folder is for reading: a test that changes files copies it first.
    """
    base = factory.getbasetemp()
    # with pytest-xdist every process has a folder of its own in the folder of the test run
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)
    folder, made = shared / name, shared / f"{name}.made"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety patches of 48 by 48 pixels, of six slides, shared by all processes of the test run; read only."""
    from synthpipe.patches.phantom import PhantomSpec, write_phantom  # workers that import this file need none of it

    spec = PhantomSpec(slides=6, patches=90, size=48, images=0)
    return once(tmp_path_factory, "phantom", lambda folder: write_phantom(folder, spec))


@pytest.fixture(scope="session")
def small_run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the pipeline `SMALL` from `phantom`, shared by all processes of the test run; read only."""
    from synthpipe.build import build
    from synthpipe.core.progress import Silent
    from synthpipe.runtime import ClusterSettings, Local

    settings, here = pipeline(*SMALL, f"patches.root={phantom}"), ClusterSettings(Local(0))
    return once(tmp_path_factory, "small-run", lambda folder: build(settings, folder, here, Silent()))


MAY_BE_SKIPPED = (
    *("tests/site/test_slurm.py", "tests/site/test_lesser_file_systems.py"),  # Slurm; FUSE
    "tests/segment/test_data.py::test_batches_are_read_into_pinned_memory",  # a GPU
    "tests/segment/test_training.py::test_a_stopped_training_goes_on_on_a_gpu",
    "tests/segment/test_mean_teacher.py::test_a_teacher_on_a_gpu_draws",
    "tests/export/test_fiftyone.py::test_fiftyone_imports_every_pixel_and_field",  # packages of other environments
    "tests/export/test_page.py::test_loaders_read_what_was_exported[fiftyone-",
    "tests/export/test_nnunet.py::test_nnunet_accepts_the_data_set",
    *("tests/cli/test_completion.py::test_zsh_", "tests/cli/test_completion.py::test_fish_completes"),  # zsh, fish
)
"""Starts of the names of tests that continuous integration may skip, because its machines lack what they need."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skipped test fail where `CI` or `SYNTHPIPE_NO_SKIPS` is set, unless it is one of `MAY_BE_SKIPPED`."""
    report = yield
    strict = os.environ.get("CI") or os.environ.get("SYNTHPIPE_NO_SKIPS")
    if report.skipped and strict and not hasattr(report, "wasxfail") and not item.nodeid.startswith(MAY_BE_SKIPPED):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, which CI and SYNTHPIPE_NO_SKIPS forbid: {report.longrepr}"
    return report


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
