"""Explain verdicts in words. The words depend on the stored verdict and on the rule of curation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.display_names import STRATEGY, VERDICT
from synthpipe.core.records import REASONS, Reason

_MEANT: dict[Reason, str] = {
    "looks_synthetic": "scores no more than curation.threshold",
    "too_few_classes": "fewer classes than curation.min_classes have their least share of the pixels",
    "donor_overused": "one of its donors is used as often as curation.max_donor_uses allows",
    "surplus": "passes every check, but enough others with lower indices do too",
}


def verdict_text(reason: Reason, ranked: bool) -> str:
    """Return a verdict in words. `ranked` is True if curation keeps the highest scores (rule ``top_k``)."""
    return "ranked below the cut" if reason == "surplus" and ranked else VERDICT[reason]


def rejection_reason(reason: Reason, ranked: bool) -> str:
    """Return an explanation of a verdict, or an empty text for ``kept``."""
    if reason == "surplus" and ranked:
        return "enough others have higher scores; rule top_k compares no score with curation.threshold"
    return _MEANT.get(reason, "")


def possible_verdicts(ranked: bool, counts: Mapping[Reason, int]) -> list[Reason]:
    """Return the verdicts that the rule can give or that `counts` has, in the order of `REASONS`."""
    return [each for each in REASONS if counts.get(each) or not (each == "looks_synthetic" and ranked)]


def below_threshold(kept: NDArray[np.float32], threshold: float) -> dict[str, Any] | None:
    """Count the kept candidates that the filter rejects, and return the counts as ``build.json`` stores them.

    Parameters
    ----------
    kept : (N,) float32
        Scores of the kept candidates. NaN without a filter.
    threshold : float
        The filter accepts scores above the threshold.

    Returns
    -------
    dict or None
        ``kept`` is the number of kept candidates. ``count`` is the number of those that score at most the threshold.
        ``lowest`` is the lowest score. None if all scores are above the threshold.
    """
    count = int(np.count_nonzero(kept <= threshold))
    return {"count": count, "kept": len(kept), "lowest": float(kept.min())} if count else None


def below_threshold_warning(strategy: str, below: Mapping[str, Any], threshold: float) -> str:
    """Return a warning about kept composites that the filter rejects. `below` comes from `below_threshold`."""
    return (
        f"{below['count']:,} of the {below['kept']:,} kept {STRATEGY[strategy]} composites score no more than "
        f"curation.threshold ({threshold:g}), the lowest {below['lowest']:.3f}: the filter rejects them, but rule "
        "top_k keeps the highest scores, even low ones. To keep only composites that the filter accepts, build another "
        "run with curation.rule=threshold. To keep fewer rejected composites, build another run with more "
        "curation.candidates or less curation.wanted"
    )
