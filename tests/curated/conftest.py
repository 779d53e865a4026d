"""A run with enough slides for a split, at the path that the code in the documents uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthpipe.build import build
from synthpipe.cli.progress import LogReporter
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from tests.conftest import once, pipeline


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in ``runs/demo``, 20 Mosaics and 60 Beziers of ten slides, and its ``data/phantom``."""
    overrides = ("filter.enabled=false", "curation.rule=threshold", "curation.wanted={mosaic: 20, bezier: 60}")
    more = (
        "curation.candidates={mosaic: 32, bezier: 64}",
        "curation.min_class_share=0.15",
        "store.shard=16",
    )

    def make(folder: Path) -> None:
        patches = folder / "data" / "phantom"
        write_phantom(patches, PhantomSpec(slides=10, patches=100, size=64, images=2))
        settings = pipeline(*overrides, *more, f"patches.root={patches}")
        build(settings, folder / "runs" / "demo", ClusterSettings(Local(0)), LogReporter())

    return once(tmp_path_factory, "home", make)


@pytest.fixture
def beside(home: Path, tmp_path: Path) -> Path:
    """An empty folder in which ``runs/demo`` is that run, and ``data`` its patches."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(home / "runs" / "demo")
    (tmp_path / "data").symlink_to(home / "data")
    return tmp_path
