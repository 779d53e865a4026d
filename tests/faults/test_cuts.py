"""Power cuts during builds, extensions, repairs and exports: nothing is lost, and the next attempt completes."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from synthpipe.build import build
from synthpipe.build.finished import is_finished
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import StaleRunError
from synthpipe.curated import CuratedSet
from synthpipe.export import export, form_of
from synthpipe.export.entries import part_of
from synthpipe.export.ledger import Ledger, digest_of
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import array, open_group
from synthpipe.storage.shard_writing import write_shard
from synthpipe.verification import repair, verify
from tests.conftest import pipeline
from tests.faults.cuts import Cut, cut_at

HERE = ClusterSettings(Local(0))
SECONDS = {"build.json", "SHA256SUMS", "report.html"}  # hold seconds
CUTS = int(os.environ.get("SYNTHPIPE_CUTS", "8"))
"""Number of cuts of each test marked faults, evenly spread over the steps; 1000 are all."""


@pytest.fixture(params=[2, pytest.param(CUTS, marks=pytest.mark.faults)], ids=["few", "many"])
def cuts(request: pytest.FixtureRequest) -> int:
    """The number of steps at which the power is cut."""
    count: int = request.param
    return count


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(directory, PhantomSpec(slides=4, patches=24, size=48, images=0))
    return directory


def tiny(patches: Path, wanted: int, pixels: str = "stored") -> Pipeline:
    rules = ("filter.enabled=false", "mosaic=null", "curation.rule=threshold", f"curation.wanted={wanted}")
    sizes = ("canvas=32", "curation.candidates=16", "curation.max_candidates=16", "store.shard=8")
    return pipeline(*rules, *sizes, f"patches.root={patches}", f"store.pixels={pixels}")


PIXELS = pytest.mark.parametrize("pixels", ["stored", "virtual"])


@pytest.fixture(scope="module")
def runs(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run with stored pixels, and one without."""
    folder = tmp_path_factory.mktemp("runs")
    for pixels in ("stored", "virtual"):
        build(tiny(patches, 4, pixels), folder / pixels, HERE, LogReporter())
    return {pixels: folder / pixels for pixels in ("stored", "virtual")}


@pytest.fixture(scope="module")
def finished(runs: dict[str, Path]) -> Path:
    return runs["stored"]


def contents(folder: Path) -> dict[str, str]:
    """Return the digests of all files; files with seconds have an empty digest."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: "" if path.name in SECONDS else hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
    }


def copied(source: Path | None, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder)) if source else folder


def cut_everywhere(
    source: Path | None, work: Callable[[Path], object], after: Callable[[Path], object], tmp_path: Path, cuts: int
) -> None:
    """Cut the power at `cuts` steps of some work on copies of a folder, and do the work again: it comes to the same."""
    whole = copied(source, tmp_path / "whole")
    with cut_at(whole, math.inf) as undisturbed:
        work(whole)
    expected, steps = contents(whole), undisturbed.steps
    assert steps > 10
    for step in sorted({number * steps // cuts for number in range(cuts)} if steps > cuts else range(steps)):
        folder = copied(source, tmp_path / f"cut-{step}")
        with cut_at(folder, step) as cut, suppress(Exception):
            work(folder)
        assert cut.happened or step > steps - 10, "the order of threads may change only the last few steps"
        after(folder)
        work(folder)
        assert contents(folder) == expected, f"cut at step {step} of {steps}"
        shutil.rmtree(folder)


@PIXELS
def test_a_build_that_is_cut_ends_at_the_next_attempt(patches: Path, tmp_path: Path, cuts: int, pixels: str) -> None:
    def built(run: Path) -> None:
        build(tiny(patches, 4, pixels), run, HERE, LogReporter())
        assert len(CuratedSet(run / "curated.zarr")) == 4

    cut_everywhere(None, built, lambda run: None, tmp_path, cuts)


@pytest.fixture(params=["folders are renamed", "folders are copied"])
def renames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "folders are copied":
        rename = Path.rename

        def refusing(path: Path, target: Path) -> Path:
            if path.is_dir():
                raise PermissionError(1, "Operation not permitted")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", refusing)


@PIXELS
@pytest.mark.usefixtures("renames")
def test_an_extension_that_is_cut_loses_nothing_and_ends_at_the_next_attempt(
    runs: dict[str, Path], patches: Path, tmp_path: Path, cuts: int, pixels: str
) -> None:
    finished = runs[pixels]
    former = CuratedSet(finished / "curated.zarr").digest

    def extended(run: Path) -> None:
        build(tiny(patches, 6, pixels), run, HERE, LogReporter(), extend=True)
        assert len(CuratedSet(run / "curated.zarr")) == 6

    def after(run: Path) -> None:
        stores = [run / "curated.zarr", *run.glob("curated-*.zarr")]
        assert former in {_digest(store) for store in stores}

    cut_everywhere(finished, extended, after, tmp_path, cuts)


@pytest.mark.usefixtures("renames")
def test_the_former_set_is_complete_at_every_step_of_moving_it(finished: Path, tmp_path: Path) -> None:
    former = CuratedSet(finished / "curated.zarr").digest

    def set_aside(folder: Path) -> None:
        run = RunDirectory(folder)
        run.sweep()
        if run.has_curated():
            run.set_curated_aside()
        assert _digest(next(folder.glob("curated-*.zarr"))) == former

    def after(folder: Path) -> None:
        found = {_digest(store) for store in (folder / "curated.zarr", *folder.glob("curated-*.zarr"))}
        assert former in found and found <= {former, None}

    whole = copied(finished, tmp_path / "whole")
    with cut_at(whole, math.inf) as undisturbed:
        set_aside(whole)
    expected = contents(whole)
    for step in range(undisturbed.steps):
        folder = copied(finished, tmp_path / f"cut-{step}")
        with cut_at(folder, step), suppress(Exception):
            set_aside(folder)
        after(folder)
        set_aside(folder)
        assert contents(folder) == expected, f"cut at step {step} of {undisturbed.steps}"


@PIXELS
def test_a_repair_that_is_cut_makes_nothing_worse_and_ends_at_the_next_attempt(
    runs: dict[str, Path], tmp_path: Path, cuts: int, pixels: str
) -> None:
    finished = runs[pixels]
    damaged = copied(finished, tmp_path / "damaged")
    broken = {"candidates.zarr/bezier/image/c.0.0.0.0", "curated.zarr/mask/c.0.0.0", "croissant.json"}
    if pixels == "virtual":
        broken = {"candidates.zarr/bezier/class_pixels/c.0.0", "curated.zarr/donors/pixels/c.0.0", "croissant.json"}
    for name in broken:
        (damaged / name).write_bytes((damaged / name).read_bytes()[:-1])
    found = {str(fault.path) for fault in verify(damaged, 0, LogReporter()).faults}
    assert found == {str(damaged / name) for name in broken}

    def mended(run: Path) -> None:
        assert not repair(run, 0, 0, LogReporter()).faults

    def after(run: Path) -> None:
        assert all((run / name).exists() for name in contents(damaged).keys() - broken - UNFINISHED)

    cut_everywhere(damaged, mended, after, tmp_path, cuts)
    assert contents(tmp_path / "whole") == contents(finished)


def test_a_repair_completes_a_build_that_was_killed_at_its_end(finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    (run / "report.html").unlink()
    for name in (".lock", ".driver", f".report.html.{'0' * 32}.partial"):
        (run / name).touch()
    assert not repair(run, 0, 0, LogReporter()).faults
    assert contents(run) == contents(finished)


def test_a_repair_whose_build_is_refused_removes_nothing(patches: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    build(tiny(patches, 12), run, HERE, LogReporter())
    image = array(open_group(run / "candidates.zarr", "bezier", writable=True), "image")
    write_shard(image, 0, np.asarray(image[:8]) ^ 1)  # as if other packages had rendered it
    damaged = run / "candidates.zarr" / "bezier" / "mask" / "c.1.0.0"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(StaleRunError, match="the installed packages render different pixels"):
        repair(run, 0, 0, LogReporter())
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert before == after


def test_a_run_that_lost_its_candidates_keeps_the_former_set_when_it_is_extended(
    finished: Path, patches: Path, tmp_path: Path
) -> None:
    run = copied(finished, tmp_path / "run")
    former = CuratedSet(run / "curated.zarr").digest
    shutil.rmtree(run / "candidates.zarr")
    build(tiny(patches, 6), run, HERE, LogReporter(), extend=True)
    (aside,) = run.glob("curated-*.zarr")
    assert CuratedSet(aside).digest == former and len(CuratedSet(run / "curated.zarr")) == 6


UNFINISHED = {"SHA256SUMS", "report.html", "README.md"}  # files that an unfinished run does not have


@pytest.mark.parametrize("last", ["report.html", ".driver", ".lock"])
def test_the_next_build_removes_the_leftovers_of_a_killed_build(
    finished: Path, patches: Path, tmp_path: Path, last: str
) -> None:
    def extended(run: Path) -> None:
        build(tiny(patches, 6), run, HERE, LogReporter(), extend=True)

    whole = copied(finished, tmp_path / "whole")
    with cut_at(whole, math.inf) as undisturbed:
        extended(whole)
    step = max(number for number, name in enumerate(undisturbed.names) if last in name)
    run = copied(finished, tmp_path / "run")
    with cut_at(run, step), suppress(Exception):
        extended(run)
    extended(run)
    assert contents(run) == contents(whole)


def test_an_export_that_is_cut_keeps_its_parts_and_ends_at_the_next_attempt(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: int
) -> None:
    # in this process, so that its steps can be cut
    monkeypatch.setattr(
        "synthpipe.export.exporting.ProcessPoolExecutor",
        lambda workers, _, begin, arguments: ThreadPoolExecutor(1, initializer=begin, initargs=arguments),
    )
    curated = CuratedSet(finished / "curated.zarr")

    form = form_of("png", curated.description)
    settings = {"form": "png", "part": 1, "curated": {"digest": curated.digest, "composites": len(curated)}}

    def after(folder: Path) -> None:
        for number, record in Ledger(folder, settings).parts.items():
            names = form.names(part_of(curated, number, 1))
            _, _, sha256 = digest_of((name, (folder / name).read_bytes()) for name in names)
            assert sha256 == record.sha256

    cut_everywhere(None, lambda folder: export(curated, "png", folder, LogReporter(), 1, 0), after, tmp_path, cuts)


def test_a_cut_while_a_run_is_reopened_leaves_it_unfinished(finished: Path, tmp_path: Path) -> None:
    def reopened(folder: Path, step: float) -> Cut:
        with cut_at(copied(finished, folder), step) as cut, suppress(OSError):
            RunDirectory(folder).reopen()
        return cut

    steps = reopened(tmp_path / "whole", math.inf).steps
    for step in range(steps):
        reopened(tmp_path / f"cut-{step}", step)
        assert is_finished(RunDirectory(tmp_path / f"cut-{step}")) is (step == 0)
    run = tmp_path / f"cut-{steps - 1}"
    build(RunDirectory(run).pipeline(), run, HERE, LogReporter())
    assert contents(run) == contents(finished)


def _digest(store: Path) -> str | None:
    with suppress(OSError):
        return CuratedSet(store).digest
    return None
