from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from sklearn.metrics import confusion_matrix as independent

from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline import PUBLISHED_GLASS
from synthpipe.core.errors import ConfigError, StaleRunError, StoreError
from synthpipe.curated import CuratedSet
from synthpipe.pretrained.devices import choose_device
from synthpipe.segment.checkpoint import Checkpoint, file_digest
from synthpipe.segment.evaluation import Predictor, draw_curves, evaluate, table
from synthpipe.segment.masks import masked_images
from synthpipe.segment.prediction import write_predictions
from synthpipe.segment.pseudo import pseudo_label, restrict_to_labels
from synthpipe.segment.settings import default_windows
from synthpipe.segment.sources import Composites
from tests.segment.conftest import DataSet


def width_of(path: Path) -> int:
    with PillowImage.open(path) as picture:
        return picture.width


def test_what_is_told_is_what_was_counted(trained: Path, data_set: DataSet, tmp_path: Path) -> None:
    predictor = Predictor.load(trained / "best.ckpt", device=torch.device("cpu"))
    images = masked_images(data_set.validation)
    result = evaluate(predictor, images, tmp_path, LogReporter(), pictured=1, replicates=50)
    truths, found = [], []
    for source in images:
        image, truth = source.read(predictor.taxonomy)
        truths.append(truth[truth < 3])
        found.append(predictor.mask(image)[truth < 3])
    counted = independent(np.concatenate(truths), np.concatenate(found), labels=[0, 1, 2])
    assert result["confusion"] == counted.tolist()
    overlap, union = np.diag(counted), counted.sum(0) + counted.sum(1) - np.diag(counted)
    assert result["miou"] == pytest.approx((overlap / union).mean())
    low, high = result["intervals"]["miou"]
    assert low <= result["miou"] <= high
    assert result == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert result["checkpoint"] == file_digest(trained / "best.ckpt")
    assert [path.stem for path in (tmp_path / "pictures").glob("*.png")] == [images[0].name]
    assert width_of(tmp_path / "confusion.png") > 300
    rows = list(table(result))
    assert [row[0] for row in rows] == ["class", "tumour", "stroma", "normal", "mean"]
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()[1].startswith("tumour,")


def test_another_evaluation_replaces_the_pictures_of_the_first_alone(
    trained: Path, data_set: DataSet, tmp_path: Path
) -> None:
    predictor, images = Predictor.load(trained / "best.ckpt"), masked_images(data_set.validation)
    mine = tmp_path / "pictures" / "mine.png"
    for drawn in (2, 1):
        evaluate(predictor, images, tmp_path, LogReporter(), pictured=drawn, replicates=1)
        mine.write_bytes(b"of another program")
        expected = {"drawn.json", "mine.png", *(f"{image.name}.png" for image in images[:drawn])}
        assert {path.name for path in mine.parent.iterdir()} == expected


def test_records_of_strangers_neither_harm_nor_stop_an_evaluation(
    trained: Path, data_set: DataSet, tmp_path: Path
) -> None:
    predictor, images = Predictor.load(trained / "best.ckpt"), masked_images(data_set.validation)
    pictures, others = tmp_path / "result" / "pictures", [tmp_path / "mine.png", tmp_path / "mine.txt"]
    pictures.mkdir(parents=True)
    for path in others:
        path.touch()
    (pictures / "drawn.json").write_text(json.dumps([f"../../{others[0].name}", str(others[1])]), encoding="utf-8")
    evaluate(predictor, images, tmp_path / "result", LogReporter(), pictured=1, replicates=1)
    (pictures / "drawn.json").unlink()
    os.mkfifo(pictures / "drawn.json")
    with pytest.raises(StoreError, match=r"drawn\.json: is a named pipe, expected a file"):
        evaluate(predictor, images, tmp_path / "result", LogReporter(), pictured=1, replicates=1)
    assert all(path.exists() for path in others)


def test_an_absent_class_is_left_out_of_the_mean(trained: Path, tmp_path: Path) -> None:
    for kind in ("img", "mask"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    PillowImage.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "data" / "img" / "a.png")
    PillowImage.fromarray(rng.integers(0, 2, (40, 50), dtype=np.uint8)).save(tmp_path / "data" / "mask" / "a.png")
    predictor = Predictor.load(trained / "best.ckpt", device=torch.device("cpu"))
    result = evaluate(predictor, masked_images(tmp_path / "data"), tmp_path / "result", LogReporter())
    assert result["absent_classes"] == ["normal"] and result["classes"]["normal"]["iou"] is None
    present = [result["classes"][name]["iou"] for name in ("tumour", "stroma")]
    assert result["miou"] == pytest.approx(np.mean(present))


def test_windows_are_those_of_the_canvas() -> None:
    assert default_windows((64, 64)).flips and default_windows((64, 64)).stride == (32, 32)
    assert not default_windows((64, 96)).flips and default_windows((5, 7)).stride == (3, 4)


def test_probabilities_are_written_block_by_block(trained: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(trained / "best.ckpt", device=torch.device("cpu"))
    image = np.random.default_rng(1).integers(0, 256, (70, 45, 3), dtype=np.uint8)
    mask = predictor.write_probabilities(image, tmp_path / "p.npy")
    found = np.load(tmp_path / "p.npy")
    assert found.shape == (3, 70, 45) and found.dtype == np.float16
    assert np.allclose(found.sum(0), 1, atol=2e-3)
    assert np.array_equal(mask, predictor.mask(image)) and [path.name for path in tmp_path.iterdir()] == ["p.npy"]


def test_a_full_disk_is_told_of_and_nothing_is_left_behind(trained: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(trained / "best.ckpt", device=torch.device("cpu"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"p\.npy: cannot be written: File too large; allow larger files"):
            predictor.write_probabilities(np.zeros((70, 45, 3), np.uint8), tmp_path / "p.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_device_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="--device warp"):
        choose_device("warp")


def test_curves_are_drawn_of_what_the_journal_holds(trained: Path, tmp_path: Path) -> None:
    assert not draw_curves(tmp_path, tmp_path / "curves.png")
    (tmp_path / "epochs.csv").touch()
    assert not draw_curves(tmp_path, tmp_path / "curves.png")
    for damaged in (b"epoch,step\n1,x\n", b"epoch,step,loss\n1,1\n", b"\xff\n"):
        (tmp_path / "epochs.csv").write_bytes(damaged)
        with pytest.raises(StoreError, match=r"epochs\.csv: cannot be drawn: "):
            draw_curves(tmp_path, tmp_path / "curves.png")
    assert draw_curves(trained, tmp_path / "curves.png") and width_of(tmp_path / "curves.png") > 600


def test_only_classes_of_the_label_are_predicted() -> None:
    rng = np.random.default_rng(2)
    probabilities = rng.random((4, 3, 8, 8), dtype=np.float32)
    labels = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]], np.uint8)
    found = restrict_to_labels(probabilities, labels)
    assert (found[0] == 0).all() and (found[3] == 2).all()
    assert np.array_equal(found[1], 1 + probabilities[1, 1:].argmax(0))
    assert np.array_equal(found[2], probabilities[2].argmax(0))


@pytest.fixture
def glassy(data_set: DataSet, tmp_path: Path) -> tuple[Path, NDArray[np.bool_]]:
    """An image of tissue with glass in two corners: the mask leaves one out, and calls the other tumour."""
    source = masked_images(data_set.validation)[0]
    image, _ = source.read(data_set.description.taxonomy)
    image = np.minimum(image[:64, :64], 200)
    image[:24, :24] = image[-24:, -24:] = 255
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 1
    mask[:24, :24] = 3
    for folder, values in (("img", image), ("mask", mask)):
        (tmp_path / "glassy" / folder).mkdir(parents=True)
        PillowImage.fromarray(values).save(tmp_path / "glassy" / folder / "a.png")
    glass = np.zeros((64, 64), np.bool_)
    glass[:24, :24] = glass[-24:, -24:] = True
    return tmp_path / "glassy", glass


def test_every_command_takes_the_same_for_glass(data_set: DataSet) -> None:
    built = data_set.description
    assert built.ignored_glass() == built.glass != PUBLISHED_GLASS
    assert replace(built, glass=None).ignored_glass() == PUBLISHED_GLASS
    assert built.ignored_glass(False) is None


def test_predicted_masks_leave_glass_out_unless_it_is_wanted(
    trained: Path, glassy: tuple[Path, NDArray[np.bool_]], tmp_path: Path
) -> None:
    folder, glass = glassy
    masks = {}
    for wanted in (True, False):
        predictor = Predictor.load(trained / "best.ckpt", device=torch.device("cpu"), glass=wanted)
        output = tmp_path / str(wanted)
        share = write_predictions(predictor, [folder / "img" / "a.png"], output, LogReporter(), False, wanted)
        assert share == (glass.mean() if wanted else 0)
        masks[wanted] = np.asarray(PillowImage.open(output / "a.png"))
        record = json.loads((output / "predictions.json").read_text())["masks"]["a.png"]
        assert record["glass"] == ({"threshold": 220, "min_area": 80} if wanted else None)
    assert np.array_equal(masks[True] == 3, glass) and not (masks[False] == 3).any()
    assert np.array_equal(masks[True][~glass], masks[False][~glass])
    assert np.load(tmp_path / "True" / "a-probabilities.npy").shape == (3, 64, 64)  # of all pixels


def test_glass_that_the_masks_name_counts_and_is_said(
    trained: Path, glassy: tuple[Path, NDArray[np.bool_]], tmp_path: Path
) -> None:
    folder, _ = glassy
    results, pictures = {}, {}
    for wanted in (True, False):
        predictor = Predictor.load(trained / "best.ckpt", device=torch.device("cpu"), glass=wanted)
        results[wanted] = evaluate(predictor, masked_images(folder), tmp_path / str(wanted), LogReporter(), 1, 10)
        pictures[wanted] = (tmp_path / str(wanted) / "pictures" / "a.png").read_bytes()
    assert results[True]["confusion"] == results[False]["confusion"]
    assert np.sum(results[True]["confusion"]) == 64 * 64 - 24 * 24  # what the mask leaves out is not counted
    assert results[True]["glass"]["share_of_labelled"] == pytest.approx(24 * 24 / (64 * 64 - 24 * 24))
    assert results[False]["glass"] == {"rule": None, "share_of_labelled": 0}
    assert pictures[True] != pictures[False]  # the prediction has no tissue on the glass that the mask leaves out


def test_pseudo_masks_keep_to_the_labels_and_leave_glass_out(trained: Path, data_set: DataSet, tmp_path: Path) -> None:
    catalog, rule = data_set.catalog(), data_set.description.ignored_glass()
    arguments = (trained / "best.ckpt", catalog.patches, catalog.digest, tmp_path / "pseudo.zarr")
    assert pseudo_label(*arguments, torch.device("cpu"), 16, LogReporter(), rule) == 40
    found = CuratedSet(tmp_path / "pseudo.zarr")
    assert len(found) == 40 and found.description == data_set.description
    real = data_set.training_data().real
    assert real
    images, glass, labels = real.read(range(40), [])
    for place, sample in enumerate(found):
        assert np.array_equal(sample.image, images[place]) and np.array_equal(sample.labels, labels[place])
        shown = set(np.unique(sample.mask[glass[place] == 0]).tolist())
        assert shown <= set(np.flatnonzero(labels[place]).tolist())
        assert (sample.mask[glass[place] != 0] == 3).all() and found.origin(place) is None
        assert found.groups[found.donor_groups[place, 0]] == catalog.patches[place].group
    assert len({catalog.patches[place].single_class for place in range(40)}) == 2
    assert pseudo_label(*arguments, torch.device("cpu"), 16, LogReporter(), rule) == 0


def test_pseudo_masks_leave_glass_out_where_the_build_looked_for_none(
    trained: Path, data_set: DataSet, tmp_path: Path
) -> None:
    catalog, loaded = data_set.catalog(), Checkpoint.load(trained / "best.ckpt")
    without = replace(loaded.description, glass=None)
    replace(loaded, description=without).save(tmp_path / "best.ckpt")
    masks = {}
    for name, glass in (("kept", None), ("ignored", loaded.description.glass)):
        path = tmp_path / f"{name}.zarr"
        arguments = (tmp_path / "best.ckpt", catalog.patches, catalog.digest, path, torch.device("cpu"), 16)
        pseudo_label(*arguments, LogReporter(), glass)
        assert CuratedSet(path).description == replace(without, glass=glass)
        masks[name] = CuratedSet(path).read(range(40))[1]
    ignored = masks["ignored"] == 3
    assert ignored.any() and not (masks["kept"] == 3).any()
    assert np.array_equal(masks["ignored"][~ignored], masks["kept"][~ignored])


def test_unsure_pixels_of_pseudo_masks_are_ignored(trained: Path, data_set: DataSet, tmp_path: Path) -> None:
    catalog, device = data_set.catalog(), torch.device("cpu")
    arguments = (trained / "best.ckpt", catalog.patches, catalog.digest)
    masks = {}
    for share in (None, 0.5):
        path = tmp_path / f"{share}.zarr"
        assert pseudo_label(*arguments, path, device, 16, LogReporter(), share=share) == 40
        masks[share] = CuratedSet(path).read(range(40))[1]
    mixed = np.array([not patch.single_class for patch in catalog.patches])
    assert not (masks[None] == 3).any() and not (masks[0.5][~mixed] == 3).any()
    assert np.mean(masks[0.5][mixed] == 3) == pytest.approx(0.5, abs=0.02)
    shard = next((tmp_path / "0.5.zarr" / "image").glob("c.*"))
    stored = shard.read_bytes()
    shard.unlink()
    assert pseudo_label(*arguments, tmp_path / "0.5.zarr", device, 16, LogReporter(), share=0.5) == 40
    assert shard.read_bytes() == stored
    with pytest.raises(StaleRunError, match=r"source\.share"):
        pseudo_label(*arguments, tmp_path / "0.5.zarr", device, 16, LogReporter(), share=0.7)


def test_pseudo_masks_of_another_checkpoint_are_not_mixed_in(trained: Path, data_set: DataSet, tmp_path: Path) -> None:
    catalog = data_set.catalog()
    path = tmp_path / "pseudo.zarr"
    pseudo_label(trained / "best.ckpt", catalog.patches, catalog.digest, path, torch.device("cpu"), 16, LogReporter())
    (path / "image" / "c.0.0.0.0").unlink()
    other = Checkpoint.load(trained / "last.ckpt")
    other.save(tmp_path / "other.ckpt")
    with pytest.raises(StaleRunError, match=r"was begun with other arguments.*\n  source\.checkpoint"):
        pseudo_label(
            tmp_path / "other.ckpt", catalog.patches, catalog.digest, path, torch.device("cpu"), 16, LogReporter()
        )
    again = (trained / "best.ckpt", catalog.patches, catalog.digest, path, torch.device("cpu"), 16, LogReporter())
    assert pseudo_label(*again) == 40 and len(CuratedSet(path)) == 40


def test_sets_of_two_checkpoints_are_told_apart(trained: Path, data_set: DataSet, tmp_path: Path) -> None:
    catalog = data_set.catalog()
    digests = {CuratedSet(data_set.curated).digest}
    for name in ("best", "last"):
        path = tmp_path / f"{name}.zarr"
        checkpoint = trained / f"{name}.ckpt"
        pseudo_label(checkpoint, catalog.patches, catalog.digest, path, torch.device("cpu"), 16, LogReporter())
        assert CuratedSet(path).digest == CuratedSet(path).digest
        digests.add(CuratedSet(path).digest)
    assert len(digests) == 3


def test_a_second_training_takes_both_sets(trained: Path, data_set: DataSet, tmp_path: Path) -> None:
    catalog = data_set.catalog()
    path = tmp_path / "pseudo.zarr"
    pseudo_label(trained / "best.ckpt", catalog.patches, catalog.digest, path, torch.device("cpu"), 16, LogReporter())
    both = Composites([CuratedSet(data_set.curated), CuratedSet(path)])
    assert len(both) == 64
    images, masks, _ = both.read([23, 24, 63], [])
    assert np.array_equal(masks[1], CuratedSet(path)[0].mask) and images.shape == (3, 32, 32, 3)
