from __future__ import annotations

import math
from typing import Any

import numpy as np

from synthpipe.build.curation import code
from synthpipe.build.rounds import add_round
from synthpipe.build.verdicts import Judgement


def judged(kept: int, synthetic: int, surplus: int = 0, acceptance: float = 0.25) -> Judgement:
    counts = {"kept": kept, "looks_synthetic": synthetic, "surplus": surplus}
    verdicts = np.repeat([code(reason) for reason in counts], list(counts.values())).astype(np.uint8)  # type: ignore[arg-type]
    return Judgement(verdicts, kept, kept + synthetic + surplus, acceptance, None)


def test_a_round_counts_the_whole_plan_and_what_is_new() -> None:
    journal: dict[str, Any] = {}
    add_round(journal, "mosaic", 8, judged(4, 16), 3, 1.5)
    add_round(journal, "bezier", 8, judged(8, 2, acceptance=math.nan), 6, 1.0)
    add_round(journal, "mosaic", 8, judged(8, 20, 2), 5, 2.0)
    first, other, second = journal["rounds"]
    assert (first["round"], first["new"], first["candidates"], first["kept"], first["looks_synthetic"]) == (
        1,
        20,
        20,
        4,
        16,
    )
    assert (second["round"], second["new"], second["candidates"], second["surplus"]) == (2, 10, 30, 2)
    assert (second["scored"], second["donors"], second["acceptance"], second["seconds"]) == (30, 5, 0.25, 2.0)
    assert other["round"] == 1 and other["acceptance"] is None


def test_a_build_that_resumes_finds_its_rounds_again() -> None:
    journal: dict[str, Any] = {}
    for seconds in (2.0, 0.25):  # the second time from the beginning
        add_round(journal, "mosaic", 8, judged(4, 16), 3, seconds)
    add_round(journal, "mosaic", 8, judged(8, 22), 5, 1.0)
    add_round(journal, "mosaic", 12, judged(8, 22), 5, 0.5)  # extended: more are wanted, and all are there
    found = [(row["round"], row["wanted"], row["new"], row["seconds"]) for row in journal["rounds"]]
    assert found == [(1, 8, 20, 2.25), (2, 8, 10, 1.0), (3, 12, 0, 0.5)]


def test_candidates_of_an_earlier_version_are_not_new() -> None:
    journal: dict[str, Any] = {}
    add_round(journal, "mosaic", 12, judged(12, 0), 6, 1.0, former=8)
    assert [(row["round"], row["new"]) for row in journal["rounds"]] == [(1, 4)]
