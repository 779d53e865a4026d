"""Builds that fail before their first composite: what they remove, and what they leave alone."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from synthpipe.build import build
from synthpipe.core.errors import StaleRunError, StoreError
from synthpipe.core.progress import Advance, Silent
from synthpipe.files.locations import Location, parse_location
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from tests.conftest import pipeline

HERE = ClusterSettings(Local(0))
SMALL = (
    *("canvas=32", "filter.enabled=false", "mosaic=null", "curation.rule=threshold", "curation.wanted=4"),
    *("curation.candidates=8", "curation.max_candidates=8", "store.shard=8"),
)
OTHER = b'{"of": "run", "host": "elsewhere", "process": 1, "build": "x", "renewed": 3}'


class Failing(Silent):
    """Fails when the catalog is written and donors are to be read."""

    def __init__(self, lock: Location | None = None) -> None:
        self._lock = lock

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        if title == "donors":
            if self._lock:
                self._lock.write_bytes(OTHER)  # another process takes the run over
            raise StaleRunError("donors")
        return super().stage(title, total)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(directory, PhantomSpec(slides=4, patches=24, size=48, images=0))
    return directory


@pytest.fixture(params=["disk", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return parse_location(f"memory://{tmp_path.name}/run") if request.param == "memory" else tmp_path / "run"


def names(run: Location) -> set[str]:
    return {each.name for each in run.iterdir()} if run.exists() else set()


def test_a_new_run_is_removed(patches: Path, run: Location) -> None:
    with pytest.raises(StaleRunError, match="donors"):
        build(pipeline(*SMALL, f"patches.root={patches}"), run, HERE, Failing())
    assert not names(run)


def test_a_run_that_another_process_took_over_stays(patches: Path, run: Location) -> None:
    with pytest.raises(StaleRunError):
        build(pipeline(*SMALL, f"patches.root={patches}"), run, HERE, Failing(run / ".lock"))
    assert names(run) >= {"run.json", "catalog.csv", "problems.csv"}


def test_a_run_that_was_there_stays(patches: Path, run: Location) -> None:
    settings = pipeline(*SMALL, f"patches.root={patches}")
    with pytest.raises(StaleRunError):
        build(settings, run, HERE, Failing(run / ".lock"))
    (run / ".lock").unlink(missing_ok=True)
    before = names(run)
    with pytest.raises(StaleRunError, match="donors"):
        build(settings, run, HERE, Failing())
    assert names(run) == before


def test_a_url_that_is_a_pattern_is_refused(patches: Path, tmp_path: Path) -> None:
    other = parse_location(f"memory://{tmp_path.name}/run1/run.json")
    other.write_text("of another run")
    with pytest.raises(StoreError, match=r"run\[1\]: the name contains \*, \? or \["):
        build(
            pipeline(*SMALL, f"patches.root={patches}"),
            parse_location(f"memory://{tmp_path.name}/run[1]"),
            HERE,
            Failing(),
        )
    assert other.read_text() == "of another run"
