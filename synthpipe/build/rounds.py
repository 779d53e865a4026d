"""What each round of a plan came to: a row a strategy and round in ``build.json``.

A round is one judgement of a plan: the first one, and one each time that the plan grows, the settings change or
``--extend`` asks for more. All values but the seconds follow from what is stored, so a build that is resumed finds the
same row again and adds only its seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from synthpipe.build.curation import tally
from synthpipe.core.records import Strategy
from synthpipe.build.verdicts import Judgement

_OWN = {"round", "new", "seconds"}  # depend on the rows before, or on the clock


def add_round(
    journal: dict[str, Any],
    strategy: Strategy,
    wanted: int,
    judgement: Judgement,
    donors: int,
    seconds: float,
    former: int = 0,
) -> None:
    """Add a round to the journal, or its seconds to the equal row of a build that was interrupted.

    Parameters
    ----------
    journal : dict
        What ``build.json`` will hold; its ``rounds`` grow.
    strategy : str
        Whose candidates were judged.
    wanted : int
        How many were to be kept.
    judgement : Judgement
        Of all candidates of the plan.
    donors : int
        How many donor patches occur in the kept ones.
    seconds : float
        How long the round took.
    former : int
        How many candidates were judged before; earlier versions of synthpipe recorded no rounds.
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
