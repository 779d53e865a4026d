from __future__ import annotations

import math
import time
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from synthpipe.core.records import Mask
from synthpipe.core.taxonomy import LOST
from synthpipe.segment.metrics import (
    Counts,
    Interval,
    bootstrap,
    boundary_counts,
    confusion_matrix,
    measure,
    measure_boundaries,
)


def blobs(seed: int, classes: int, size: tuple[int, int] = (60, 80), ignored: bool = True) -> tuple[Mask, Mask]:
    """Truth and prediction with regions, not noise; in truth some background and lost pixels."""
    rng = np.random.default_rng(seed)
    fields, errors = (
        np.asarray(cv2.GaussianBlur(np.asarray(rng.normal(size=(*size, classes))), (0, 0), 4)) for _ in range(2)
    )
    truth, prediction = fields.argmax(-1).astype(np.uint8), (fields + errors).argmax(-1).astype(np.uint8)
    if ignored:
        truth[5:15, 5:40] = classes
        truth[30, ::3] = LOST
    return truth, prediction


def square(top: int, left: int, size: int = 20) -> Mask:
    mask = np.zeros((100, 100), np.uint8)
    mask[top : top + size, left : left + size] = 1
    return mask


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_scores_are_those_of_scikit_learn(seed: int, classes: int) -> None:
    sklearn: Any = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth = rng.choice([*range(classes + 1), LOST], (17, 23)).astype(np.uint8)
    prediction = rng.integers(0, classes, (17, 23), dtype=np.uint8)
    prediction[truth >= classes] = rng.choice([0, classes, LOST])  # what is there does not matter
    counted = truth < classes
    names, pair = list(range(classes)), (truth[counted], prediction[counted])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synthpipe.segment.metrics._PIXELS", 100)
        confusion = confusion_matrix(truth, prediction, classes)
    assert confusion.dtype == np.int64 and np.array_equal(confusion, sklearn.confusion_matrix(*pair, labels=names))
    found, by_class = measure(confusion), {"labels": names, "average": None, "zero_division": np.nan}
    present = [name for name in names if (truth == name).any()]
    for score, reference in ((found.iou, sklearn.jaccard_score), (found.dice, sklearn.f1_score)):
        expected = reference(*pair, labels=names, average=None, zero_division=0)
        np.testing.assert_allclose(np.array(score)[present], expected[present])
    np.testing.assert_allclose(found.precision, sklearn.precision_score(*pair, **by_class))
    np.testing.assert_allclose(found.recall, sklearn.recall_score(*pair, **by_class))
    assert found.pixel_accuracy == pytest.approx(sklearn.accuracy_score(*pair))
    assert found.miou == pytest.approx(np.mean([found.iou[name] for name in present]))
    assert found.mean_dice == pytest.approx(np.mean([found.dice[name] for name in present]))
    weighted = sklearn.jaccard_score(*pair, labels=names, average="weighted", zero_division=0)
    assert found.fwiou == pytest.approx(weighted)


def test_scores_are_those_of_torchmetrics() -> None:
    truth, prediction = blobs(3, 4)
    found = measure(confusion_matrix(truth, prediction, 4))
    counted = truth < 4
    pair = torch.from_numpy(prediction[counted]).long(), torch.from_numpy(truth[counted]).long()
    assert found.miou == pytest.approx(float(multiclass_jaccard_index(*pair, num_classes=4)), abs=1e-6)
    assert found.mean_dice == pytest.approx(float(multiclass_f1_score(*pair, num_classes=4)), abs=1e-6)


def test_a_matrix_by_hand() -> None:
    found = measure(np.array([[6, 2], [1, 1]]))
    assert found.iou == (6 / 9, 1 / 4) and found.dice == (12 / 15, 2 / 5)
    assert found.precision == (6 / 7, 1 / 3) and found.recall == (6 / 8, 1 / 2) and found.frequency == (0.8, 0.2)
    assert found.miou == pytest.approx(11 / 24) and found.mean_dice == pytest.approx(0.6)
    assert found.fwiou == pytest.approx(0.8 * 6 / 9 + 0.2 / 4) and found.pixel_accuracy == 0.7


def test_an_absent_class_is_left_out_of_the_means() -> None:
    found = measure(np.array([[8, 0, 2], [1, 4, 0], [0, 0, 0]]))  # class 2 was predicted, but is nowhere
    assert math.isnan(found.iou[2]) and math.isnan(found.dice[2]) and math.isnan(found.recall[2])
    assert found.precision[2] == 0 and found.frequency[2] == 0
    assert found.miou == pytest.approx((8 / 11 + 4 / 5) / 2)
    assert found.mean_dice == pytest.approx((16 / 19 + 8 / 9) / 2)
    assert found.fwiou == pytest.approx(10 / 15 * 8 / 11 + 5 / 15 * 4 / 5)


def test_a_class_that_is_never_predicted_counts_as_zero() -> None:
    found = measure(np.array([[5, 0], [5, 0]]))
    assert found.iou[:2] == (0.5, 0.0) and found.miou == 0.25 and math.isnan(found.precision[1])


def test_where_all_is_ignored_there_is_no_score() -> None:
    truth = np.full((9, 9), 2, np.uint8)
    confusion = confusion_matrix(truth, truth, 2)
    assert not confusion.any()
    found = measure(confusion)
    assert all(math.isnan(score) for score in (found.miou, found.fwiou, found.mean_dice, found.pixel_accuracy))
    assert all(math.isnan(score) for score in (*found.iou, *found.dice, *found.frequency))
    counts = boundary_counts(truth, truth, 2)
    assert not counts.any() and math.isnan(measure_boundaries(counts).mean_f)
    nothing = np.zeros((0, 4), np.uint8)
    assert not confusion_matrix(nothing, nothing, 3).any() and not boundary_counts(nothing, nothing, 3).any()


@pytest.mark.parametrize("count", [confusion_matrix, boundary_counts])
def test_masks_that_do_not_fit_are_refused(count: Any) -> None:
    truth = np.zeros((4, 6), np.uint8)
    with pytest.raises(ValueError, match=r"truth is \(4, 6\) and prediction \(6, 4\)"):
        count(truth, np.zeros((6, 4), np.uint8), 2)
    with pytest.raises(ValueError, match="truth is uint8 and prediction int64"):
        count(truth, np.zeros((4, 6), np.int64), 2)


def test_a_pixel_predicted_as_no_class_is_refused_where_it_counts() -> None:
    truth, prediction = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    prediction[1, 2] = 3
    with pytest.raises(ValueError, match="prediction has value 3 at pixels whose truth is a class, expected 0 to 2"):
        confusion_matrix(truth, prediction, 3)
    truth[1, 2] = 3
    assert confusion_matrix(truth, prediction, 3)[0].tolist() == [23, 0, 0]


def test_a_large_image_takes_milliseconds() -> None:
    truth, prediction = blobs(0, 4, (1024, 1024))

    def seconds() -> float:
        begin = time.perf_counter()
        confusion_matrix(truth, prediction, 4)
        return time.perf_counter() - begin

    assert min(seconds() for _ in range(5)) < 0.05  # 4 ms where this was written


def test_a_shift_within_the_tolerance_is_no_boundary_error() -> None:
    counts = boundary_counts(square(30, 30), square(31, 30), 2, tolerance=1)
    # a square of 20 has 76 pixels on its edge, and outside touches 80
    assert counts.tolist() == [[80, 80, 80, 80], [76, 76, 76, 76]]
    found = measure_boundaries(counts)
    assert found.mean_f == min(found.f) == 1


def test_a_larger_shift_by_hand() -> None:
    counts = boundary_counts(square(30, 30), square(34, 30), 2, tolerance=1)
    # the sides lie on each other in rows 34-49, and one row further is within 1: 17 rows of two pixels; the lower
    # square's top edge and the upper one's bottom edge touch the other's sides with two pixels each
    assert counts.tolist() == [[36, 80, 36, 80], [36, 76, 36, 76]]
    found = measure_boundaries(counts)
    assert found.f == pytest.approx((36 / 80, 36 / 76))
    assert found.mean_f == pytest.approx((36 / 80 + 36 / 76) / 2)
    assert measure_boundaries(boundary_counts(square(5, 5), square(60, 60), 2, tolerance=1)).f == (0, 0)


def test_precision_and_recall_of_contours_differ() -> None:
    prediction = square(30, 30)
    prediction[60:80, 60:80] = 1  # a second square that is not there
    found = measure_boundaries(boundary_counts(square(30, 30), prediction, 2, tolerance=1))
    assert found.f[1] == pytest.approx(2 * 0.5 / 1.5)


def test_the_tolerance_is_a_distance_and_has_a_share_of_the_diagonal_as_default() -> None:
    truth, prediction = np.zeros((300, 400), np.uint8), np.zeros((300, 400), np.uint8)
    truth[:, 200:], prediction[:, 204:] = 1, 1
    assert measure_boundaries(boundary_counts(truth, prediction, 2)).mean_f == 1  # 0.0075 * 500 = 3.75, so 4
    assert measure_boundaries(boundary_counts(truth, prediction, 2, tolerance=3)).mean_f == 0
    small = np.zeros((20, 20), np.uint8)
    small[:, 10:] = 1
    assert measure_boundaries(boundary_counts(small, np.roll(small, 1, 1) & small, 2)).mean_f == 1
    diagonal = boundary_counts(square(30, 30, 1), square(31, 31, 1), 2, tolerance=1)
    assert diagonal[1].tolist() == [0, 1, 0, 1]  # sqrt(2) apart


def test_ignored_pixels_have_and_make_no_contour() -> None:
    truth, prediction = square(30, 30), square(30, 30)
    truth[25:55, 40:55] = 2  # the right half of the square and what is around it
    prediction[25:55, 40:55] = 0
    counts = boundary_counts(truth, prediction, 2, tolerance=1)
    assert counts.tolist() == [[40, 40, 40, 40], [38, 38, 38, 38]]
    assert measure_boundaries(counts).mean_f == 1


def test_classes_without_a_true_contour_are_left_out() -> None:
    truth, prediction = square(30, 30), square(30, 30)
    prediction[70:75, 70:75] = 2
    found = measure_boundaries(boundary_counts(truth, prediction, 4, tolerance=1))
    assert math.isnan(found.f[2]) and math.isnan(found.f[3])
    assert found.f[1] == 1 and found.f[0] < 1 and found.mean_f == pytest.approx((found.f[0] + 1) / 2)
    missed = measure_boundaries(boundary_counts(truth, np.zeros_like(truth), 2))
    assert missed.f == (0, 0)


def test_matching_is_dilation_by_a_disc() -> None:
    truth, prediction = blobs(5, 3)
    counts = boundary_counts(truth, prediction, 3, tolerance=2)
    y, x = np.mgrid[-2:3, -2:3]
    disc = (y * y + x * x <= 4).astype(np.uint8)
    counted = truth < 3

    def contour(mask: Mask, index: int) -> Mask:
        edge = np.zeros(mask.shape, np.uint8)
        for (row, column), value in np.ndenumerate(mask):
            for below, right in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= below < mask.shape[0] and 0 <= right < mask.shape[1]
                if inside and counted[row, column] and counted[below, right] and value == index != mask[below, right]:
                    edge[row, column] = 1
        return edge

    for index in range(3):
        true, predicted = contour(truth, index), contour(prediction, index)
        near_true, near_predicted = np.asarray(cv2.dilate(true, disc)), np.asarray(cv2.dilate(predicted, disc))
        expected = [predicted[near_true > 0].sum(), predicted.sum(), true[near_predicted > 0].sum(), true.sum()]
        assert counts[index].tolist() == expected


def counts_of(images: int, classes: int = 3, start: int = 0) -> tuple[Counts, Counts]:
    pairs = [blobs(start + seed, classes, (40, 40)) for seed in range(images)]
    confusions = np.stack([confusion_matrix(*pair, classes) for pair in pairs])
    return confusions, np.stack([boundary_counts(*pair, classes) for pair in pairs])


def test_the_intervals_are_those_of_a_plain_loop() -> None:
    confusions, boundaries = counts_of(12)
    confusions[2:, 2] = 0  # class 2 is in two images, so absent from some replicates
    confusions = np.pad(confusions, ((0, 0), (0, 1), (0, 1)))  # and class 3 in none
    boundaries[2:, 2, 2:] = 0
    found = bootstrap(confusions, boundaries, seed=9, replicates=60, level=0.9)
    rng = np.random.Generator(np.random.Philox(9))
    rows: dict[str, list[float]] = {}
    for draws in rng.multinomial(12, np.full(12, 1 / 12), 60):
        chosen = [image for image, times in enumerate(draws) for _ in range(times)]
        scores = measure(confusions[chosen].sum(0))
        contours = measure_boundaries(boundaries[chosen].sum(0))
        row = {"miou": scores.miou, "fwiou": scores.fwiou, "dice": scores.mean_dice, "right": scores.pixel_accuracy}
        row |= {f"iou{index}": value for index, value in enumerate(scores.iou)}
        row |= {f"f{index}": value for index, value in enumerate(contours.f)} | {"f": contours.mean_f}
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    assert 0 < sum(math.isnan(value) for value in rows["iou2"]) < 60

    def check(interval: Interval | None, name: str) -> None:
        values = [value for value in rows[name] if not math.isnan(value)]
        assert interval is not None
        assert [interval.low, interval.high] == pytest.approx(list(np.quantile(values, [0.05, 0.95])))

    check(found.miou, "miou")
    check(found.fwiou, "fwiou")
    check(found.mean_dice, "dice")
    check(found.pixel_accuracy, "right")
    check(found.mean_boundary_f, "f")
    for index in range(3):
        check(found.iou[index], f"iou{index}")
        assert found.boundary_f
        check(found.boundary_f[index], f"f{index}")
    assert math.isnan(found.iou[3].low) and math.isnan(found.iou[3].high)


def test_the_intervals_hold_the_scores_and_depend_on_nothing_but_the_seed() -> None:
    confusions, boundaries = counts_of(30)
    found = bootstrap(confusions, boundaries, seed=1)
    assert found == bootstrap(confusions, boundaries, seed=1)
    assert found != bootstrap(confusions, boundaries, seed=2)
    scores, contours = measure(confusions.sum(0)), measure_boundaries(boundaries.sum(0))
    assert found.boundary_f and found.mean_boundary_f
    pairs = [(found.miou, scores.miou), (found.fwiou, scores.fwiou), (found.mean_dice, scores.mean_dice)]
    pairs += [(found.pixel_accuracy, scores.pixel_accuracy), (found.mean_boundary_f, contours.mean_f)]
    pairs += [*zip(found.iou, scores.iou, strict=True), *zip(found.boundary_f, contours.f, strict=True)]
    assert all(interval.low < score < interval.high for interval, score in pairs)
    without = bootstrap(confusions, seed=1)
    assert without.miou == found.miou and without.boundary_f is None and without.mean_boundary_f is None


def test_more_images_and_a_lower_level_make_narrower_intervals() -> None:
    confusions, _ = counts_of(160)

    def width(images: int, level: float = 0.95) -> float:
        interval = bootstrap(confusions[:images], seed=0, level=level).miou
        return interval.high - interval.low

    assert width(40) / width(160) == pytest.approx(2, rel=0.3)  # as the square root of their number
    assert width(160, 0.5) == pytest.approx(width(160) * 0.674 / 1.96, rel=0.2)  # a normal distribution's quantiles


def test_one_image_says_nothing_of_others() -> None:
    confusions, boundaries = counts_of(1)
    found = bootstrap(confusions, boundaries, seed=0)
    assert found.miou.low == found.miou.high == measure(confusions[0]).miou
    assert found.mean_boundary_f and found.mean_boundary_f.low == found.mean_boundary_f.high


def test_three_hundred_images_take_no_second() -> None:
    confusions, boundaries = counts_of(3)
    confusions, boundaries = np.tile(confusions, (100, 1, 1)), np.tile(boundaries, (100, 1, 1))
    begin = time.perf_counter()
    bootstrap(confusions, boundaries, seed=0)
    assert time.perf_counter() - begin < 1


def test_what_cannot_be_drawn_from_is_refused() -> None:
    confusions, boundaries = counts_of(2)
    with pytest.raises(ValueError, match="of 0 images; expected"):
        bootstrap(confusions[:0], seed=0)
    with pytest.raises(ValueError, match="of 2 images and contours of 1; expected"):
        bootstrap(confusions, boundaries[:1], seed=0)
    with pytest.raises(ValueError, match=r"replicates is 0 and level is 0\.95"):
        bootstrap(confusions, seed=0, replicates=0)
    with pytest.raises(ValueError, match="and level is 95"):
        bootstrap(confusions, seed=0, level=95)
