"""The words that people read for the code names of strategies, verdicts and scores.

Stored data, JSON output, settings and commands keep the code names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from synthpipe.core.records import Reason

STRATEGY: Mapping[str, str] = {
    "mosaic": "Mosaic",
    "bezier": "Bezier",
    "real": "real patches with predicted masks",
}
VERDICT: Mapping[Reason, str] = {
    "kept": "kept",
    "looks_synthetic": "looks synthetic",
    "too_few_classes": "too few classes",
    "donor_overused": "donor used too often",
    "surplus": "not needed",
}
SCORE = "score: probability of being real"


def candidate(strategy: str, index: int) -> str:
    """Return a candidate's name for people, such as ``Mosaic 41``."""
    return f"{STRATEGY[strategy]} {index}"


def score(p_real: float | None) -> str:
    """Return the filter's score as text, or an empty text if there is no score."""
    return "" if p_real is None or math.isnan(p_real) else f"score {p_real:.3f}"


def stage(name: str) -> str:
    """Return a build stage's name with its strategy in words, such as ``Mosaic candidates``."""
    first, space, rest = name.partition(" ")
    return f"{STRATEGY.get(first, first)}{space}{rest}"
