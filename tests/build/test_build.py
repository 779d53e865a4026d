"""Builds from beginning to end, with real workers, real Zarr and a real filter."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from click.testing import CliRunner
from PIL import Image as PillowImage
from zarr.storage import LocalStore

from synthpipe.build import build
from synthpipe.build.tasks import Job, ScoreTask, ShardTask, WorkerState, render_shard, score_shards
from synthpipe.build.worker_setup import bank_location, demand, open_worker_setup
from synthpipe.cli.main import main
from synthpipe.cli.progress import LogReporter
from synthpipe.compose import Donors, render
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import CatalogError, FilterError, StaleRunError, StoreError
from synthpipe.core.progress import Advance, Silent
from synthpipe.core.records import REASONS, STRATEGIES, PatchRef, Strategy, recipe_from_json
from synthpipe.core.taxonomy import LOST
from synthpipe.curated import CuratedSet
from synthpipe.patches.bank import load_donor
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.report import write_report
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.filter_report import load_report
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import array, open_group
from synthpipe.storage.shard_writing import write_shard
from synthpipe.storage.shards import complete_shards, shard_size
from synthpipe.verification import verify
from tests.conftest import DEMO, SMALL, pipeline

CANDIDATE_ARRAYS = ("image", "mask", "recipe", "class_pixels", "donors")


@pytest.fixture(scope="module")
def patches(phantom: Path) -> Path:
    return phantom


def small(patches: Path, *overrides: str) -> Pipeline:
    return pipeline(*SMALL, f"patches.root={patches}", *overrides)


def run(settings: Pipeline, path: Path, workers: int = 0) -> dict[str, Any]:
    return build(settings, path, ClusterSettings(Local(workers)), LogReporter())


def opened(path: Path) -> Any:
    """Open a group as a user does, without a thought for static types."""
    return zarr.open_group(path, mode="r")


def hashes(path: Path, names: tuple[str, ...] = CANDIDATE_ARRAYS) -> dict[str, str]:
    """Return a digest of each named array of a store's groups."""
    found = {}
    for child, group in [(path.name, opened(path)), *opened(path).groups()]:
        for name in names:
            if name in group:
                values = np.asarray(group[name][:])
                data = "\n".join(values).encode() if name == "recipe" else values.tobytes()
                found[f"{child}/{name}"] = hashlib.sha256(data).hexdigest()
    return found


@pytest.fixture(scope="module")
def finished(small_run: Path) -> tuple[Path, dict[str, Any]]:
    return small_run, RunDirectory(small_run).journal()


@pytest.fixture(scope="module")
def unfiltered(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "unfiltered"
    run(small(patches, "filter.enabled=false", "curation.wanted=30"), path)
    return path


def test_the_curated_set_is_what_was_kept_of_the_candidates(finished: tuple[Path, dict[str, Any]]) -> None:
    path, journal = finished
    curated = opened(path / "curated.zarr")
    assert curated["image"].shape == (24, 32, 32, 3)
    rows = [np.asarray(curated[name][:]) for name in ("origin_strategy", "origin_index", "image", "mask", "p_real")]
    kept: dict[str, list[int]] = {"mosaic": [], "bezier": []}
    for code, index, image, mask, p_real in zip(*rows, strict=True):
        strategy = STRATEGIES[code]
        kept[strategy].append(int(index))
        origin = opened(path / "candidates.zarr" / strategy)
        assert np.array_equal(origin["image"][index], image)
        assert np.array_equal(origin["mask"][index], mask)
        assert origin["p_real"][index] == p_real
    for strategy, indices in kept.items():
        origin = opened(path / "candidates.zarr" / strategy)
        verdicts = np.asarray(origin["verdict"][:])
        assert indices == np.nonzero(verdicts == REASONS.index("kept"))[0].tolist() and len(indices) == 12
        counts = journal["strategies"][strategy]["verdicts"]
        assert {reason: counts[reason] for reason in REASONS} == {
            reason: int((verdicts == code).sum()) for code, reason in enumerate(REASONS)
        }
        p_real = np.asarray(origin["p_real"][:])
        several = (np.asarray(origin["class_pixels"][:])[:, :3] >= 0.01 * 32 * 32).sum(1) > 1
        assert p_real[indices].min() >= np.sort(p_real[several])[-12]


def test_masks_labels_and_pixel_counts_agree(finished: tuple[Path, dict[str, Any]]) -> None:
    curated = opened(finished[0] / "curated.zarr")
    masks = np.asarray(curated["mask"][:])
    assert masks.max() <= curated.attrs["background_index"] == curated.attrs["ignore_index"] == 3
    assert curated["mask"].fill_value == LOST
    labels = np.stack([(masks == index).any((1, 2)) for index in range(3)], axis=1)
    assert np.array_equal(np.asarray(curated["labels"][:]), labels)
    assert [tissue["name"] for tissue in curated.attrs["classes"]] == ["tumour", "stroma", "normal"]
    for strategy in STRATEGIES:
        group = opened(finished[0] / "candidates.zarr" / strategy)
        counted = [np.bincount(mask.ravel(), minlength=4) for mask in np.asarray(group["mask"][:])]
        assert np.array_equal(np.asarray(group["class_pixels"][:]), counted)


def test_donor_groups_are_those_of_the_recipe(finished: tuple[Path, dict[str, Any]]) -> None:
    path, _ = finished
    curated = opened(path / "curated.zarr")
    catalog = load_catalog(path, pipeline().taxonomy)
    groups = curated.attrs["groups"]
    for text, row in zip(curated["recipe"][:], np.asarray(curated["donor_groups"][:]), strict=True):
        expected = {catalog.by_id(patch).group for patch in recipe_from_json(str(text)).donors()}
        assert {groups[number] for number in row if number >= 0} == expected


def test_the_filter_never_sees_a_slide_on_both_sides(finished: tuple[Path, dict[str, Any]]) -> None:
    path, journal = finished
    split = json.loads((path / "filter" / "split.json").read_text())
    assert not set(split["train"]) & set(split["validation"])
    catalog = load_catalog(path, pipeline().taxonomy)
    for strategy in STRATEGIES:
        recipes = opened(path / "filter" / "training.zarr" / strategy)["recipe"][:40]
        for index, text in enumerate(recipes):
            side = "train" if index < 32 else "validation"
            donors = recipe_from_json(str(text)).donors()
            assert {catalog.by_id(patch).group for patch in donors} <= set(split[side])
        report = json.loads((path / "filter" / f"{strategy}.json").read_text())
        assert journal["strategies"][strategy]["filter"]["accuracy"] == report["accuracy"]
        assert report["synthetic_train"] == 32 and report["synthetic_val"] == 8
        assert 0 <= journal["strategies"][strategy]["acceptance"] <= 1


def test_training_composites_are_no_candidates(finished: tuple[Path, dict[str, Any]]) -> None:
    training = hashes(finished[0] / "filter" / "training.zarr")
    candidates = hashes(finished[0] / "candidates.zarr")
    assert set(training) == set(candidates) and not set(training.values()) & set(candidates.values())


def test_recipes_render_the_stored_bytes(finished: tuple[Path, dict[str, Any]], patches: Path) -> None:
    path, _ = finished
    settings = small(patches)
    catalog = load_catalog(path, settings.taxonomy)
    donors = Donors(load_donor(patch, settings.glass, settings.taxonomy.background) for patch in catalog.donors)
    for strategy in STRATEGIES:
        group = opened(path / "candidates.zarr" / strategy)
        for index in range(20):
            composite = render(recipe_from_json(str(group["recipe"][index])), donors)
            assert np.array_equal(composite.image, group["image"][index])
            assert np.array_equal(composite.mask, group["mask"][index])


def test_a_finished_build_does_nothing(finished: tuple[Path, dict[str, Any]], patches: Path) -> None:
    path, journal = finished
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    reporter = Recorder()
    journal_again = build(small(patches), path, ClusterSettings(Local(2)), reporter)
    assert journal_again == json.loads((path / "build.json").read_text()) == journal
    assert reporter.stages == [] and reporter.notes == [f"{path} is finished: nothing to do"]
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("strategy", ["mosaic", "bezier"])
def test_scores_are_the_same_however_many_shards_a_task_has(
    finished: tuple[Path, dict[str, Any]], patches: Path, tmp_path: Path, strategy: Strategy
) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    settings, directory = small(patches), RunDirectory(path)
    scores = [path / "candidates.zarr" / strategy / "p_real" / f"c.{shard}" for shard in (0, 1)]
    before = [shard.read_bytes() for shard in scores]
    bank = bank_location(settings, load_catalog(path, settings.taxonomy), None)
    worker = WorkerState(Job(settings, directory, bank))
    for shards in ((0, 1), (1, 0), (1,)):
        for shard in shards:
            scores[shard].unlink()
        assert score_shards(worker, ScoreTask(strategy, shards))[0] == 8 * len(shards)
        assert [shard.read_bytes() for shard in scores] == before
    assert worker.scorer(strategy) is worker.scorer(strategy)  # a filter is loaded once
    stored = {file: file.read_bytes() for file in (path / "candidates.zarr").rglob("c.*")}
    score_shards(worker, ScoreTask(strategy, (0, 1)))  # again, as after a lost worker
    assert {file: file.read_bytes() for file in (path / "candidates.zarr").rglob("c.*")} == stored


def test_xarray_opens_a_run(finished: tuple[Path, dict[str, Any]]) -> None:
    dataset = xarray.open_zarr(finished[0] / "candidates.zarr", group="mosaic", consolidated=False)
    kept = dataset.isel(sample=(dataset.verdict == 0).values)
    assert dict(kept.sizes) == {"sample": 12, "y": 32, "x": 32, "channel": 3, "class_or_background": 4, "donor_use": 16}
    curated = xarray.open_zarr(finished[0] / "curated.zarr", consolidated=False)
    assert curated.mask.dtype == np.uint8 and curated.sizes["sample"] == 24
    assert np.array_equal(curated.p_real.values[:12], kept.p_real.values)


def test_copies_of_metadata_in_the_stores_are_passed_over_and_dropped(
    finished: tuple[Path, dict[str, Any]], patches: Path, tmp_path: Path
) -> None:
    """As xarray's warning suggests them; they would tell of the former lengths once the run is extended."""

    path = Path(shutil.copytree(finished[0], tmp_path / "run"))
    stores = [path / name for name in ("candidates.zarr", "filter/training.zarr", "curated.zarr")]
    for store in stores:
        with pytest.warns(UserWarning, match="Consolidated metadata"):
            zarr.consolidate_metadata(LocalStore(store))
    assert not verify(path, 0, LogReporter()).faults
    for command in (["status", str(path)], ["inspect", str(path)], ["inspect", str(stores[2])]):
        assert CliRunner().invoke(main, command).exit_code == 0
    assert len(CuratedSet(stores[2]).to_torch()[23]["mask"]) == 32
    out = ["export", str(stores[2]), "--to", "png", "-o", str(tmp_path / "png"), "--workers", "0"]
    assert CliRunner().invoke(main, out).exit_code == 0
    more = small(patches, "curation.wanted=14")
    build(more, path, ClusterSettings(Local(0)), LogReporter(), extend=True)
    assert len(CuratedSet(path / "curated.zarr")) == 28 and not verify(path, 0, LogReporter()).faults
    for store in stores:
        assert "consolidated_metadata" not in json.loads((store / "zarr.json").read_text())


def test_damaged_metadata_is_told_before_the_curated_set_makes_room(
    unfiltered: Path, patches: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(unfiltered, tmp_path / "run"))
    (path / "candidates.zarr" / "bezier" / "mask" / "zarr.json").write_text("{")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != ".lock"}
    more = small(patches, "filter.enabled=false", "curation.wanted=32")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"bezier/mask/zarr\.json: damaged"):
            build(more, path, ClusterSettings(Local(0)), LogReporter(), extend=True)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != ".lock"} == before


def test_workers_shards_and_order_do_not_change_bytes(unfiltered: Path, patches: Path, tmp_path: Path) -> None:
    expected = hashes(unfiltered / "candidates.zarr") | hashes(unfiltered / "curated.zarr")
    changes = ["filter.enabled=false", "curation.wanted=30"]
    run(small(patches, *changes), tmp_path / "two", workers=2)
    assert hashes(tmp_path / "two" / "candidates.zarr") | hashes(tmp_path / "two" / "curated.zarr") == expected
    run(small(patches, *changes, "store.shard=7"), tmp_path / "sevens")
    assert hashes(tmp_path / "sevens" / "candidates.zarr") | hashes(tmp_path / "sevens" / "curated.zarr") == expected
    # as if the first shards had been the last to be finished, and the driver had died before the end
    for lost in [*tmp_path.glob("two/candidates.zarr/*/*/c.0*"), *tmp_path.glob("two/curated.zarr/*/c.1*")]:
        lost.unlink()
    journal = json.loads((tmp_path / "two" / "build.json").read_text())
    (tmp_path / "two" / "build.json").write_text(json.dumps(journal | {"finished": False}))
    assert hashes(tmp_path / "two" / "candidates.zarr") != {
        key: value for key, value in expected.items() if not key.startswith("curated")
    }
    run(small(patches, *changes), tmp_path / "two")
    assert hashes(tmp_path / "two" / "candidates.zarr") | hashes(tmp_path / "two" / "curated.zarr") == expected


@pytest.mark.faults
def test_a_killed_build_goes_on_to_the_same_bytes(
    finished: tuple[Path, dict[str, Any]], patches: Path, tmp_path: Path
) -> None:
    path = tmp_path / "killed"
    command = [sys.executable, "-m", "synthpipe", "build", str(DEMO), "-o", str(path), "--workers", "2"]
    for override in (*SMALL, f"patches.root={patches}"):
        command += ["--set", override]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wanted = path / "filter" / "training.zarr" / "bezier" / "image" / "c.2.0.0.0"
    deadline = time.monotonic() + 120
    while not wanted.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert wanted.exists() and not (path / "curated.zarr").exists()
    run(small(patches), path)
    names = (*CANDIDATE_ARRAYS, "p_real", "verdict", "labels", "origin_index")
    for store in ("candidates.zarr", "curated.zarr", "filter/training.zarr"):
        assert hashes(path / store, names) == hashes(finished[0] / store, names)
    for strategy in STRATEGIES:
        weights = [(root / "filter" / f"{strategy}.safetensors").read_bytes() for root in (path, finished[0])]
        assert weights[0] == weights[1]


def test_another_pipeline_is_refused_with_what_differs(unfiltered: Path, patches: Path) -> None:
    with pytest.raises(StaleRunError) as caught:
        run(small(patches, "filter.enabled=false", "curation.wanted=29", "seed=7"), unfiltered)
    assert "seed: 2024 -> 7" in str(caught.value)
    assert "curation.wanted.mosaic: 30 -> 29" in str(caught.value)


def test_other_patches_are_refused(unfiltered: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_phantom(other, PhantomSpec(seed=1, slides=6, patches=90, size=48, images=0))
    journal = json.loads((unfiltered / "build.json").read_text())
    (unfiltered / "build.json").write_text(json.dumps(journal | {"finished": False}))
    try:
        with pytest.raises(StaleRunError, match="the patches have changed since this run was begun"):
            run(small(other, "filter.enabled=false", "curation.wanted=30"), unfiltered)
    finally:
        (unfiltered / "build.json").write_text(json.dumps(journal))


def test_low_acceptance_stops_with_choices_and_nothing_is_lost(patches: Path, tmp_path: Path) -> None:
    rules = ("curation.rule=threshold", "curation.threshold=1.0", "curation.min_acceptance=0.05")
    said = r"(?s)accepts 0\.00% of 20 candidates.*threshold.*top_k.*filter\.enabled.*`synthpipe report"
    with pytest.raises(FilterError, match=said):
        run(small(patches, *rules), tmp_path / "run")
    stored = sorted((tmp_path / "run" / "candidates.zarr" / "mosaic" / "image").iterdir())
    times = [file.stat().st_mtime_ns for file in stored if file.name.startswith("c.")]
    assert len(times) == 3 and not (tmp_path / "run" / "curated.zarr").exists()
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")  # as the error recommends
    assert "Candidates, none chosen yet" in page and "of the first 20, 0 may be kept;" in page
    journal = run(small(patches, *rules, "filter.enabled=false"), tmp_path / "run")
    assert [file.stat().st_mtime_ns for file in stored if file.name.startswith("c.")] == times
    assert journal["strategies"]["mosaic"]["verdicts"]["kept"] == 12
    assert math.isnan(float(opened(tmp_path / "run" / "curated.zarr")["p_real"][0]))


def test_settings_may_change_until_a_stage_has_made_something(patches: Path, tmp_path: Path) -> None:
    one_class = "patches.exclude=['*0, 1, 0]*', '*0, 0, 1]*']"
    with pytest.raises(CatalogError):
        run(small(patches, one_class, "filter.enabled=false"), tmp_path / "run")
    # nothing was made: other patches and another seed are welcome. The first plan is too short to show three classes
    rules = ("filter.enabled=false", "seed=5", "curation.min_classes=3", "bezier=null")
    with pytest.raises(FilterError, match="only 0 of 40"):
        run(small(patches, *rules, "curation.min_class_share=0.4", "curation.max_candidates=40"), tmp_path / "run")
    run(small(patches, *rules), tmp_path / "run")
    dataset = xarray.open_zarr(tmp_path / "run" / "candidates.zarr", group="mosaic", consolidated=False)
    assert dataset.sizes["sample"] == 40
    assert (dataset.verdict.values == REASONS.index("kept")).sum() == 12
    assert (dataset.verdict.values[24:] == REASONS.index("surplus")).all()
    run(small(patches, *rules), tmp_path / "fresh")
    names = ("image", "mask", "recipe", "origin_index")
    assert hashes(tmp_path / "run" / "curated.zarr", names) == hashes(tmp_path / "fresh" / "curated.zarr", names)


def test_what_the_filter_was_made_with_may_not_change(finished: tuple[Path, dict[str, Any]], patches: Path) -> None:
    with pytest.raises(StaleRunError, match=r"filter\.train_share: 0\.8 -> 0\.5"):
        run(small(patches, "filter.train_share=0.5"), finished[0])


def copy_unfinished(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    (target / "build.json").unlink()
    return target


def test_composites_without_their_run_file_are_refused(unfiltered: Path, patches: Path, tmp_path: Path) -> None:
    path = copy_unfinished(unfiltered, tmp_path / "run")
    (path / "run.json").unlink()
    with pytest.raises(StaleRunError, match=r"holds composites but no run\.json"):
        run(small(patches, "filter.enabled=false", "curation.wanted=30"), path)


@pytest.mark.parametrize("name", ["recipe", "class_pixels", "mask", "image"])
def test_a_shard_that_any_array_lacks_is_made_again(unfiltered: Path, patches: Path, tmp_path: Path, name: str) -> None:
    path = copy_unfinished(unfiltered, tmp_path / "run")
    shutil.rmtree(path / "curated.zarr")
    for shard in path.glob(f"candidates.zarr/*/{name}/c.1*"):
        shard.unlink()
    run(small(patches, "filter.enabled=false", "curation.wanted=30"), path)
    for store in ("candidates.zarr", "curated.zarr"):
        assert hashes(path / store) == hashes(unfiltered / store)


def test_other_versions_are_told_and_the_first_ones_stay(
    unfiltered: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy_unfinished(unfiltered, tmp_path / "run")
    data = json.loads((path / "run.json").read_text())
    data["versions"]["opencv-python-headless"] = "3.0"
    (path / "run.json").write_text(json.dumps(data))
    run(small(patches, "filter.enabled=false", "curation.wanted=30"), path)
    assert "was begun with opencv-python-headless 3.0, but 4" in capsys.readouterr().err
    assert json.loads((path / "run.json").read_text())["versions"] == data["versions"]


def test_a_curated_set_that_is_gone_is_made_again(unfiltered: Path, patches: Path, tmp_path: Path) -> None:
    shutil.copytree(unfiltered, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "curated.zarr")
    run(small(patches, "filter.enabled=false", "curation.wanted=30"), tmp_path / "run")
    assert hashes(tmp_path / "run" / "curated.zarr") == hashes(unfiltered / "curated.zarr")


def test_lost_weights_are_trained_again_and_others_refused(
    finished: tuple[Path, dict[str, Any]], patches: Path, tmp_path: Path
) -> None:
    path = copy_unfinished(finished[0], tmp_path / "run")
    expected = (path / "filter" / "mosaic.safetensors").read_bytes()
    (path / "filter" / "mosaic.safetensors").unlink()
    run(small(patches), path)
    assert (path / "filter" / "mosaic.safetensors").read_bytes() == expected
    (path / "build.json").unlink()
    shutil.copy(path / "filter" / "bezier.safetensors", path / "filter" / "mosaic.safetensors")
    next(path.glob("candidates.zarr/mosaic/p_real/c.0")).unlink()
    with pytest.raises(FilterError, match=r"mosaic\.safetensors: is not the filter that its report"):
        run(small(patches), path)


def test_the_plan_is_extended_within_its_bound(patches: Path, tmp_path: Path) -> None:
    # four tiles show three classes in less than half of the composites
    tiles = ("mosaic.grid=1", "mosaic.tile=32")
    rules = ("filter.enabled=false", "curation.min_classes=3", "bezier=null", "curation.wanted=20", *tiles)
    journal = run(small(patches, *rules), tmp_path / "run")
    entry = journal["strategies"]["mosaic"]
    assert 20 < entry["candidates"] <= 80 and entry["verdicts"]["kept"] == 20
    assert entry["verdicts"]["too_few_classes"] > 0
    rounds = journal["rounds"]
    assert [row["round"] for row in rounds] == list(range(1, len(rounds) + 1)) and len(rounds) > 1
    assert [row["kept"] < 20 for row in rounds] == [True] * (len(rounds) - 1) + [False]
    assert sum(row["new"] for row in rounds) == rounds[-1]["candidates"] == entry["candidates"]
    assert {reason: rounds[-1][reason] for reason in REASONS} == entry["verdicts"]
    assert rounds[-1]["donors"] == entry["donors"]["used"] and rounds[-1]["scored"] == 0
    with pytest.raises(
        FilterError,
        match=r"(?s)only \d+ of 24 Mosaic.*max_candidates=.*min_classes=.*too few classes",
    ):
        run(
            small(
                patches,
                *rules,
                "curation.wanted=24",
                "curation.max_candidates=24",
                "mosaic.grid=[1, 1]",
                "mosaic.tile=32",
            ),
            tmp_path / "bounded",
        )


def test_without_mixed_patches_the_filter_is_refused_and_can_be_left_out(patches: Path, tmp_path: Path) -> None:
    exclude = "patches.exclude=['*1, 1, 0]*', '*1, 0, 1]*', '*0, 1, 1]*', '*1, 1, 1]*']"
    with pytest.raises(FilterError, match="the filter needs real patches with several classes"):
        run(small(patches, exclude), tmp_path / "run")
    assert not (tmp_path / "run" / "candidates.zarr").exists()
    run(small(patches, exclude, "filter.enabled=false"), tmp_path / "run")


def test_patches_that_cannot_donate_are_refused(patches: Path, tmp_path: Path) -> None:
    only_mixed = "patches.exclude=['*1, 0, 0]*', '*0, 1, 0]*', '*0, 0, 1]*']"
    with pytest.raises(CatalogError, match="no patch has exactly one class"):
        run(small(patches, only_mixed), tmp_path / "one")
    one_class = "patches.exclude=['*0, 1, 0]*', '*0, 0, 1]*']"
    with pytest.raises(CatalogError, match=r"show only tumour, but curation\.min_classes is 2"):
        run(small(patches, one_class), tmp_path / "two")
    with pytest.raises(CatalogError, match=r"no pair of bezier\.pairs has single-class patches of both"):
        run(small(patches, one_class, "mosaic=null"), tmp_path / "three")


def test_a_patch_that_changed_after_indexing_is_named(patches: Path, tmp_path: Path) -> None:
    root = tmp_path / "patches"
    write_phantom(root, PhantomSpec(slides=6, patches=90, size=48, images=0))
    settings = small(root, "filter.enabled=false", "curation.wanted=200", "curation.max_candidates=200")
    with pytest.raises(FilterError):
        run(small(root, "filter.enabled=false", "curation.min_class_share=0.5"), tmp_path / "run")
    victim = next((root / "1.training").glob("*0, 1, 0]*"))
    PillowImage.new("RGB", (48, 48)).save(victim)
    with pytest.raises(CatalogError, match=r"has changed since it was indexed") as caught:
        run(settings, tmp_path / "run")
    assert victim.name in str(caught.value)


def test_a_damaged_shard_is_named_and_made_again(unfiltered: Path, patches: Path, tmp_path: Path) -> None:
    path = copy_unfinished(unfiltered, tmp_path / "run")
    shutil.rmtree(path / "curated.zarr")
    victim = path / "candidates.zarr" / "bezier" / "class_pixels" / "c.1.0"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    settings = small(patches, "filter.enabled=false", "curation.wanted=30")
    with pytest.raises(StoreError, match=r"class_pixels/c\.1\.0: damaged: .*remove it and repeat the command"):
        run(settings, path)
    victim.unlink()
    run(settings, path)
    assert hashes(path / "curated.zarr") == hashes(unfiltered / "curated.zarr")


def turn_around(path: RunDirectory, strategy: Strategy) -> None:
    """Put another filter in the place of a trained one: it likes what that disliked."""
    # workers that import this module for the sake of others in it have no memory for torch
    import torch

    from synthpipe.filtering.network import load_network, save_weights

    network, _ = load_network(path.weights(strategy), torch.device("cpu"))
    weights = {name: -each if name.startswith("fc.") else each for name, each in network.module.state_dict().items()}
    digest = save_weights(path.weights(strategy), network.architecture, weights)
    report = path.report(strategy)
    report.write_text(replace(load_report(report), model_sha256=digest).to_json())


class Recorder(Silent):
    """Keeps the titles of stages and the notes."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        self.stages.append(title)
        return super().stage(title, total)

    def note(self, message: str) -> None:
        self.notes.append(message)


class StopsAtTheCuratedSet(LogReporter):
    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        if title == "curated set":
            raise KeyboardInterrupt
        with super().stage(title, total) as advance:
            yield advance


def test_of_another_filters_scores_follows_another_curated_set(
    finished: tuple[Path, dict[str, Any]], patches: Path, tmp_path: Path
) -> None:
    path, settings = copy_unfinished(finished[0], tmp_path / "run"), small(patches)
    old = CuratedSet(path / "curated.zarr")
    for strategy in STRATEGIES:
        turn_around(RunDirectory(path), strategy)
    with pytest.raises(
        StaleRunError, match=r"another filter than .* gave its scores; remove its p_real folder and build again"
    ):
        run(settings, path)
    for strategy in STRATEGIES:
        shutil.rmtree(path / "candidates.zarr" / strategy / "p_real")
    with pytest.raises(KeyboardInterrupt):
        build(settings, path, ClusterSettings(Local(0)), StopsAtTheCuratedSet())
    with pytest.raises(StoreError, match=r"curated\.zarr: is not complete"):
        CuratedSet(path / "curated.zarr")
    image = Path("curated.zarr", "image", "c.0.0.0.0")  # with it, a whole shard of the former set is there
    shutil.copy(finished[0] / image, path / image)
    run(settings, path)
    new = CuratedSet(path / "curated.zarr")
    assert len(new) == len(old) and {*map(new.origin, range(24))} != {*map(old.origin, range(24))}
    assert not verify(path, 0, LogReporter()).faults


def test_a_set_of_former_scores_gives_way_where_new_ones_keep_too_few(patches: Path, tmp_path: Path) -> None:
    path, rules = tmp_path / "run", ("bezier=null", "curation.rule=threshold", "curation.threshold=0")
    run(small(patches, *rules), path)
    old = CuratedSet(path / "curated.zarr").digest
    scores = array(open_group(path / "candidates.zarr", "mosaic", writable=True), "p_real")
    for shard in complete_shards(scores):
        write_shard(scores, shard, np.zeros(shard_size(scores), np.float32))
    (path / "build.json").unlink()
    with pytest.raises(FilterError, match=r"accepts 0\.00%.*\n(.*\n)*.*filter\.enabled=false"):
        run(small(patches, *rules), path)
    run(small(patches, *rules, "filter.enabled=false"), path)  # as the error recommends
    assert np.isnan(CuratedSet(path / "curated.zarr").p_real).all()
    assert [CuratedSet(aside).digest for aside in path.glob("curated-*.zarr")] == [old]


def test_a_build_that_is_stopped_before_its_cards_is_not_finished(
    unfiltered: Path, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, settings = tmp_path / "run", small(patches, "filter.enabled=false", "curation.wanted=30")
    shutil.copytree(unfiltered, path)
    shutil.rmtree(path / "curated.zarr")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("synthpipe.build.run.write_cards", stop)
        run(settings, path)
    assert "finished" not in RunDirectory(path).journal()
    run(settings, path)
    assert not verify(path, 0, LogReporter()).faults and (path / "README.md").exists()


def test_a_composite_that_fails_is_named_with_its_recipe(
    unfiltered: Path, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(recipe: object, *_: object) -> None:
        raise ZeroDivisionError("no such curve")

    path = copy_unfinished(unfiltered, tmp_path / "run")
    settings = small(patches, "filter.enabled=false", "curation.wanted=30")
    catalog = load_catalog(path, settings.taxonomy)
    job = Job(settings, RunDirectory(path), bank_location(settings, catalog, tmp_path / "scratch"))
    for name in ("render", "render_block"):
        monkeypatch.setattr(f"synthpipe.build.tasks.rendering.{name}", fail)
    with (
        open_worker_setup(job, catalog) as setup,
        setup.prepared(lambda steps: None) as state,
        pytest.raises(ZeroDivisionError, match="no such curve") as caught,
    ):
        render_shard(state, ShardTask("bezier", "candidate", 2))
    (note,) = pickle.loads(pickle.dumps(caught.value)).__notes__
    recipe = opened(path / "candidates.zarr")["bezier"]["recipe"][16]
    assert note == f"while rendering bezier candidate composite 16, recipe {recipe}"


def test_a_journal_that_says_little_is_no_end(unfiltered: Path, patches: Path, tmp_path: Path) -> None:
    path = copy_unfinished(unfiltered, tmp_path / "run")
    (path / "build.json").write_text('{"finished": true}')
    journal = run(small(patches, "filter.enabled=false", "curation.wanted=30"), path)
    assert journal["strategies"]["mosaic"]["verdicts"]["kept"] == 30


@pytest.mark.parametrize(
    ("after", "seconds", "times"),
    [("catalog: 9", 0.3, 1), pytest.param("catalog: 9", 0.9, 1, marks=pytest.mark.slow), ("donors: 0", 0, 4)],
)
def test_ctrl_c_is_quiet_while_workers_start_and_when_it_is_pressed_often(
    patches: Path, tmp_path: Path, after: str, seconds: float, times: int
) -> None:
    command = [sys.executable, "-m", "synthpipe", "build", str(DEMO), "-o", str(tmp_path / "run")]
    endless = ("curation.wanted=100000", "curation.max_candidates=200000")
    for override in (*SMALL, f"patches.root={patches}", "filter.enabled=false", *endless):
        command += ["--set", override]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr
    told = []
    for line in process.stderr:
        told.append(line)
        if after in line:
            break
    for _ in range(times):
        time.sleep(seconds or 0.1)
        os.killpg(process.pid, signal.SIGINT)
    with process.stderr:
        last = process.stderr.readlines()
    assert process.wait(30) == 1
    assert last[-1] == "Error: interrupted; finished work is kept: run the command again\n"
    assert all(re.match(r"[0-9:]{8} (note:|donors|[Mm]osaic|[Bb]ezier|waiting)", line) for line in last[:-1]), last


def test_training_is_given_room_for_the_patches_that_it_holds() -> None:
    settings = pipeline(*SMALL)  # 32 composites of 32 x 32 pixels train

    def room(size: int, count: int) -> int:
        mixed = [PatchRef(f"{n:03}", "", "", (0, 1), size, 2 * size, f"slide{n % 2}") for n in range(2 * count)]
        return demand(settings, Catalog(tuple(mixed)), {"train": {"slide0"}, "validation": {"slide1"}}).training

    assert room(16, 10) == room(16, 100)  # smaller than the canvas
    for size in (100, 1000):
        assert room(size, 10) - room(16, 10) == 10 * 3 * (2 * size**2 - 32**2)
        assert room(size, 100) - room(16, 100) == 32 * 3 * (2 * size**2 - 32**2)


@pytest.mark.parametrize(
    ("number", "workers"),
    [pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow), (signal.SIGTERM, 1), (signal.SIGINT, 0)],
)
def test_an_interrupted_build_cleans_up_and_says_how_to_go_on(
    patches: Path, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "synthpipe", "build", str(DEMO), "-o", str(tmp_path / "run")]
    for override in (*SMALL, f"patches.root={patches}", "filter.enabled=false", "curation.wanted=100000"):
        command += ["--set", override]
    command += ["--set", "curation.max_candidates=200000", "--workers", str(workers)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        # whoever runs the tests in the background may have Ctrl-C ignored, which processes inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wanted = tmp_path / "run" / "candidates.zarr" / "mosaic" / "image" / "c.2.0.0.0"
    deadline = time.monotonic() + 60
    while not wanted.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
    output, _ = process.communicate(timeout=30)
    assert wanted.exists() and process.returncode == 1
    assert output.endswith("Error: interrupted; finished work is kept: run the command again\n")
    assert "Traceback" not in output and not list(scratch.glob("synthpipe-*"))
