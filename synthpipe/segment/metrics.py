"""What a segmentation is measured by: scores of the pixel confusion matrix and of contours, and their intervals.

Images are reduced to counts, counts are summed, and scores made of the sums (method section 4). The background index is
never counted. A class without a true pixel is *absent*: its IoU, Dice, recall and boundary F are NaN and no mean has it
in, where the published scripts count a zero (method section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from synthpipe.core.records import Mask

Counts = NDArray[np.int64]
_Floats = NDArray[np.float64]
_PIXELS = 2**20  # that are counted at once
_TOLERANCE = 0.0075  # of the image's diagonal: Csurka et al.


@dataclass(frozen=True, slots=True)
class SegmentationMetrics:
    """The scores of a confusion matrix, all in 0-1.

    Attributes
    ----------
    iou, dice : tuple of float
        TP / (TP + FP + FN) and 2 TP / (2 TP + FP + FN) a class, in index order; NaN for an absent class.
    precision, recall : tuple of float
        TP / (TP + FP), NaN where no pixel was predicted as the class; TP / (TP + FN), NaN for an absent class.
    frequency : tuple of float
        The class's share of the counted true pixels.
    miou, mean_dice : float
        Means over the classes that are not absent.
    fwiou : float
        Mean of the IoU weighted by `frequency`.
    pixel_accuracy : float
        Share of the counted pixels that are right.
    """

    iou: tuple[float, ...]
    dice: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    frequency: tuple[float, ...]
    miou: float
    fwiou: float
    mean_dice: float
    pixel_accuracy: float


@dataclass(frozen=True, slots=True)
class BoundaryScores:
    """The boundary F-score a class, in index order, and its mean; NaN, and left out, where no true contour is."""

    f: tuple[float, ...]
    mean_f: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; NaN where no replicate had the score."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MetricIntervals:
    """Confidence intervals of the scores called so in `SegmentationMetrics` and `BoundaryScores`.

    `boundary_f` and `mean_boundary_f` are None where no contours were given.
    """

    iou: tuple[Interval, ...]
    miou: Interval
    fwiou: Interval
    mean_dice: Interval
    pixel_accuracy: Interval
    boundary_f: tuple[Interval, ...] | None = None
    mean_boundary_f: Interval | None = None


def confusion_matrix(truth: Mask, prediction: Mask, classes: int) -> Counts:
    """Return (C, C) int64: pixels by true class (rows) and predicted class (columns).

    Parameters
    ----------
    truth : (H, W) uint8
        Class indices; pixels of `classes` and more, background or lost, are not counted.
    prediction : (H, W) uint8
        Class indices, whatever where `truth` is not counted.
    classes : int
        C, the number of classes, at most 255.

    Raises
    ------
    ValueError
        The masks' shapes differ, they are not uint8, or a counted pixel was predicted as no class.
    """
    _check(truth, prediction)
    # every pair of bytes is counted: that costs less than to pick the pixels first
    counted = np.zeros(1 << 16, np.intp)
    true, predicted = truth.ravel(), prediction.ravel()
    for start in range(0, truth.size, _PIXELS):
        pairs = true[start : start + _PIXELS].astype(np.intp)
        pairs <<= 8
        pairs |= predicted[start : start + _PIXELS]
        counted += np.bincount(pairs, minlength=1 << 16)
    counted = counted.reshape(256, 256)[:classes]
    if strange := np.flatnonzero(counted[:, classes:].any(0)).tolist():
        raise ValueError(
            f"prediction has {strange[0] + classes} where truth has a class, expected 0 to {classes - 1}; "
            "predict a class for every pixel, and ignore pixels in truth only"
        )
    return counted[:, :classes].astype(np.int64)


def measure(confusion: Counts) -> SegmentationMetrics:
    """Return the scores of a confusion matrix (C, C), true classes in rows: an image's, or a sum of several."""
    scores = _scores(np.asarray(confusion, np.float64))
    return SegmentationMetrics(
        iou=tuple(scores["iou"].tolist()),
        dice=tuple(scores["dice"].tolist()),
        precision=tuple(scores["precision"].tolist()),
        recall=tuple(scores["recall"].tolist()),
        frequency=tuple(scores["frequency"].tolist()),
        miou=float(scores["miou"]),
        fwiou=float(scores["fwiou"]),
        mean_dice=float(scores["mean_dice"]),
        pixel_accuracy=float(scores["pixel_accuracy"]),
    )


def boundary_counts(truth: Mask, prediction: Mask, classes: int, tolerance: int | None = None) -> Counts:
    """Return (C, 4) int64: matched predicted, predicted, matched true and true contour pixels of an image.

    A pixel is on the contour of its class where one of its four neighbours has another class, and matched where the
    other mask's contour of the class is within the tolerance. The image's border makes no contour. Pixels that are not
    counted in `truth` neither have nor make one, in both masks: around glass there is nothing to predict.

    Parameters
    ----------
    truth, prediction : (H, W) uint8
        As for `confusion_matrix`.
    classes : int
        C, the number of classes.
    tolerance : int, optional
        Greatest distance of a match, Euclidean, in pixels; by default 0.75 % of the image's diagonal, rounded, but 1 at
        least.

    Raises
    ------
    ValueError
        The masks' shapes differ, or they are not uint8.

    References
    ----------
    Csurka, Larlus, Perronnin: What is a good evaluation measure for semantic segmentation? BMVC 2013.
    Perazzi et al.: A benchmark dataset and evaluation methodology for video object segmentation. CVPR 2016.
    """
    _check(truth, prediction)
    if tolerance is None:
        tolerance = max(1, int(_TOLERANCE * float(np.hypot(*truth.shape)) + 0.5))
    counted = truth < classes
    predicted_contours, true_contours = _contours(prediction, counted), _contours(truth, counted)
    counts = np.zeros((classes, 4), np.int64)
    for index in range(classes):
        predicted, true = predicted_contours & (prediction == index), true_contours & (truth == index)
        counts[index] = (
            _matched(predicted, true, tolerance),
            np.count_nonzero(predicted),
            _matched(true, predicted, tolerance),
            np.count_nonzero(true),
        )
    return counts


def measure_boundaries(counts: Counts) -> BoundaryScores:
    """Return the boundary F-scores of `boundary_counts` (C, 4): an image's, or a sum of several.

    F = 2 P R / (P + R), P the matched share of the predicted contour and R of the true one; 0 where the class was not
    predicted. In a sum long contours weigh more than in Csurka's mean over images.
    """
    f, mean_f = _boundary_scores(np.asarray(counts, np.float64))
    return BoundaryScores(tuple(f.tolist()), float(mean_f))


def bootstrap(
    confusions: Counts, boundaries: Counts | None = None, *, seed: int, replicates: int = 1000, level: float = 0.95
) -> MetricIntervals:
    """Return percentile confidence intervals, images drawn anew with replacement (Efron 1979).

    They tell how much other images of the same kind would change the scores. Images of one slide are not independent:
    sum them first, so that slides are drawn. Of a single image every replicate is the same, and the intervals are the
    scores themselves: they tell nothing. A replicate in which a class is absent leaves it out.

    Parameters
    ----------
    confusions : (N, C, C) int64
        A confusion matrix an image.
    boundaries : (N, C, 4) int64, optional
        `boundary_counts` of the same images.
    seed : int
        Of the drawing: the same one gives the same intervals.
    replicates : int
        How often N images are drawn.
    level : float
        Share of the replicates inside the interval, above 0 and below 1.

    Raises
    ------
    ValueError
        There are no images, or not as many contours as matrices; `replicates` or `level` is out of range.
    """
    images = len(confusions)
    if not images or (boundaries is not None and len(boundaries) != images):
        contours = "" if boundaries is None else f" and contours of {len(boundaries)}"
        raise ValueError(f"confusion matrices of {images} images{contours}; expected the same images, one at least")
    if replicates < 1 or not 0 < level < 1:
        raise ValueError(f"replicates is {replicates} and level {level}; expected 1 or more, and between 0 and 1")
    rng = np.random.Generator(np.random.Philox(seed))
    draws = rng.multinomial(images, np.full(images, 1 / images), replicates).astype(np.float64)

    def drawn(counts: Counts) -> _Floats:
        # float64 holds these sums exactly, so the matrix product's order has no say
        summed: _Floats = draws @ np.asarray(counts, np.float64).reshape(images, -1)
        return summed.reshape(replicates, *counts.shape[1:])

    scores = _scores(drawn(confusions))
    f, mean_f = (None, None) if boundaries is None else _boundary_scores(drawn(boundaries))
    return MetricIntervals(
        iou=tuple(_interval(of_class, level) for of_class in scores["iou"].T),
        miou=_interval(scores["miou"], level),
        fwiou=_interval(scores["fwiou"], level),
        mean_dice=_interval(scores["mean_dice"], level),
        pixel_accuracy=_interval(scores["pixel_accuracy"], level),
        boundary_f=None if f is None else tuple(_interval(of_class, level) for of_class in f.T),
        mean_boundary_f=None if mean_f is None else _interval(mean_f, level),
    )


def _scores(confusion: _Floats) -> dict[str, _Floats]:
    """Return the fields of `SegmentationMetrics` of matrices (..., C, C): arrays (..., C) or (...)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted, total = confusion.sum(-1), confusion.sum(-2), confusion.sum((-2, -1))
    present = true > 0
    iou = _divide(right, np.where(present, true + predicted - right, 0))
    dice = _divide(2 * right, np.where(present, true + predicted, 0))
    frequency = _divide(true, total[..., None])
    return {
        "iou": iou,
        "dice": dice,
        "precision": _divide(right, predicted),
        "recall": _divide(right, true),
        "frequency": frequency,
        "miou": _mean(iou),
        "fwiou": _divide((true * np.where(present, iou, 0)).sum(-1), total),
        "mean_dice": _mean(dice),
        "pixel_accuracy": _divide(right.sum(-1), total),
    }


def _boundary_scores(counts: _Floats) -> tuple[_Floats, _Floats]:
    """Return F (..., C) and its mean (...) of counts (..., C, 4)."""
    matched_predicted, predicted, matched_true, true = np.moveaxis(counts, -1, 0)
    # without a predicted contour nothing is matched: recall is 0, and F whatever precision is said to be
    precision, recall = matched_predicted / np.maximum(predicted, 1), _divide(matched_true, true)
    f = np.where(true > 0, 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1), np.nan)
    return f, _mean(f)


def _divide(numerator: _Floats, denominator: _Floats) -> _Floats:
    """Return the quotient, NaN where the denominator is 0."""
    some = denominator > 0
    return np.where(some, numerator / np.where(some, denominator, 1), np.nan)


def _mean(values: _Floats) -> _Floats:
    """Return the mean over the last axis, NaN left out: NaN where nothing remains, and no warning."""
    some = ~np.isnan(values)
    return _divide(np.where(some, values, 0).sum(-1), some.sum(-1).astype(np.float64))


def _interval(values: _Floats, level: float) -> Interval:
    found = values[~np.isnan(values)]
    if not found.size:
        return Interval(np.nan, np.nan)
    low, high = np.quantile(found, ((1 - level) / 2, (1 + level) / 2)).tolist()
    return Interval(low, high)


def _contours(mask: Mask, counted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (H, W) bool: counted pixels with a counted neighbour, of four, that has another value."""
    contours = np.zeros(mask.shape, np.bool_)
    below = (mask[1:] != mask[:-1]) & counted[1:] & counted[:-1]
    beside = (mask[:, 1:] != mask[:, :-1]) & counted[:, 1:] & counted[:, :-1]
    contours[1:] |= below
    contours[:-1] |= below
    contours[:, 1:] |= beside
    contours[:, :-1] |= beside
    return contours


def _matched(contour: NDArray[np.bool_], other: NDArray[np.bool_], tolerance: int) -> int:
    """Return how many pixels of a contour have one of the other within the tolerance."""
    if not contour.any() or not other.any():
        return 0
    distance = cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int(np.count_nonzero(distance[contour] <= tolerance))


def _check(truth: Mask, prediction: Mask) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape} and prediction {prediction.shape}; expected one shape (H, W)")
    if truth.dtype != np.uint8 or prediction.dtype != np.uint8:
        raise ValueError(f"truth is {truth.dtype} and prediction {prediction.dtype}; expected uint8 masks")
