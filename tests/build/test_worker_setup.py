from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from synthpipe.build import worker_setup as module
from synthpipe.build.tasks import Job
from synthpipe.build.worker_setup import BuildWorkerSetup, bank_location, open_worker_setup
from synthpipe.patches.bank import is_complete
from synthpipe.patches.catalog import read_catalog, write_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.storage.run import RunDirectory, versions
from tests.conftest import pipeline


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BuildWorkerSetup]:
    monkeypatch.setattr(module, "_SECONDS_TO_APPEAR", 0.3)
    write_phantom(tmp_path / "phantom", PhantomSpec(slides=6, patches=30, size=48, images=0))
    settings = pipeline(f"patches.root={tmp_path / 'phantom'}", "canvas=32", "mosaic.tile=16")
    catalog = read_catalog(settings.patches, settings.taxonomy)
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    write_catalog(catalog, settings.taxonomy, run.path)
    job = Job(settings, run, bank_location(settings, catalog, tmp_path / "scratch"))
    with open_worker_setup(job, catalog) as opened:
        yield opened
    assert [file.name for file in run.path.iterdir() if file.name.startswith(".")] == []


def test_a_worker_like_the_driver_gets_the_bank_and_gives_it_back(setup: BuildWorkerSetup, tmp_path: Path) -> None:
    assert setup.problems() == []
    steps: list[int] = []
    with setup.prepared(steps.append) as state, setup.prepared(steps.append) as again:
        assert sum(steps) == len(state.donors.listed) == len(again.donors.listed) > 0
        assert len(list((tmp_path / "scratch").glob("synthpipe-*/*"))) == 2
    assert not list((tmp_path / "scratch").iterdir())


def test_builds_that_share_a_bank_let_go_of_it_one_by_one(setup: BuildWorkerSetup, tmp_path: Path) -> None:
    other = replace(setup, job=replace(setup.job, run=RunDirectory(tmp_path / "other")))
    built: list[int] = []
    with ExitStack() as others:
        with setup.prepared(lambda _: None) as state:
            others.enter_context(other.prepared(built.append))
        assert is_complete(setup.job.bank.directory)
        assert state.donors.listed[0].image.any()
    assert not built and not list((tmp_path / "scratch").iterdir())


def test_builds_in_threads_of_one_process_build_a_shared_bank_once(setup: BuildWorkerSetup, tmp_path: Path) -> None:
    steps: list[int] = []

    def count_donors(_: int) -> int:
        with setup.prepared(steps.append) as state:
            ready.wait()
            return len(state.donors.listed)

    ready = Barrier(3)
    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(count_donors, range(3))) == {sum(steps)}
    assert not list((tmp_path / "scratch").iterdir())


def test_banks_that_no_locks_protect_are_never_shared_by_two_builds(setup: BuildWorkerSetup, tmp_path: Path) -> None:
    settings = setup.job.pipeline
    catalog = read_catalog(settings.patches, settings.taxonomy)
    one, other = (bank_location(settings, catalog, tmp_path, shared=False) for _ in range(2))
    assert one.directory != other.directory


def test_a_worker_that_differs_says_in_what(setup: BuildWorkerSetup, tmp_path: Path) -> None:
    other = replace(setup, versions=setup.versions | {"numpy": "1.0"})
    (problem,) = other.problems()
    assert problem.startswith("numpy is 2.") and problem.endswith(" there, 1.0 here")
    (problem,) = replace(setup, token="another").problems()
    assert problem.startswith(f"the run {tmp_path / 'run'} shows other files there; its path must be one")
    Path(setup.first.path).unlink()
    (problem,) = setup.problems()
    assert setup.first.id in problem and "patches.root" in problem


def test_only_a_filter_makes_torch_count(setup: BuildWorkerSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    job = setup.job
    unfiltered = job.pipeline.model_copy(update={"filter": job.pipeline.filter.model_copy(update={"enabled": False})})
    rendering = replace(setup, job=replace(job, pipeline=unfiltered), versions=versions(filtered=False))
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    assert rendering.problems() == []
    (problem,) = setup.problems()
    assert problem.startswith("the filter needs torch, which is not installed; install with: pip install torch; or")


def test_banks_of_other_contents_have_other_names(setup: BuildWorkerSetup) -> None:
    settings = setup.job.pipeline
    catalog = read_catalog(settings.patches, settings.taxonomy)
    assert bank_location(settings, catalog, None).name == setup.job.bank.name
    wider = pipeline(f"patches.root={settings.patches.root}", "canvas=48", "mosaic.tile=24")
    fewer = replace(catalog, patches=catalog.patches[1:])
    names = {bank_location(wider, catalog, None).name, bank_location(settings, fewer, None).name}
    assert len(names | {setup.job.bank.name}) == 3
