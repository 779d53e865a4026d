"""The judge finds what is planted, equal seeds give equal cases, and short forms of the targets find nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.judge import Trial, Verdict, WorkerError, judge
from tests.fuzz.target import case_rng
from tests.fuzz.toys import Toy

CASES = 7  # of a toy: with seed 0 some are accepted, some refused, and some misbehave


def toy(name: str, tmp_path: Path, limit: float = 60.0) -> Verdict:
    return judge(Trial("toy", f"tests.fuzz.toys:{name}", range(CASES), 0, tmp_path, 1, limit))


def expected() -> dict[int, int]:
    return {kind: [drawn(number) for number in range(CASES)].count(kind) for kind in range(3)}


def drawn(number: int) -> int:
    return int(case_rng(0, "toy", number).integers(3))


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        ("Crash", "crash", "SIGSEGV"),
        ("Hang", "hang", "longer than 1 s in run"),
        ("Hog", "memory", "GiB in run"),
        ("Bomb", "memory", "MemoryError at"),
        ("Wrong", "wrong", "two is not three"),
        ("Stumble", "exception", "KeyError at"),
        ("Trespass", "outside", "outside of the case's folder"),
        ("Peep", "outside", "the canary was opened"),
        ("Call", "network", "a connection to 203.0.113.1"),
        ("Chatter", "noise", "libtiff: a warning"),
        ("Warn", "warning", "UserWarning"),
    ],
)
def test_what_a_case_must_not_do_is_found(name: str, kind: str, what: str, tmp_path: Path) -> None:
    verdict = toy(name, tmp_path, limit=1.0 if name == "Hang" else 60.0)
    found = {key: count for key, count in verdict.counts.items() if key[0] == kind and what in key[1]}
    assert sum(found.values()) == expected()[2] > 0, verdict.counts
    first = next(number for number in range(CASES) if drawn(number) == 2)
    assert {verdict.findings[key].case for key in found} == {first}
    assert verdict.refused >= expected()[1]


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    verdict = toy(Toy.__name__, tmp_path)
    assert not verdict.findings
    assert (verdict.accepted, verdict.refused) == (expected()[0] + expected()[2], expected()[1])


def test_a_worker_that_cannot_start_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="does not start"):
        toy("Broken", tmp_path)
