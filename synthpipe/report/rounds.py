"""The rounds of a strategy's plan as a table and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from synthpipe.core.display_names import STRATEGY
from synthpipe.core.records import Strategy
from synthpipe.core.verdict_text import possible_verdicts, verdict_text
from synthpipe.report.charts import stacked_bars


@dataclass(frozen=True, slots=True)
class RoundsTable:
    """What the page shows of them."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    chart: Markup


def rounds_table(strategy: Strategy, found: Sequence[Mapping[str, Any]], ranked: bool) -> RoundsTable | None:
    """Describe the rounds of a strategy among those that ``build.json`` has; None where it has none."""
    own = [each for each in found if each["strategy"] == strategy]
    if not own:
        return None
    reasons = possible_verdicts(
        ranked, {reason: 1 for each in own for reason in possible_verdicts(False, {}) if each[reason]}
    )
    words = [verdict_text(reason, ranked) for reason in reasons]
    heads = ["round", "wanted", "candidates", "new", "scored", "filter accepts", *words, "donors used", "seconds"]
    rows = [
        [
            *(f"{each[key]:,}" for key in ("round", "wanted", "candidates", "new", "scored")),
            "" if each["acceptance"] is None else f"{each['acceptance']:.1%}",
            *(f"{each[reason]:,}" for reason in reasons),
            *(f"{each['donors']:,}", f"{each['seconds']:,.1f}"),
        ]
        for each in own
    ]
    counts = [(f"round {each['round']}", [each[reason] for reason in reasons]) for each in own]
    title = f"What became of the {STRATEGY[strategy]} candidates in each round"
    return RoundsTable(heads, rows, stacked_bars(title, counts, words))
