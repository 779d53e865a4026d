"""Measure a segmentation: scores of pixels and of contours, with confidence intervals.

Each image gives counts; the counts of all images are summed, and the scores are computed from the sums (method
section 4). Pixels of background are never counted. A class without true pixels is *absent*: its IoU, Dice, recall and
boundary F are NaN, and means leave it out. The published scripts count a zero instead (method section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from synthpipe.core.records import Mask

Counts = NDArray[np.int64]
_Floats = NDArray[np.float64]
_PIXELS = 2**20  # pixels counted at once
_TOLERANCE = 0.0075  # share of the image's diagonal (Csurka et al.)


@dataclass(frozen=True, slots=True)
class SegmentationMetrics:
    """The scores of a confusion matrix, from 0 to 1.

    Attributes
    ----------
    iou, dice : tuple of float
        TP / (TP + FP + FN) and 2 TP / (2 TP + FP + FN) of each class; NaN for an absent class.
    precision : tuple of float
        TP / (TP + FP) of each class; NaN if no pixel was predicted as the class.
    recall : tuple of float
        TP / (TP + FN) of each class; NaN for an absent class.
    frequency : tuple of float
        Share of each class among the counted true pixels.
    miou, mean_dice : float
        Means over the classes that are not absent.
    fwiou : float
        Mean IoU, weighted by `frequency`.
    pixel_accuracy : float
        Share of the counted pixels with the right class.
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
    """The boundary F-score of each class (NaN without a true contour), and the mean over all other classes."""

    f: tuple[float, ...]
    mean_f: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; both ends are NaN if the score is NaN in all bootstrap samples."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MetricIntervals:
    """Confidence intervals of scores in `SegmentationMetrics` and `BoundaryScores`.

    `boundary_f` and `mean_boundary_f` are None if `bootstrap` got no boundary counts.
    """

    iou: tuple[Interval, ...]
    miou: Interval
    fwiou: Interval
    mean_dice: Interval
    pixel_accuracy: Interval
    boundary_f: tuple[Interval, ...] | None = None
    mean_boundary_f: Interval | None = None


def confusion_matrix(truth: Mask, prediction: Mask, classes: int) -> Counts:
    """Return (C, C) int64: the number of pixels by true class (rows) and predicted class (columns).

    Parameters
    ----------
    truth : (H, W) uint8
        Class indices. Pixels with values of `classes` and above (background or lost) are not counted.
    prediction : (H, W) uint8
        Class indices; pixels that are not counted may have any value.
    classes : int
        C, the number of classes, at most 255.

    Raises
    ------
    ValueError
        The masks differ in shape or are not uint8, or the prediction of a counted pixel is not a class.
    """
    _check(truth, prediction)
    # count every pair of bytes, because this is faster than selecting pixels first
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
            f"prediction has value {strange[0] + classes} at pixels whose truth is a class, expected 0 to "
            f"{classes - 1}; predict a class for every pixel, and mark ignored pixels only in truth"
        )
    return counted[:, :classes].astype(np.int64)


def measure(confusion: Counts) -> SegmentationMetrics:
    """Compute scores from a (C, C) confusion matrix with true classes in rows, of one image or summed over images."""
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
    """Count the contour pixels of each class, and those that match the other mask's contour.

    The result is (C, 4) int64: matched predicted, all predicted, matched true and all true pixels. A pixel is on the
    contour of its class if one of its four neighbours has another class. A contour pixel matches if the other mask has
    a contour pixel of the same class within the tolerance. The image's border is not a contour. Pixels that are not
    counted in `truth`, such as glass, are neither contour pixels nor neighbours, in both masks.

    Parameters
    ----------
    truth, prediction : (H, W) uint8
        Class indices; see `confusion_matrix`.
    classes : int
        C, the number of classes.
    tolerance : int, optional
        Largest Euclidean distance of a match in pixels; by default 0.75 % of the image's diagonal, rounded, at least 1.

    Raises
    ------
    ValueError
        The masks differ in shape, or are not uint8.

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
    """Compute boundary F-scores from the (C, 4) boundary counts of one image, or from the sum of several.

    F = 2 P R / (P + R), where P is the matched share of the predicted contour and R is the matched share of the true
    contour. F is 0 if the class is not predicted. Csurka et al. average the scores of images; a sum of counts gives
    more weight to images with long contours.
    """
    f, mean_f = _boundary_scores(np.asarray(counts, np.float64))
    return BoundaryScores(tuple(f.tolist()), float(mean_f))


def bootstrap(
    confusions: Counts, boundaries: Counts | None = None, *, seed: int, replicates: int = 1000, level: float = 0.95
) -> MetricIntervals:
    """Compute percentile confidence intervals of scores with a bootstrap over images (Efron 1979).

    The intervals show how much the scores would change for other images of the same kind. Images of one slide are not
    independent, so sum the counts of each slide first. With a single image, both ends of an interval equal the score. A
    bootstrap sample without a class does not count for the interval of this class.

    Parameters
    ----------
    confusions : (N, C, C) int64
        Confusion matrix of each image.
    boundaries : (N, C, 4) int64, optional
        `boundary_counts` of the same images.
    seed : int
        Seed of the random draws; equal seeds give equal intervals.
    replicates : int
        Number of bootstrap samples; each has N images drawn with replacement.
    level : float
        Share of the bootstrap samples inside the interval, above 0 and below 1.

    Raises
    ------
    ValueError
        There are no images, `boundaries` has another number of images, or `replicates` or `level` is out of range.
    """
    images = len(confusions)
    if not images or (boundaries is not None and len(boundaries) != images):
        contours = "" if boundaries is None else f" and contours of {len(boundaries)}"
        raise ValueError(
            f"got confusion matrices of {images} images{contours}; expected the same images, and at least 1"
        )
    if replicates < 1 or not 0 < level < 1:
        raise ValueError(
            f"replicates is {replicates} and level is {level}; expected replicates of 1 or more, and a level between "
            "0 and 1"
        )
    rng = np.random.Generator(np.random.Philox(seed))
    draws = rng.multinomial(images, np.full(images, 1 / images), replicates).astype(np.float64)

    def drawn(counts: Counts) -> _Floats:
        # float64 holds these sums exactly, so the order of the additions does not matter
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
    """Compute the fields of `SegmentationMetrics` for (..., C, C) matrices, as arrays (..., C) or (...)."""
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
    """Compute boundary F-scores (..., C) and their means (...) from boundary counts (..., C, 4)."""
    matched_predicted, predicted, matched_true, true = np.moveaxis(counts, -1, 0)
    # without a predicted contour nothing is matched: recall and F are 0 for any value of the precision
    precision, recall = matched_predicted / np.maximum(predicted, 1), _divide(matched_true, true)
    f = np.where(true > 0, 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1), np.nan)
    return f, _mean(f)


def _divide(numerator: _Floats, denominator: _Floats) -> _Floats:
    """Divide, with NaN where the denominator is 0."""
    some = denominator > 0
    return np.where(some, numerator / np.where(some, denominator, 1), np.nan)


def _mean(values: _Floats) -> _Floats:
    """Return the mean over the last axis without NaN; NaN if all values are NaN."""
    some = ~np.isnan(values)
    return _divide(np.where(some, values, 0).sum(-1), some.sum(-1).astype(np.float64))


def _interval(values: _Floats, level: float) -> Interval:
    found = values[~np.isnan(values)]
    if not found.size:
        return Interval(np.nan, np.nan)
    low, high = np.quantile(found, ((1 - level) / 2, (1 + level) / 2)).tolist()
    return Interval(low, high)


def _contours(mask: Mask, counted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (H, W) bool: True at counted pixels if one of the four neighbours is counted and has another value."""
    contours = np.zeros(mask.shape, np.bool_)
    below = (mask[1:] != mask[:-1]) & counted[1:] & counted[:-1]
    beside = (mask[:, 1:] != mask[:, :-1]) & counted[:, 1:] & counted[:, :-1]
    contours[1:] |= below
    contours[:-1] |= below
    contours[:, 1:] |= beside
    contours[:, :-1] |= beside
    return contours


def _matched(contour: NDArray[np.bool_], other: NDArray[np.bool_], tolerance: int) -> int:
    """Return the number of pixels of a contour that have a pixel of the other contour within the tolerance."""
    if not contour.any() or not other.any():
        return 0
    distance = cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int(np.count_nonzero(distance[contour] <= tolerance))


def _check(truth: Mask, prediction: Mask) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape} and prediction {prediction.shape}; expected equal shapes (H, W)")
    if truth.dtype != np.uint8 or prediction.dtype != np.uint8:
        raise ValueError(f"truth is {truth.dtype} and prediction {prediction.dtype}; expected uint8 masks")
