from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.datacomp.__main__ import main
from benchmarks.datacomp.glas import by_grade, by_patient
from benchmarks.datacomp.page import write_page
from benchmarks.datacomp.rows import ROWS, Built, MeanTaught
from benchmarks.datacomp.rules import RULES
from benchmarks.datacomp.samples import Predict, Samples
from benchmarks.datacomp.sets import DataSet
from benchmarks.datacomp.statistics import compared, miou
from benchmarks.datacomp.stored_results import Bench, Cell, Result, read
from benchmarks.datacomp.trainer import Trainer
from synthpipe import open_run
from synthpipe.core.errors import ConfigError
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.segment.metrics import Counts, measure
from tests.conftest import DEMO, SMALL

TINY = Trainer("tiny", "FPN", "test_resnet", False, steps=4, batch=4, learning_rate=1e-3, looks=2)
ROUND = ("masks", "labels", "mosaic", "random-k")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A phantom of seconds."""
    folder = tmp_path_factory.mktemp("datacomp")
    write_phantom(folder / "phantom", PhantomSpec(slides=6, patches=60, size=48, images=2))
    masked, validation, test = (folder / "phantom" / part for part in ("masked", "2.validation", "3.testing"))
    data = DataSet("phantom", DEMO, folder / "phantom", masked, validation, test, SMALL)
    results = folder / "results"
    results.mkdir()
    return Bench(data, results, folder / "runs")


def untrained(samples: Samples) -> Predict:
    raise AssertionError("this row trains no network of its own")


@pytest.mark.slow
def test_rows_are_measured_kept_and_made_again_alike(bench: Bench) -> None:
    cells = {(row, seed): Cell("phantom", "scratch", 16, row, seed) for row in ROUND for seed in (0, 1)}
    for cell in cells.values():
        bench.run([(cell, TINY)], threads=1)
    found = {key: read(bench.results / cell.file) for key, cell in cells.items()}
    assert all(each.confusions.sum() > 0 and each.about["samples"] == 16 for each in found.values())
    assert not any(bench.runs.iterdir())
    written = {path: path.read_bytes() for path in bench.results.iterdir()}
    lost = bench.results / cells["random-k", 1].file
    lost.unlink()
    for cell in cells.values():
        bench.run([(cell, TINY)], threads=1)
    assert json.loads(written.pop(lost)) == json.loads(lost.read_bytes()) | {
        "seconds": found["random-k", 1].about["seconds"]
    }
    assert {path: path.read_bytes() for path in written} == written
    page = write_page(bench.results)
    assert all(f"| {row} | {ROWS[row].about} |" in page for row in ROUND) and "| mosaic | labels |" in page
    assert "4 steps of 4 images" in page


@pytest.mark.slow
def test_the_seed_changes_the_composites_and_the_network(bench: Bench) -> None:
    first, second = (
        ROWS["mosaic"].recipe(bench.data, 8, seed, bench.runs / f"of-{seed}", untrained) for seed in (0, 1)
    )
    assert not np.array_equal(first.images, second.images)


@pytest.mark.slow
def test_random_k_draws_from_the_candidates_that_top_k_ranks(bench: Bench) -> None:
    of_row = (ROWS[row].recipe(bench.data, 12, 0, bench.runs / row, untrained) for row in ("top-k", "random-k", "both"))
    top, drawn, first = ({image.tobytes() for image in each.images} for each in of_row)
    assert len(top) == len(drawn) == len(first) == 12
    assert top & drawn and top != drawn and drawn != first


def test_a_row_trains_on_masks_that_it_predicted(bench: Bench) -> None:
    trained = []

    def train(samples: Samples) -> Predict:
        trained.append(samples)
        return bench._predictor(TINY, 0, 1, samples)

    made = {row: ROWS[row].recipe(bench.data, 16, 0, bench.runs / row, train) for row in ("pseudo", "pseudo-sure")}
    two_rounds = ROWS["pseudo-sure-2"].recipe(bench.data, 16, 0, bench.runs / "2", train)
    background = bench.data.description.taxonomy.background
    for samples in (*made.values(), two_rounds):
        assert len(samples.images) == len(samples.masks) == 16
        assert np.array_equal(samples.images[:8], trained[0].images[:8])  # the composites
        assert np.array_equal(samples.images[8:], two_rounds.images[8:])  # the patches
    unsure = [np.mean(samples.masks[8:] == background) for samples in made.values()]
    assert unsure[0] < 0.1 and unsure[1] == pytest.approx(0.4, abs=0.1)
    assert len(trained) == 4 and np.array_equal(trained[3].masks, made["pseudo-sure"].masks)


def test_a_mean_teacher_learns_from_the_patches_of_the_pseudo_rows(bench: Bench) -> None:
    row, pseudo = ROWS["mean-teacher"].recipe, ROWS["pseudo"].recipe
    assert isinstance(row, MeanTaught)
    samples = row(bench.data, 16, 0, bench.runs / "taught", untrained)
    assert samples.real and len(samples.images) == len(samples.real.images) == 8
    of_pseudo = pseudo(bench.data, 16, 0, bench.runs / "pseudo", lambda found: bench._predictor(TINY, 0, 1, found))
    assert np.array_equal(np.concatenate((samples.images, samples.real.images)), of_pseudo.images)
    assert (samples.real.labels.sum(1) > 1).all()
    # the settings of the teacher matter to the weights, and to the weights that are kept for the next time
    late, early = (
        bench._fitted(TINY, samples._replace(real=samples.real._replace(teacher=teacher)), 0, 1)[0].state_dict()
        for teacher in (row.teacher.model_copy(update={"warmup_steps": steps, "threshold": 0.0}) for steps in (4, 0))
    )
    assert any(not torch.equal(early[name], value) for name, value in late.items())


def test_a_row_with_a_mean_teacher_is_measured(bench: Bench) -> None:
    cell = Cell("phantom", "scratch", 16, "mean-teacher-all", 0)
    bench.run([(cell, TINY)], threads=1)
    found = read(bench.results / cell.file)
    assert found.about["samples"] == 16 and "class_mix=True" in found.about["made by"]["recipe"]
    assert "changed trainer" in ROWS["mean-teacher"].about


def test_random_k_draws_nothing_that_top_k_does_not_rank(bench: Bench) -> None:
    strict = "curation.min_class_share=0.3"  # so the build makes more candidates than planned
    row, run = ROWS["random-k"].recipe, bench.runs / "strict"
    assert isinstance(row, Built)
    drawn = replace(row, overrides=(*row.overrides, strict))(bench.data, 24, 0, run, untrained)
    planned = 24 // 2 * row.candidates
    first: set[bytes] = set()
    for strategy in bench.data.settings().strategies:
        images = np.asarray(open_run(run).candidates(strategy)["image"][:])  # type: ignore[index]
        assert len(images) > planned
        first |= {image.tobytes() for image in images[:planned]}
    assert len(drawn.images) > 12 and {image.tobytes() for image in drawn.images} <= first


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_chooses_from_the_candidates_each_once(bench: Bench, rule: str) -> None:
    def train(samples: Samples) -> Predict:
        return bench._predictor(TINY, 0, 1, samples)

    chosen = ROWS[f"rule-{rule}"].recipe(bench.data, 8, 0, bench.runs / rule, train)
    candidates = ROWS["mosaic"].recipe(bench.data, 32, 0, bench.runs / "mosaic", train).part(slice(8, None))
    of = [image.tobytes() for image in candidates.images]
    indices = [of.index(image.tobytes()) for image in chosen.images]
    assert len(set(indices)) == 8 and np.array_equal(chosen.masks, candidates.masks[indices])
    if rule != "agreement":
        return
    least = ROWS["rule-disagreement"].recipe(bench.data, 8, 0, bench.runs / rule, train)
    assert not {image.tobytes() for image in least.images} & {image.tobytes() for image in chosen.images}


def test_patches_are_labelled_as_a_whole(bench: Bench) -> None:
    samples = ROWS["labels"].recipe(bench.data, 1000, 0, bench.runs, untrained)
    background = bench.data.description.taxonomy.background
    shown = [np.setdiff1d(mask, background).tolist() for mask in samples.masks]
    assert sorted(shown) == sorted(list(patch.classes) for patch in bench.data.catalog.donors)


def test_results_of_other_settings_are_refused(bench: Bench) -> None:
    cell = Cell("phantom", "scratch", 8, "labels", 0)
    bench.run([(cell, TINY)], threads=1)
    with pytest.raises(ConfigError, match=r"labels-0\.json: comes from other settings \(trainer\.steps: 4 -> 5\)"):
        bench.run([(cell, replace(TINY, steps=5))], threads=1)


def test_results_of_different_settings_make_no_table(bench: Bench, tmp_path: Path) -> None:
    other = Bench(bench.data, tmp_path, bench.runs)
    other.run([(Cell("phantom", "scratch", 8, "labels", 0), TINY)], threads=1)
    other.run([(Cell("phantom", "scratch", 8, "masks", 0), replace(TINY, batch=2))], threads=1)
    message = r"labels-0\.json: comes from other settings than .* of its table \(trainer\.batch: 2 -> 4\); delete"
    with pytest.raises(ConfigError, match=message):
        write_page(tmp_path)
    (tmp_path / "phantom-scratch-8-masks-0.json").unlink()
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace('"row": "labels"', '"row": "former"'))
    assert "former" not in write_page(tmp_path)


def test_no_patient_is_in_two_parts() -> None:
    for parts, images in ((by_patient(), 85), (by_grade(), 69)):
        train, validation, test = (parts[part] for part in ("train", "validation", "test"))
        assert len(train | validation | test) == len(train) + len(validation) + len(test) == images


def _results(confusions: Counts) -> dict[int, Result]:
    cell = Cell("phantom", "scratch", 8, "labels", 0)
    return {
        seed: Result(cell, ("a", "b"), each, np.zeros((1, 2, 4), np.int64), {}) for seed, each in enumerate(confusions)
    }


def test_rows_are_compared_by_seed_and_by_image() -> None:
    rng = np.random.default_rng(0)
    wrong = rng.integers(40, 60, (5, 20, 1))
    far, near = (
        np.stack([100 - wrong + k, wrong - k, wrong - k, 100 - wrong + k], -1).reshape(5, 20, 2, 2) for k in (0, 9)
    )
    found = compared(_results(near), _results(far))
    assert found and found.p < 0.01 and len(found.gains) == 5
    assert 0 < found.by_seed[0] < np.mean(found.gains) < found.by_seed[1]
    assert 0 < found.by_image[0] < np.mean(found.gains) < found.by_image[1]
    assert compared(_results(near), {}) is None
    same = compared(_results(near), _results(near))
    assert same is not None and np.isnan(same.p)
    assert same.by_image == (0.0, 0.0)


def test_the_vectorised_miou_is_that_of_the_metrics() -> None:
    counts = np.random.default_rng(1).integers(0, 50, (4, 3, 3))
    counts[0, 2] = 0  # an absent class
    assert miou(counts).tolist() == pytest.approx([measure(each).miou for each in counts])


def test_everything_is_listed() -> None:
    listed = CliRunner().invoke(main, ["--list"])
    assert listed.exit_code == 0 and all(f"  {row}" in listed.output for row in ROWS)


def test_missing_images_are_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["--sets", "glas", "--data", str(tmp_path), "-d", str(tmp_path / "work"), "-o", str(tmp_path)]
    )
    assert result.exit_code == 1 and "no folder has img/train_1.png" in result.output
