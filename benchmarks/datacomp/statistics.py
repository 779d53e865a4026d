"""Statistical comparison of two rows, by seed and by test image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.datacomp.stored_results import Result

_REPLICATES = 10_000


class Compared(NamedTuple):
    """The gain of one row over another, in mIoU.

    Attributes
    ----------
    gains : tuple of float
        The gain of each seed.
    p : float
        The p-value of Student's paired t-test over seeds; NaN for fewer than two seeds.
    by_seed, by_image : tuple of float
        95 % intervals of the mean gain: Student's interval over seeds, and the percentile bootstrap over test images.
    """

    gains: tuple[float, ...]
    p: float
    by_seed: tuple[float, float]
    by_image: tuple[float, float]


def compared(row: Mapping[int, Result], other: Mapping[int, Result]) -> Compared | None:
    """Compare two rows over the seeds that both have; return None if they have no seed in common."""
    seeds = sorted(row.keys() & other.keys())
    if not seeds:
        return None
    pair = [np.stack([of[seed].confusions for seed in seeds]) for of in (row, other)]  # (S, N, C, C)
    gains = miou(pair[0].sum(1)) - miou(pair[1].sum(1))
    p, by_seed = float("nan"), (float("nan"), float("nan"))
    if len(seeds) > 1 and gains.std() > 0:
        test = stats.ttest_1samp(gains, 0)
        p, by_seed = float(test.pvalue), tuple(test.confidence_interval())
    return Compared(tuple(gains.tolist()), p, by_seed, _by_image(*pair))


def miou(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mIoU (...) of confusion matrices (..., C, C) without absent classes, as in `metrics.measure`."""
    right, true = np.diagonal(confusions, axis1=-2, axis2=-1), confusions.sum(-1)
    union = true + confusions.sum(-2) - right
    iou = np.where(true > 0, right / np.maximum(union, 1), np.nan)
    means: NDArray[np.float64] = np.nanmean(iou, -1)
    return means


def _by_image(row: NDArray[np.int64], other: NDArray[np.int64]) -> tuple[float, float]:
    """Return the bootstrap interval of the mean gain; each replicate draws the same images for all rows and seeds."""
    images = row.shape[1]
    rng = np.random.Generator(np.random.Philox(0))
    draws = rng.multinomial(images, np.full(images, 1 / images), _REPLICATES)
    scores = [miou(np.einsum("rn,snij->rsij", draws, counts)) for counts in (row, other)]
    low, high = np.nanquantile((scores[0] - scores[1]).mean(1), (0.025, 0.975)).tolist()
    return low, high
