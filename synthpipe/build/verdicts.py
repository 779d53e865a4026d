"""Judge the candidates of a strategy by their stored scores, class pixels and donors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.build.curation import Verdicts, acceptance, assess, choose, code, first_plan, next_plan
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import StoreError
from synthpipe.core.records import Strategy
from synthpipe.core.verdict_text import below_threshold
from synthpipe.storage.stores import CompositeStore

_SHARDS_AT_ONCE = 16  # shards that are read together


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """The verdicts of the first candidates of a strategy.

    Attributes
    ----------
    verdicts : (N,) uint8
        The verdicts, as in `curation`.
    kept : int
        The number of kept candidates.
    scored : int
        The number of candidates with a score.
    acceptance : float
        The share of candidates that the filter accepts; NaN without a filter.
    below_threshold : dict or None
        Kept candidates that the filter rejects, as `verdict_text.below_threshold` returns them.
    """

    verdicts: Verdicts
    kept: int
    scored: int
    acceptance: float
    below_threshold: dict[str, Any] | None


def judge(pipeline: Pipeline, strategy: Strategy, candidates: CompositeStore, count: int) -> Judgement:
    """Judge the first `count` candidates of a strategy.

    Raises
    ------
    StoreError
        A stored score, pixel count or donor list is damaged, or the store has fewer candidates.
    """
    settings, stored = pipeline.curation, candidates.length("class_pixels")
    if stored < count:
        raise StoreError(f"{candidates.path}: has {stored} candidates, but {count} are planned; build again")
    verdicts, none = np.empty(count, np.uint8), np.float32(math.nan)
    # without a filter, one number stands for all scores, so that the driver's memory does not grow with them
    p_real = np.full(count, none) if pipeline.filter.enabled else np.broadcast_to(none, count)
    for block in blocks(count, pipeline.store.shard):
        if pipeline.filter.enabled:
            p_real[block] = candidates.scores(block)
        verdicts[block] = assess(p_real[block], candidates.class_pixels(block), settings)
    donors_of: Callable[[Sequence[int]], NDArray[np.int32]] = candidates.donors
    if settings.rule == "top_k" and settings.max_donor_uses is not None:
        donors_of = candidates.donors(
            slice(0, count)
        ).__getitem__  # reading in the order of scores would decode chunks many times
    kept = choose(verdicts, p_real, settings, settings.wanted[strategy], donors_of)
    if not pipeline.filter.enabled:
        return Judgement(verdicts, kept, 0, math.nan, None)
    below = below_threshold(p_real[verdicts == code("kept")], settings.threshold)
    scored = int(np.count_nonzero(~np.isnan(p_real)))
    return Judgement(verdicts, kept, scored, acceptance(p_real, settings), below)


def judge_finished(pipeline: Pipeline, strategy: Strategy, candidates: CompositeStore) -> Judgement:
    """Judge the candidates of a finished run again; the plan grows as it grew in the build.

    Raises
    ------
    StoreError
        A stored score, pixel count or donor list is damaged.
    """
    settings = pipeline.curation
    planned = first_plan(pipeline, strategy)
    while True:
        found = judge(pipeline, strategy, candidates, planned)
        following = next_plan(planned, found.kept, settings.wanted[strategy], settings.max_candidates[strategy])
        if following == planned:
            return found
        planned = following


def blocks(count: int, shard: int) -> Iterator[slice]:
    """Yield slices that cut `count` candidates into parts of whole shards."""
    size = _SHARDS_AT_ONCE * shard
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
