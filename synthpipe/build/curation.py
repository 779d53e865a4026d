"""Choose the candidates to keep. Every candidate gets a verdict, the reason for the choice.

Verdicts are codes of one byte: indices in `records.REASONS`. Candidates are assessed in blocks; then the wanted number
of acceptable candidates is chosen. So a plan of millions of candidates needs a few megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from synthpipe.config.pipeline import CurationSection, Pipeline
from synthpipe.core.class_rule import has_enough_classes
from synthpipe.core.records import REASONS, Reason, Strategy

Verdicts = NDArray[np.uint8]
"""(N,) uint8: indices in `records.REASONS`."""

_BLOCK = 1024  # candidates that are checked together


def assess(p_real: NDArray[np.float32], class_pixels: NDArray[np.int32], settings: CurationSection) -> Verdicts:
    """Judge each candidate by itself. Acceptable candidates are ``surplus`` until `choose` keeps some of them.

    Parameters
    ----------
    p_real : (N,) float32
        The filter's probability that each candidate is a real patch; NaN without a filter.
    class_pixels : (N, C + 1) int32
        Pixels of each tissue class and of the background.
    settings : CurationSection
        The rules.
    """
    verdicts = np.full(len(p_real), code("surplus"), np.uint8)
    if settings.rule == "threshold":
        verdicts[p_real <= settings.threshold] = code("looks_synthetic")  # NaN, no score, is good enough
    enough = has_enough_classes(class_pixels, settings.min_classes, settings.min_class_share)
    verdicts[~enough] = code("too_few_classes")
    return verdicts


def choose(
    verdicts: Verdicts,
    p_real: NDArray[np.float32],
    settings: CurationSection,
    wanted: int,
    donors_of: Callable[[Sequence[int]], NDArray[np.int32]],
) -> int:
    """Change the first `wanted` acceptable candidates from ``surplus`` to ``kept``; return how many were changed.

    Rule ``threshold`` chooses candidates in index order, so that a longer plan keeps the same candidates. Rule
    ``top_k`` chooses candidates with the highest `p_real` first, and equal candidates in index order.

    Parameters
    ----------
    verdicts : (N,) uint8
        The verdicts of `assess`, which this function changes.
    p_real : (N,) float32
        Scores.
    settings : CurationSection
        The rules.
    wanted : int
        The largest number of candidates to keep.
    donors_of : callable
        Takes n candidates and returns their donors, (n, D) int32: one donor index for each use, and negative numbers
        for no donor. Called only if the settings limit the uses of a donor.
    """
    kept, uses = 0, dict[int, int]()
    for eligible in _in_order(verdicts, p_real, settings):
        if settings.max_donor_uses is None:
            chosen = eligible[: wanted - kept]
            verdicts[chosen] = code("kept")
            kept += len(chosen)
            continue
        for index, row in zip(eligible.tolist(), donors_of(eligible.tolist()), strict=True):
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


class Kept:
    """The indices of the kept candidates, in order. Each part is computed on demand, so no list of all is in memory."""

    def __init__(self, verdicts: Verdicts) -> None:
        self._verdicts = verdicts
        counts = [np.count_nonzero(part == code("kept")) for _, part in _blocks(verdicts)]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def between(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the indices of the kept candidates from position `start` to position `stop`."""
        start, stop = min(max(start, 0), len(self)), min(max(stop, 0), len(self))
        if start >= stop:
            return np.empty(0, np.int64)
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        begin = first * _BLOCK
        found = np.flatnonzero(self._verdicts[begin : (last + 1) * _BLOCK] == code("kept")) + begin
        skipped = start - (int(self._ends[first - 1]) if first else 0)
        part: NDArray[np.int64] = found[skipped : skipped + stop - start]
        return part


def tally(verdicts: Verdicts) -> dict[Reason, int]:
    """Return the number of verdicts for each reason."""
    return {reason: int(np.count_nonzero(verdicts == code(reason))) for reason in REASONS}


def code(reason: Reason) -> int:
    """Return the code of a verdict."""
    return REASONS.index(reason)


def acceptance(p_real: NDArray[np.float32], settings: CurationSection) -> float:
    """Return the share of the candidates that score above the threshold; NaN without a filter."""
    scored = np.count_nonzero(~np.isnan(p_real))
    return np.count_nonzero(p_real > settings.threshold) / scored if scored else math.nan


def first_plan(pipeline: Pipeline, strategy: Strategy) -> int:
    """Return the number of candidates in the first plan. Without a filter, it is the number of wanted composites."""
    settings = pipeline.curation
    if pipeline.filter.enabled:
        return settings.candidates[strategy]
    return settings.wanted[strategy]


def next_plan(planned: int, kept: int, wanted: int, bound: int) -> int:
    """Return the number of candidates in the next plan, after `kept` of `planned` candidates were kept.

    The number is a tenth more than should be enough, at most `bound`, and at most four times `planned`. If at least
    `wanted` candidates were kept, the number is `planned`.
    """
    if kept >= wanted:
        return planned
    needed = math.ceil(1.1 * wanted * planned / kept) if kept else 4 * planned
    return min(bound, needed, 4 * planned)


def _blocks(verdicts: Verdicts) -> Iterator[tuple[int, Verdicts]]:
    return ((start, verdicts[start : start + _BLOCK]) for start in range(0, len(verdicts), _BLOCK))


def _in_order(
    verdicts: Verdicts, p_real: NDArray[np.float32], settings: CurationSection
) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of acceptable candidates in blocks, in the order of the rule."""
    if settings.rule == "threshold":
        for start, part in _blocks(verdicts):
            yield np.flatnonzero(part == code("surplus")) + start
    else:
        order = np.argsort(-p_real, kind="stable")
        for start in range(0, len(order), _BLOCK):
            best = order[start : start + _BLOCK]
            yield best[verdicts[best] == code("surplus")]
