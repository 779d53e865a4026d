"""Which candidates are kept: every one gets a verdict with its reason.

Verdicts are codes, a byte each: places in `records.REASONS`. Candidates are assessed some at a time; then the wanted
number of good ones is chosen. So a plan of millions needs a few megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from synthpipe.config import CurationSection, Pipeline
from synthpipe.records import REASONS, Reason, Strategy

Verdicts = NDArray[np.uint8]
"""(N,) uint8: places in `records.REASONS`."""

_CHOSEN_AT_ONCE = 512


def assess(p_real: NDArray[np.float32], class_pixels: NDArray[np.int32], settings: CurationSection) -> Verdicts:
    """Judge candidates by themselves; those that may be kept are ``surplus`` until they are chosen.

    Parameters
    ----------
    p_real : (N,) float32
        The filter's probability that each is a real patch; NaN where no filter was asked.
    class_pixels : (N, C + 1) int32
        Pixels of each tissue class, and of the background.
    settings : CurationSection
        The rules.
    """
    counts = class_pixels[:, :-1]
    smallest = settings.min_class_share * class_pixels.sum(axis=1, keepdims=True)
    verdicts = np.full(len(p_real), code("surplus"), np.uint8)
    if settings.rule == "threshold":
        verdicts[p_real <= settings.threshold] = code("looks_synthetic")  # NaN, no score, is good enough
    verdicts[((counts > 0) & (counts >= smallest)).sum(axis=1) < settings.min_classes] = code("too_few_classes")
    return verdicts


def choose(
    verdicts: Verdicts,
    p_real: NDArray[np.float32],
    settings: CurationSection,
    wanted: int,
    donors_of: Callable[[Sequence[int]], NDArray[np.int32]],
) -> int:
    """Turn the first `wanted` candidates that may be kept from ``surplus`` to ``kept``; return how many there were.

    With rule ``threshold`` they come in index order, so that a longer plan keeps the same ones; with rule ``top_k`` the
    highest `p_real` come first, equal ones in index order.

    Parameters
    ----------
    verdicts : (N,) uint8
        What `assess` found; changed in place.
    p_real : (N,) float32
        Scores.
    settings : CurationSection
        The rules.
    wanted : int
        How many to keep at most.
    donors_of : callable
        Returns the donors, (n, D) int32, of n candidates, one number a use and negative ones for none. Called only if
        there is a limit to their use.
    """
    eligible = np.flatnonzero(verdicts == code("surplus"))
    if settings.rule == "top_k":
        eligible = eligible[np.argsort(-p_real[eligible], kind="stable")]
    if settings.max_donor_uses is None:
        verdicts[eligible[:wanted]] = code("kept")
        return min(wanted, len(eligible))
    kept, uses = 0, dict[int, int]()
    for start in range(0, len(eligible), _CHOSEN_AT_ONCE):
        indices = eligible[start : start + _CHOSEN_AT_ONCE].tolist()
        for index, row in zip(indices, donors_of(indices), strict=True):
            if kept == wanted:
                return kept
            drawn, times = np.unique(row[row >= 0], return_counts=True)
            after = {donor: uses.get(donor, 0) + n for donor, n in zip(drawn.tolist(), times.tolist(), strict=True)}
            if max(after.values(), default=0) > settings.max_donor_uses:
                verdicts[index] = code("donor_overused")
            else:
                verdicts[index] = code("kept")
                uses |= after
                kept += 1
    return kept


def code(reason: Reason) -> int:
    """Return the code of a verdict."""
    return REASONS.index(reason)


def acceptance(p_real: NDArray[np.float32], settings: CurationSection) -> float:
    """Return the share of the candidates that score above the threshold; NaN where no filter was asked."""
    scored = np.count_nonzero(~np.isnan(p_real))
    return np.count_nonzero(p_real > settings.threshold) / scored if scored else math.nan


def first_plan(pipeline: Pipeline, strategy: Strategy) -> int:
    """Return how many candidates to make at first: without a filter no more than are wanted."""
    settings = pipeline.curation
    if pipeline.filter.enabled:
        return settings.candidates[strategy]
    return settings.wanted[strategy]


def next_plan(planned: int, kept: int, wanted: int, bound: int) -> int:
    """Return how many candidates to make in all, now that `planned` gave `kept`: a tenth more than should do.

    Never more than `bound`, never more than four times `planned`, and `planned` itself when `wanted` is reached.
    """
    if kept >= wanted:
        return planned
    needed = math.ceil(1.1 * wanted * planned / kept) if kept else 4 * planned
    return min(bound, needed, 4 * planned)
