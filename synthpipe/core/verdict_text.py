"""Verdicts in words: they follow from the stored code, and from whether candidates are ranked by their scores."""

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
    """Return a verdict in words; if candidates are ranked, ``surplus`` means ranked below the cut."""
    return "ranked below the cut" if reason == "surplus" and ranked else VERDICT[reason]


def rejection_reason(reason: Reason, ranked: bool) -> str:
    """Return why a candidate with this verdict is not kept; empty for ``kept``."""
    if reason == "surplus" and ranked:
        return "enough others have higher scores; rule top_k compares no score with curation.threshold"
    return _MEANT.get(reason, "")


def possible_verdicts(ranked: bool, counts: Mapping[Reason, int]) -> list[Reason]:
    """Return the verdicts that candidates can get, in their order, and any others that `counts` has."""
    return [each for each in REASONS if counts.get(each) or not (each == "looks_synthetic" and ranked)]


def below_threshold(kept: NDArray[np.float32], threshold: float) -> dict[str, Any] | None:
    """Describe kept candidates that the filter rejects, as ``build.json`` holds them; None if there are none.

    Parameters
    ----------
    kept : (N,) float32
        Scores of the kept candidates; NaN without a filter.
    threshold : float
        The filter accepts scores above it.

    Returns
    -------
    dict or None
        ``count``: how many of the ``kept`` ones score no more than the threshold; ``lowest``: the lowest score.
    """
    count = int(np.count_nonzero(kept <= threshold))
    return {"count": count, "kept": len(kept), "lowest": float(kept.min())} if count else None


def below_threshold_warning(strategy: str, below: Mapping[str, Any], threshold: float) -> str:
    """Return a warning about kept composites of a strategy, of which `below_threshold` returned `below`."""
    return (
        f"{below['count']:,} of the {below['kept']:,} kept {STRATEGY[strategy]} composites score no more than "
        f"curation.threshold ({threshold:g}), the lowest {below['lowest']:.3f}: the filter rejects them, but rule "
        "top_k keeps the highest scores, whatever they are. To keep only what the filter accepts, build another run "
        "with curation.rule=threshold; to keep fewer rejected ones, with more curation.candidates or less "
        "curation.wanted"
    )
