"""Which candidates are kept: every one gets a verdict with its reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthpipe.config import CurationSection, Pipeline
from synthpipe.records import Reason, Strategy, Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What curation knows of a strategy's candidates, in index order.

    Attributes
    ----------
    p_real : (N,) float32
        The filter's probability that each is a real patch; NaN where no filter was asked.
    class_shares : (N, C) float64
        Share of the pixels that each tissue class has; the rest is background.
    donors : sequence of N sequences of str
        The patches each is made of, once per use.
    """

    p_real: NDArray[np.float32]
    class_shares: NDArray[np.float64]
    donors: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.p_real)


def judge(candidates: Candidates, settings: CurationSection, wanted: int) -> tuple[Verdict, ...]:
    """Return a verdict for every candidate, in index order.

    With rule ``threshold`` candidates are considered in index order and the first `wanted` good ones are kept, so that
    a longer plan keeps the same ones. With rule ``top_k`` the highest `p_real` come first, equal ones in index order.

    Parameters
    ----------
    candidates : Candidates
        All candidates of one strategy.
    settings : CurationSection
        The rules.
    wanted : int
        How many to keep at most.
    """
    reasons: dict[int, Reason] = {}
    uses: Counter[str] = Counter()
    kept = 0
    for index in _order(candidates, settings):
        reason = _reason(candidates, index, settings, uses, kept < wanted)
        if reason == "kept":
            kept += 1
            uses.update(candidates.donors[index])
        reasons[index] = reason
    return tuple(Verdict(index, reasons[index]) for index in range(len(candidates)))


def acceptance(candidates: Candidates, settings: CurationSection) -> float:
    """Return the share of the candidates that score above the threshold; NaN where no filter was asked."""
    scored = candidates.p_real[~np.isnan(candidates.p_real)]
    return float((scored > settings.threshold).mean()) if len(scored) else math.nan


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


def _order(candidates: Candidates, settings: CurationSection) -> Sequence[int]:
    if settings.rule == "top_k":
        order: list[int] = np.argsort(-candidates.p_real, kind="stable").tolist()
        return order
    return range(len(candidates))


def _reason(candidates: Candidates, index: int, settings: CurationSection, uses: Counter[str], room: bool) -> Reason:
    shares = candidates.class_shares[index]
    if np.count_nonzero((shares > 0) & (shares >= settings.min_class_share)) < settings.min_classes:
        return "too_few_classes"
    # written so that NaN, no score, is good enough
    if settings.rule == "threshold" and candidates.p_real[index] <= settings.threshold:
        return "looks_synthetic"
    if settings.max_donor_uses is not None:
        drawn = Counter(candidates.donors[index])
        if any(uses[donor] + times > settings.max_donor_uses for donor, times in drawn.items()):
            return "donor_overused"
    return "kept" if room else "surplus"
