from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpipe.config import CurationSection
from synthpipe.curation import Candidates, acceptance, judge, next_plan
from tests.conftest import pipeline


def settings(*overrides: str) -> CurationSection:
    return pipeline("curation.rule=threshold", *(f"curation.{override}" for override in overrides)).curation


def candidates(p_real: list[float], classes: int = 2, donors: list[tuple[str, ...]] | None = None) -> Candidates:
    shares = np.zeros((len(p_real), 3))
    shares[:, :classes] = 1 / classes
    names = donors or [(f"{index}.png",) for index in range(len(p_real))]
    return Candidates(np.array(p_real, np.float32), shares, names)


def reasons(found: Candidates, rules: CurationSection, wanted: int) -> list[str]:
    return [verdict.reason for verdict in judge(found, rules, wanted)]


def test_the_first_that_score_above_the_threshold_are_kept() -> None:
    found = reasons(candidates([0.9, 0.5, 0.51, 0.2, 0.99]), settings(), 2)
    assert found == ["kept", "looks_synthetic", "kept", "looks_synthetic", "surplus"]


def test_top_k_keeps_the_best_whatever_they_score() -> None:
    found = reasons(candidates([0.1, 0.3, 0.2, 0.3, 0.05]), settings("rule=top_k"), 2)
    assert found == ["surplus", "kept", "surplus", "kept", "surplus"]


def test_without_scores_all_are_good_enough() -> None:
    found = candidates([math.nan] * 3)
    assert reasons(found, settings(), 2) == ["kept", "kept", "surplus"]
    assert math.isnan(acceptance(found, settings()))


def test_composites_of_one_class_are_left_out() -> None:
    assert reasons(candidates([0.9], classes=1), settings(), 1) == ["too_few_classes"]
    assert reasons(candidates([0.9], classes=1), settings("min_classes=1"), 1) == ["kept"]
    sliver = Candidates(np.array([0.9], np.float32), np.array([[0.995, 0.005, 0.0]]), [("a",)])
    assert reasons(sliver, settings(), 1) == ["too_few_classes"]
    assert reasons(sliver, settings("min_class_share=0"), 1) == ["kept"]


def test_a_donor_serves_no_more_kept_composites_than_allowed() -> None:
    found = candidates([0.9, 0.1, 0.9, 0.9], donors=[("a", "b"), ("a", "b"), ("a", "c"), ("c", "d")])
    assert reasons(found, settings("max_donor_uses=1"), 4) == ["kept", "looks_synthetic", "donor_overused", "kept"]
    twice = candidates([0.9, 0.9], donors=[("a", "a"), ("a", "b")])
    assert reasons(twice, settings("max_donor_uses=1"), 4) == ["donor_overused", "kept"]


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 60),
)
def test_a_longer_plan_keeps_the_same_ones(p_real: list[float], wanted: int, cut: int) -> None:
    full, part = candidates(p_real), candidates(p_real[:cut])
    kept = [verdict.index for verdict in judge(full, settings(), wanted) if verdict.keep]
    earlier = [verdict.index for verdict in judge(part, settings(), wanted) if verdict.keep]
    assert kept[: len(earlier)] == earlier
    counts = Counter(verdict.reason for verdict in judge(full, settings(), wanted))
    assert sum(counts.values()) == len(p_real)
    assert counts["kept"] == min(wanted, sum(p > 0.5 for p in p_real))


def test_acceptance_is_the_share_above_the_threshold() -> None:
    assert acceptance(candidates([0.4, 0.6, 0.7, 0.5]), settings()) == 0.5


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
