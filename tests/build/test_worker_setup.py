from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from synthpipe.build import worker_setup as module
from synthpipe.build.tasks import Job, open_donors
from synthpipe.build.worker_setup import BuildWorkerSetup, open_worker_setup, place_bank
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
    job = Job(settings, run, place_bank(settings, catalog, tmp_path / "scratch"))
    with open_worker_setup(job, catalog) as opened:
        yield opened
    assert [file.name for file in run.path.iterdir() if file.name.startswith(".")] == []


def test_a_worker_like_the_driver_gets_the_bank_and_gives_it_back(setup: BuildWorkerSetup, tmp_path: Path) -> None:
    assert setup.problems() == []
    steps: list[int] = []
    setup.prepare(steps.append)
    setup.prepare(steps.append)
    donors = open_donors(setup.job.bank)
    assert sum(steps) == len(donors.listed) > 0
    assert len(list((tmp_path / "scratch").glob("synthpipe-*/*"))) == 2
    setup.release()
    assert not list((tmp_path / "scratch").iterdir())


def test_builds_that_share_a_bank_let_go_of_it_one_by_one(setup: BuildWorkerSetup, tmp_path: Path) -> None:
    other = replace(setup, job=replace(setup.job, run=RunDirectory(tmp_path / "other")))
    for each in (setup, other):
        each.prepare(lambda _: None)
    setup.release()
    assert len(open_donors(setup.job.bank).listed) > 0
    other.release()
    assert not list((tmp_path / "scratch").iterdir())


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
    assert place_bank(settings, catalog, None).name == setup.job.bank.name
    wider = pipeline(f"patches.root={settings.patches.root}", "canvas=48", "mosaic.tile=24")
    fewer = replace(catalog, patches=catalog.patches[1:])
    names = {place_bank(wider, catalog, None).name, place_bank(settings, fewer, None).name}
    assert len(names | {setup.job.bank.name}) == 3
