from __future__ import annotations

import pytest

from synthpipe.core import patterns
from synthpipe.core.errors import ConfigError
from synthpipe.core.patterns import find_groups, pattern_fault


def test_the_first_group_names_the_slide() -> None:
    names = ["slide1-a", "b", "é-\udcff", "-"]
    assert find_groups(r"^([^-]*)-", names) == ["slide1", "", "é", ""]
    assert find_groups(r"(x)?", ["y"]) == [""]


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("abc", r"put \( \) around the part"),
        ("(", "is not a regular expression: missing \\)"),
        ("(a{99999999999999})", "is not a regular expression: the repetition number is too large"),
        ("(" * 3000 + ")" * 3000, "has 6000 characters, expected at most 200"),
    ],
)
def test_what_is_no_pattern_is_told(pattern: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        find_groups(pattern, ["a"])
    assert pattern_fault("(a)") is None


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", ".*.*.*.*.*(b)"])
def test_a_pattern_that_would_take_for_ever_is_given_up(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 1)
    with pytest.raises(ConfigError, match=r"takes more than 1 s on 2 names, such as 'aaa"):
        find_groups(pattern, ["b", "a" * 254 + "!"])
