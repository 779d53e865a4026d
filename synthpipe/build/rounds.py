"""Record the result of each round of a plan: one row for each strategy and round in ``build.json``.

A round is one judgement of all candidates of a plan. A new round follows if the plan grows, the settings change or
``--extend`` asks for more composites. All values except the seconds follow from the stored arrays. So a resumed build
makes the same row again, and adds only its seconds to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from synthpipe.build.curation import tally
from synthpipe.build.verdicts import Judgement
from synthpipe.core.records import Strategy

_OWN = {"round", "new", "seconds"}  # these keys depend on the rows before, or on the clock


def add_round(
    journal: dict[str, Any],
    strategy: Strategy,
    wanted: int,
    judgement: Judgement,
    donors: int,
    seconds: float,
    former: int = 0,
) -> None:
    """Add a round to the journal. If an interrupted build left an equal row, add only the seconds to that row.

    Parameters
    ----------
    journal : dict
        The future content of ``build.json``; the round is added to its ``rounds``.
    strategy : str
        The strategy whose candidates were judged.
    wanted : int
        The number of candidates to keep.
    judgement : Judgement
        The verdicts of all candidates of the plan.
    donors : int
        The number of donor patches in the kept candidates.
    seconds : float
        Duration of the round.
    former : int
        The number of candidates that were judged before. It is needed for runs of earlier versions, which recorded no
        rounds.
    """
    rows: list[dict[str, Any]] = journal.setdefault("rounds", [])
    before = [row for row in rows if row["strategy"] == strategy]
    found: dict[str, Any] = {
        "strategy": strategy,
        "wanted": wanted,
        "candidates": len(judgement.verdicts),
        "scored": judgement.scored,
        "acceptance": None if math.isnan(judgement.acceptance) else judgement.acceptance,
        "donors": donors,
    }
    found |= {str(reason): count for reason, count in tally(judgement.verdicts).items()}
    for row in before:
        if _comparable(row) == found:
            row["seconds"] = round(row["seconds"] + seconds, 3)
            return
    planned = max(former, *(row["candidates"] for row in before), 0)
    rows.append(
        {
            "round": len(before) + 1,
            "new": max(0, len(judgement.verdicts) - planned),
            **found,
            "seconds": round(seconds, 3),
        }
    )


def _comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in _OWN}
