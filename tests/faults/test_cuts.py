"""Power cuts between the steps of an extension: nothing is lost, and the next attempt ends."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from synthpipe.cli.progress import LogReporter
from synthpipe.config import Pipeline
from synthpipe.folders import is_half_written
from synthpipe.handoff import CuratedSet
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.stages import build
from synthpipe.stages.build import is_finished
from synthpipe.storage.run import RunDirectory
from tests.conftest import pipeline
from tests.faults.cuts import cut_at

HERE = ClusterSettings(Local(processes=False))
OTHER = {"build.json", "SHA256SUMS", "report.html", ".lock", ".driver"}  # hold seconds; marks of builds under way


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(directory, PhantomSpec(slides=4, patches=24, size=48, images=0))
    return directory


def tiny(patches: Path, wanted: int) -> Pipeline:
    rules = ("filter.enabled=false", "mosaic=null", "curation.rule=threshold", f"curation.wanted={wanted}")
    sizes = ("canvas=32", "curation.candidates=16", "curation.max_candidates=16", "store.shard=8")
    return pipeline(*rules, *sizes, f"patches.root={patches}")


@pytest.fixture(scope="module")
def finished(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    build(tiny(patches, 4), path, HERE, LogReporter())
    return path


def contents(folder: Path) -> dict[str, str]:
    """Return the digests of files, without what is half written: of a finished run the next build sweeps that."""
    names = (path for path in folder.rglob("*") if path.is_file() and not is_half_written(path.name))
    files = (path for path in names if path.name not in OTHER)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def cut_everywhere(
    source: Path, work: Callable[[Path], object], after: Callable[[Path], object], tmp_path: Path
) -> None:
    """Cut the power at each step of some work on copies of a folder, and do the work again: it comes to the same."""
    whole = Path(shutil.copytree(source, tmp_path / "whole"))
    work(whole)
    expected = contents(whole)
    for step in count():
        folder = Path(shutil.copytree(source, tmp_path / f"cut-{step}"))
        with cut_at(folder, step) as cut, suppress(Exception):
            work(folder)
        if not cut.happened:
            assert step > 3
            return
        after(folder)
        work(folder)
        assert contents(folder) == expected, f"cut at step {step}"
        shutil.rmtree(folder)


def test_an_extension_that_is_cut_loses_nothing_and_ends_at_the_next_attempt(
    finished: Path, patches: Path, tmp_path: Path
) -> None:
    former, made = CuratedSet(finished / "curated.zarr").digest, []

    def extended(run: Path) -> None:
        build(tiny(patches, 6), run, HERE, LogReporter(), extend=True)
        assert len(CuratedSet(run / "curated.zarr")) == 6 and (run / "report.html").exists()

    def after(run: Path) -> None:
        stores = [run / "curated.zarr", *run.glob("curated-*.zarr")]
        made.append(sum(_digest(store) == former for store in stores))

    cut_everywhere(finished, extended, after, tmp_path)
    assert set(made) == {1}


def test_a_run_that_is_cut_while_it_is_reopened_is_not_finished(finished: Path, tmp_path: Path) -> None:
    for step in count():
        folder = Path(shutil.copytree(finished, tmp_path / f"cut-{step}"))
        run = RunDirectory(folder)
        with cut_at(folder, step) as cut, suppress(OSError):
            run.reopen()
        assert is_finished(run) is (step == 0)
        if not cut.happened:
            break
    assert step > 3
    build(run.pipeline(), folder, HERE, LogReporter())
    assert contents(folder) == contents(finished)


def _digest(store: Path) -> str | None:
    with suppress(OSError):
        return CuratedSet(store).digest
    return None
