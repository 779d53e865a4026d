from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from synthpipe.build.curation import Kept, acceptance, assess, choose, next_plan, tally
from synthpipe.config.pipeline import CurationSection
from synthpipe.core.records import REASONS
from tests.conftest import pipeline


def settings(*overrides: str) -> CurationSection:
    return pipeline("curation.rule=threshold", *(f"curation.{override}" for override in overrides)).curation


def reasons(
    p_real: Sequence[float],
    rules: CurationSection,
    wanted: int,
    pixels: Sequence[int] = (50, 50, 0, 0),
    donors: Sequence[Sequence[int]] = (),
) -> list[str]:
    """The verdicts of composites that all have the given pixels of three classes and background."""
    scores = np.array(p_real, np.float32)
    verdicts = assess(scores, np.array([pixels] * len(p_real), np.int32), rules)

    def donors_of(indices: Sequence[int]) -> NDArray[np.int32]:
        return np.array(donors, np.int32)[list(indices)]

    kept = choose(verdicts, scores, rules, wanted, donors_of)
    found: list[str] = [REASONS[verdict] for verdict in verdicts]
    assert kept == found.count("kept")
    return found


def test_the_first_that_score_above_the_threshold_are_kept() -> None:
    found = reasons([0.9, 0.5, 0.51, 0.2, 0.99], settings(), 2)
    assert found == ["kept", "looks_synthetic", "kept", "looks_synthetic", "surplus"]


def test_top_k_keeps_the_best_whatever_they_score() -> None:
    found = reasons([0.1, 0.3, 0.2, 0.3, 0.05], settings("rule=top_k"), 2)
    assert found == ["surplus", "kept", "surplus", "kept", "surplus"]
    assert reasons([0.1, 0.3, 0.3], settings("rule=top_k"), 1) == ["surplus", "kept", "surplus"]


def test_without_scores_all_are_good_enough() -> None:
    assert reasons([math.nan] * 3, settings(), 2) == ["kept", "kept", "surplus"]
    assert math.isnan(acceptance(np.full(3, math.nan, np.float32), settings()))


def test_composites_of_one_class_are_left_out() -> None:
    assert reasons([0.9], settings(), 1, (80, 0, 0, 20)) == ["too_few_classes"]
    assert reasons([0.9], settings("min_classes=1"), 1, (80, 0, 0, 20)) == ["kept"]
    assert reasons([0.9], settings("min_classes=1"), 1, (0, 0, 0, 100)) == ["too_few_classes"]
    assert reasons([0.9], settings(), 1, (995, 5, 0, 0)) == ["too_few_classes"]
    assert reasons([0.9], settings("min_class_share=0"), 1, (995, 5, 0, 0)) == ["kept"]


@pytest.mark.parametrize("rule", ["threshold", "top_k"])
def test_a_donor_serves_no_more_kept_composites_than_allowed(rule: str) -> None:
    once = settings("max_donor_uses=1", f"rule={rule}", "threshold=0.3")
    found = reasons([0.9, 0.8, 0.7], once, 4, donors=[(0, 1), (0, 2), (2, 3)])
    assert found == ["kept", "donor_overused", "kept"]
    assert reasons([0.9, 0.9], once, 4, donors=[(0, 0), (0, -1)]) == ["donor_overused", "kept"]
    assert reasons([0.9, 0.9], once, 4, donors=[(-1, -1), (-1, -1)]) == ["kept", "kept"]
    assert reasons([0.9, 0.9, 0.9], once, 1, donors=[(0, 1), (0, 1), (2, 3)]) == ["kept", "surplus", "surplus"]


def test_limits_hold_over_many_composites() -> None:
    donors = np.random.default_rng(0).integers(0, 40, (3000, 4))
    found = reasons([0.9] * 3000, settings("max_donor_uses=50"), 3000, donors=donors.tolist())
    kept = donors[np.array(found) == "kept"]
    assert np.bincount(kept.ravel()).max() == 50 and 450 < len(kept) <= 500


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 60),
)
def test_a_longer_plan_keeps_the_same_ones(p_real: list[float], wanted: int, cut: int) -> None:
    full, part = (reasons(scores, settings(), wanted) for scores in (p_real, p_real[:cut]))
    kept = [index for index, reason in enumerate(full) if reason == "kept"]
    earlier = [index for index, reason in enumerate(part) if reason == "kept"]
    assert kept[: len(earlier)] == earlier
    assert Counter(full)["kept"] == min(wanted, sum(p > 0.5 for p in p_real))


@given(st.lists(st.sampled_from(range(len(REASONS))), max_size=40), st.integers(-3, 45), st.integers(-3, 45))
def test_the_kept_ones_are_found_by_their_number(codes: list[int], start: int, stop: int) -> None:
    verdicts = np.array(codes * 130, np.uint8)  # some blocks
    kept, expected = Kept(verdicts), np.flatnonzero(verdicts == REASONS.index("kept")).tolist()
    assert len(kept) == len(expected)
    for scale in (1, 40):
        low, high = max(start * scale, 0), max(stop * scale, 0)
        assert kept.between(start * scale, stop * scale).tolist() == expected[low:high]
    assert sum(tally(verdicts).values()) == len(verdicts) and tally(verdicts)["kept"] == len(kept)


def test_acceptance_is_the_share_above_the_threshold() -> None:
    assert acceptance(np.array([0.4, 0.6, 0.7, 0.5], np.float32), settings()) == 0.5


@given(st.integers(1, 10**6), st.floats(0, 1), st.integers(1, 10**6), st.integers(1, 10**7))
def test_the_plan_grows_within_its_bound_and_only_as_long_as_needed(
    planned: int, share: float, wanted: int, bound: int
) -> None:
    planned = min(planned, bound)
    kept = min(wanted, int(planned * share))
    following = next_plan(planned, kept, wanted, bound)
    assert planned <= following <= bound
    if kept >= wanted:
        assert following == planned
    elif planned < bound:
        assert following > planned


def test_the_plan_grows_by_what_is_missing() -> None:
    assert next_plan(1000, 100, 200, 10_000) == pytest.approx(2200, abs=1)
    assert next_plan(1000, 0, 200, 10_000) == 4000
    assert next_plan(1000, 1, 200, 10_000) == 4000
    assert next_plan(1000, 100, 200, 1500) == 1500
