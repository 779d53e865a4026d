"""Injected faults are found: wrong labels, blur, glass, pen marks, folds and copies."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from synthpipe.config.pipeline import PUBLISHED_GLASS, PatchesSection
from synthpipe.core.records import Image, PatchRef
from synthpipe.patches.catalog import Catalog, survey
from synthpipe.patches.phantom import PHANTOM_TAXONOMY
from synthpipe.patches.pixels import decode
from synthpipe.patches.quality.copies import near_copies
from synthpipe.patches.quality.labels import label_probabilities
from synthpipe.patches.quality.measures import FEATURES, fold_share, measure, pen_share, thumbnail
from synthpipe.patches.quality.measuring import measure_donors, measure_patches, rate_donors, worst_donors


@pytest.fixture(scope="module")
def catalog(phantom: Path) -> Catalog:
    return survey(PatchesSection(root=str(phantom), layout="wsss4luad", on_error="skip"), PHANTOM_TAXONOMY)


def written(patch: PatchRef, image: Image, path: Path) -> PatchRef:
    PIL.Image.fromarray(image).save(path)
    height, width, _ = image.shape
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(patch, id=path.name, path=str(path), sha256=sha256, height=height, width=width)


def test_each_fault_is_the_reason_of_the_patch_that_has_it(catalog: Catalog, tmp_path: Path) -> None:
    donors = list(catalog.donors)
    others = [(patch.classes[0] + 1) % 3 for patch in donors]
    flipped = replace(donors[0], classes=(others[0],))
    smooth = np.asarray(cv2.GaussianBlur(decode(donors[1].path), (0, 0), 2.5), np.uint8)
    blurred = written(donors[1], smooth, tmp_path / "blurred.png")
    copy = written(donors[2], np.ascontiguousarray(np.rot90(decode(donors[2].path))), tmp_path / "~copy.png")
    empty = decode(donors[3].path)
    empty[: 3 * len(empty) // 4] = 240
    glass = written(donors[3], empty, tmp_path / "glass.png")
    inked = decode(donors[4].path)
    inked[:20, :30] = (20, 150, 60)
    pen = written(donors[4], inked, tmp_path / "pen.png")
    creased = decode(donors[5].path)
    creased[: len(creased) // 2] = (90, 15, 100)
    fold = written(donors[5], creased, tmp_path / "fold.png")
    faulty = [flipped, blurred, donors[2], glass, pen, fold, *donors[6:], copy]
    calls: list[None] = []
    found = {each.patch.id: each for each in measure_donors(faulty, 3, on_image=lambda: calls.append(None))}
    assert len(calls) == len(faulty)
    confidence = found[flipped.id].confidence
    assert confidence is not None
    assert confidence < 0.5
    assert found[flipped.id].second == donors[0].classes[0]
    assert "blur" in found["blurred.png"].reasons
    assert found["~copy.png"].copy_of == donors[2].id
    assert "duplicate" in found["~copy.png"].reasons
    assert not found[donors[2].id].copy_of
    assert "glass" in found["glass.png"].reasons
    assert "pen" in found["pen.png"].reasons
    assert "fold" in found["fold.png"].reasons
    sound = [each for each in found.values() if each.patch in donors[6:]]
    assert sum(bool(each.reasons) for each in sound) <= len(sound) // 10
    worst = worst_donors(list(found.values()), "blur", 1)
    assert [each.patch.id for each, _ in worst] == ["blurred.png"]


def test_copies_with_different_labels_are_all_named(catalog: Catalog, tmp_path: Path) -> None:
    first = catalog.donors[0]
    copy = written(first, decode(first.path)[:, ::-1], tmp_path / "~copy.png")
    found = measure_donors([first, replace(copy, classes=((first.classes[0] + 1) % 3,))], 3)
    assert [each.copy_of for each in found] == ["~copy.png", first.id]


def test_a_donor_that_is_a_copy_of_a_validation_image_is_named(catalog: Catalog, tmp_path: Path) -> None:
    donors = catalog.donors[:8]
    path = tmp_path / "validation.png"
    PIL.Image.fromarray(np.flipud(decode(donors[5].path))).save(path)
    copies = [each.copy_of for each in measure_donors(donors, 3, others=[str(path)])]
    assert copies == [""] * 5 + [str(path)] + [""] * 2


def test_the_url_of_a_copy_is_named_without_its_credentials(catalog: Catalog) -> None:
    donors = catalog.donors[:2]
    measures = measure_patches(donors)
    (first, _) = rate_donors(donors, measures, 3, {"https://user:secret@host/x.png": measures[0].thumbnail})
    assert first.copy_of == "https://host/x.png"


def test_a_jpeg_of_a_patch_is_a_copy_and_a_shifted_window_is_none(catalog: Catalog) -> None:
    image = decode(catalog.donors[0].path)
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "JPEG", quality=70)
    jpeg = np.asarray(PIL.Image.open(buffer))
    shifted = np.roll(image, len(image) // 2, axis=0)
    pairs = list(near_copies(np.stack([thumbnail(each) for each in (image, shifted, jpeg)])))
    assert pairs == [(0, 2)]


def test_blank_patches_are_no_copies_of_each_other() -> None:
    rng = np.random.default_rng(1)
    blank = [thumbnail(rng.integers(238, 246, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]
    assert not list(near_copies(np.stack(blank)))


@pytest.mark.parametrize(
    ("color", "is_pen"),
    [
        ((20, 150, 60), True),
        ((30, 80, 200), True),
        ((25, 25, 30), True),
        ((110, 60, 150), False),
        ((200, 90, 140), False),
    ],
)
def test_ink_is_green_blue_or_black_and_stains_are_not(color: tuple[int, int, int], is_pen: bool) -> None:
    assert pen_share(np.full((32, 32, 3), color, np.uint8)) == is_pen


def test_a_fold_is_a_broad_area_that_is_more_saturated_than_bright() -> None:
    tissue = np.full((96, 96, 3), (200, 140, 190), np.uint8)
    tissue[::8, ::8] = (60, 10, 70)  # single dark pixels
    assert fold_share(tissue) == 0
    tissue[:, :48] = (90, 15, 100)
    assert 0.4 < fold_share(tissue) < 0.6


def test_features_have_their_number_and_are_finite_for_a_blank_patch() -> None:
    features = measure(np.full((9, 40, 3), 255, np.uint8), PUBLISHED_GLASS).features
    assert features.shape == (FEATURES,)
    assert np.isfinite(features).all()


def test_a_label_is_estimated_from_other_slides_only() -> None:
    """All patches of one slide are mislabelled; their own slide's colour would confirm the label."""
    truth = np.tile([0, 1], 30)
    slides = np.repeat(np.arange(10), 6)
    wrong = slides == 2
    truth[wrong] = 0
    labels = np.where(wrong, 1, truth)
    features = np.hstack([np.random.default_rng(3).normal(truth[:, None], 0.1), 3 * np.eye(10)[slides]])
    chances = label_probabilities(features, labels.tolist(), [f"slide{slide}" for slide in slides], 2)
    own = chances[np.arange(60), labels]
    assert (own[wrong] < 0.5).all()
    assert (own[~wrong] > 0.5).all()
    np.testing.assert_allclose(chances.sum(1), 1)


def test_a_label_that_no_other_slide_has_is_not_estimated() -> None:
    features = np.random.default_rng(3).normal(size=(12, 4))
    chances = label_probabilities(features, [0, 1] * 5 + [2, 2], ["a", "a", "b", "b", "c", "c"] + ["d"] * 6, 3)
    assert np.isnan(chances[10:]).all()
    assert np.isfinite(chances[:10]).all()
    assert np.isnan(label_probabilities(features, [0, 1] * 6, ["a"] * 12, 2)).all()
