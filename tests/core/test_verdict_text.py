from __future__ import annotations

import math

import numpy as np
import pytest

from synthpipe.core.records import REASONS
from synthpipe.core.verdict_text import (
    below_threshold,
    below_threshold_warning,
    possible_verdicts,
    rejection_reason,
    verdict_text,
)


def test_what_is_ranked_below_the_cut_is_never_called_good_enough() -> None:
    assert verdict_text("surplus", True) == "ranked below the cut" and "have higher scores" in rejection_reason(
        "surplus", True
    )
    assert verdict_text("surplus", False) == "not needed" and "lower indices" in rejection_reason("surplus", False)
    assert verdict_text("looks_synthetic", True) == "looks synthetic"
    assert all(rejection_reason(reason, ranked) for reason in REASONS if reason != "kept" for ranked in (False, True))


def test_looks_synthetic_is_no_verdict_where_scores_are_only_ranked() -> None:
    assert possible_verdicts(False, {}) == list(REASONS)
    assert possible_verdicts(True, {"looks_synthetic": 0}) == ["kept", "too_few_classes", "donor_overused", "surplus"]
    assert "looks_synthetic" in possible_verdicts(True, {"looks_synthetic": 1})


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        ([0.9, 0.5, 0.25], {"count": 2, "kept": 3, "lowest": 0.25}),
        ([0.9, 0.51], None),
        ([math.nan, math.nan], None),
        ([], None),
    ],
)
def test_kept_composites_that_the_filter_rejects_are_counted(
    scores: list[float], found: dict[str, float] | None
) -> None:
    assert below_threshold(np.array(scores, np.float32), 0.5) == found


def test_the_warning_names_counts_scores_and_what_to_set() -> None:
    text = below_threshold_warning("bezier", {"count": 1368, "kept": 1400, "lowest": 0.00125}, 0.5)
    assert text.startswith("1,368 of the 1,400 kept Bezier composites score no more than curation.threshold (0.5), ")
    assert "the lowest 0.001" in text and "curation.rule=threshold" in text
