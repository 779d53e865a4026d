"""The verdicts of a strategy's candidates, from what is stored of them: scores, class pixels and donors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from synthpipe.config.pipeline import Pipeline
from synthpipe.build.curation import Verdicts, acceptance, assess, choose, code, first_plan, next_plan
from synthpipe.core.errors import StoreError
from synthpipe.core.records import Strategy
from synthpipe.storage.schema import array
from synthpipe.storage.shards import read_range, read_small
from synthpipe.core.verdict_text import below_threshold

_SHARDS_AT_ONCE = 16  # that are read together


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What became of the first candidates of a strategy.

    Attributes
    ----------
    verdicts : (N,) uint8
        As of `curation`.
    kept : int
        How many of them are kept.
    scored : int
        How many of them have a score.
    acceptance : float
        Share that the filter accepts; NaN without a filter.
    below_threshold : dict or None
        Kept candidates that the filter rejects, as of `verdicts.below_threshold`.
    """

    verdicts: Verdicts
    kept: int
    scored: int
    acceptance: float
    below_threshold: dict[str, Any] | None


def judge(pipeline: Pipeline, strategy: Strategy, group: zarr.Group, count: int) -> Judgement:
    """Judge the first `count` candidates of a strategy, which `group` holds.

    Raises
    ------
    StoreError
        What is stored of them is damaged, or they are fewer.
    """
    settings, stored = pipeline.curation, array(group, "class_pixels").shape[0]
    if stored < count:
        raise StoreError(f"{group.store_path}: has {stored} candidates, {count} are planned; build again")
    p_real, verdicts = np.full(count, math.nan, np.float32), np.empty(count, np.uint8)
    for block in blocks(count, pipeline.store.shard):
        if pipeline.filter.enabled:
            p_real[block] = read_range(array(group, "p_real"), block.start, block.stop)
        class_pixels = read_range(array(group, "class_pixels"), block.start, block.stop)
        verdicts[block] = assess(p_real[block], class_pixels, settings)
    donors = array(group, "donors")
    donors_of: Callable[[Sequence[int]], NDArray[np.int32]] = partial(read_small, donors)
    if settings.rule == "top_k" and settings.max_donor_uses is not None:
        donors_of = read_range(donors, 0, count).__getitem__  # in the order of scores chunks would be read many times
    kept = choose(verdicts, p_real, settings, settings.wanted[strategy], donors_of)
    below = below_threshold(p_real[verdicts == code("kept")], settings.threshold)
    scored = int(np.count_nonzero(~np.isnan(p_real)))
    return Judgement(verdicts, kept, scored, acceptance(p_real, settings), below)


def judge_finished(pipeline: Pipeline, strategy: Strategy, group: zarr.Group) -> Judgement:
    """Judge the candidates of a finished run again, whose plan grows as it grew in the build.

    Raises
    ------
    StoreError
        What is stored of them is damaged.
    """
    settings = pipeline.curation
    planned = first_plan(pipeline, strategy)
    while True:
        found = judge(pipeline, strategy, group, planned)
        following = next_plan(planned, found.kept, settings.wanted[strategy], settings.max_candidates[strategy])
        if following == planned:
            return found
        planned = following


def blocks(count: int, shard: int) -> Iterator[slice]:
    """Cut `count` candidates into parts of some whole shards."""
    size = _SHARDS_AT_ONCE * shard
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
