"""The table and the chart of the rounds in which a build judged a strategy's candidates."""

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
    """The column heads, the rows and the chart of a strategy's rounds."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    chart: Markup


def rounds_table(strategy: Strategy, all_rounds: Sequence[Mapping[str, Any]], ranked: bool) -> RoundsTable | None:
    """Return a strategy's rounds as a table and a chart, or None if it has no rounds.

    Parameters
    ----------
    strategy : str
        The strategy.
    all_rounds : sequence of mapping
        The rounds of all strategies, as ``build.json`` stores them.
    ranked : bool
        Whether curation keeps the candidates with the highest scores.
    """
    own = [each for each in all_rounds if each["strategy"] == strategy]
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
    title = f"Verdicts of the {STRATEGY[strategy]} candidates in each round"
    return RoundsTable(heads, rows, stacked_bars(title, counts, words))
