"""The judge finds what is planted, equal seeds give equal cases, and short forms of the targets find nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.judge import Trial, Verdict, WorkerError, judge
from tests.fuzz.target import case_rng
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets.labels import PARSERS, TAXONOMY, Labels, Text, expected
from tests.fuzz.toys import Toy

SHORT = {"labels": 2000, "pipelines": 60, "images": 100, "tables": 40, "stores": 6, "checkpoints": 6}
CASES = 7  # of a toy: with seed 0 some are accepted, some refused, and some misbehave


def toy(name: str, tmp_path: Path, limit: float = 60.0) -> Verdict:
    return judge(Trial("toy", f"tests.fuzz.toys:{name}", range(CASES), 0, tmp_path, 1, limit))


def kinds() -> dict[int, int]:
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
        ("Chatter", "noise", "libtiff:"),
        ("Warn", "warning", "UserWarning"),
    ],
)
def test_what_a_case_must_not_do_is_found(name: str, kind: str, what: str, tmp_path: Path) -> None:
    verdict = toy(name, tmp_path, limit=1.0 if name == "Hang" else 60.0)
    found = {key: count for key, count in verdict.counts.items() if key[0] == kind and what in key[1]}
    assert sum(found.values()) == kinds()[2] > 0, verdict.counts
    first = next(number for number in range(CASES) if drawn(number) == 2)
    assert {verdict.findings[key].case for key in found} == {first}
    assert verdict.refused >= kinds()[1]


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    verdict = toy(Toy.__name__, tmp_path)
    assert not verdict.findings
    assert (verdict.accepted, verdict.refused) == (kinds()[0] + kinds()[2], kinds()[1])


def test_a_worker_that_cannot_start_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="does not start"):
        toy("Broken", tmp_path)


def test_equal_seeds_give_equal_cases() -> None:
    made = [[Labels.make(case_rng(seed, "labels", number)) for number in range(50)] for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("parser", "text", "classes"),
    [
        ("bracket", "a-[1, 0, 0, 1]", (0, 3)),
        ("bracket", "a-[1001]", (0, 3)),
        ("bracket", "a-[1, 0, 0]", None),
        ("bracket", "[1001]-[1, 0, 0, 1]", None),
        ("bracket", "a-[1, 0, 0, 1]b", None),
        ("bracket", "a-[0, 0, 0, 0]", None),
        ("cell", " [1 0 0 1] ", (0, 3)),
        ("cell", "[1001] [1001]", None),
        ("cell", "tumour+N.", (0, 3)),
        ("names", "TUM;tumour", None),
        ("names", "tumour+", None),
    ],
)
def test_the_oracle_of_labels_is_strict(parser: str, text: str, classes: tuple[int, ...] | None) -> None:
    assert expected(Text(parser, len(TAXONOMY), text, None)) == classes


_PIECES = st.sampled_from(
    ["[1001]", "[1, 0, 0, 1]", "[", "]", "0", "1", ",", " ", "+", ";", "tumour", "TUM", "N.", "a", "\n", "\u0660"]
)


@given(st.sampled_from(PARSERS), st.lists(_PIECES, max_size=12).map("".join))
def test_a_label_is_read_as_it_stands_or_refused(parser: str, text: str) -> None:
    Labels.check(Text(parser, len(TAXONOMY), text, None))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=pytest.mark.slow if name in ("images", "stores") else []) for name in TARGETS]
)
def test_a_short_run_finds_nothing(target: str, cache: Path) -> None:
    verdict = judge(Trial(target, TARGETS[target][1], range(SHORT[target]), 1, cache, 1, limit=30.0))
    assert not verdict.findings, verdict.to_json()
    assert verdict.accepted + verdict.refused == verdict.cases
