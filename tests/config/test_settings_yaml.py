from __future__ import annotations

import math
from typing import Any

import pytest

from synthpipe.config.settings_yaml import MOST_BYTES, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("12", 12), ("+5", 5), ("-0", 0), ("0o17", 15), ("0x1F", 31), ("0", 0)),
        *(("1.", 1.0), (".5", 0.5), ("1e-3", 0.001), ("12e03", 12000.0), ("-.inf", -math.inf)),
        *(("true", True), ("FALSE", False), ("~", None), ("Null", None), ("", None)),
        *((text, text) for text in ("010", "000", "00.5", "1:30", "1_000", "0b101", "-0x1F", "2001-01-01", "=", "<<")),
        *((text, text) for text in ("yes", "no", "On", "off", "y", "1" * 41, "0x" + "f" * 200_000)),
        *(("'5'", "5"), ('"\\u00e9"', "é"), ("a #b", "a"), ("a: {<<: {b: 1, c: 2}, b: 3}", {"a": {"b": 3, "c": 2}})),
        *(("\ufeffa: 1", {"a": 1}), ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2})),
    ],
)
def test_scalars_are_what_yaml_1_2_makes_of_them_or_text(text: str, value: Any) -> None:
    found = parse(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: !!bool 1", "line 2, column 4: the tag !!bool is not allowed"),
        ("a: !!python/name:os.system", "the tag !!python/name:os.system is not allowed"),
        ("a: !!set {b}", "the tag !!set is not allowed"),
        ("a: ! b", "the tag ! is not allowed"),
        ("a: 1\n1: 2", "line 2, column 1: key 1 is not text; put it in quotes"),
        ("a: 1\na: 2", "line 2, column 1: key 'a' occurs twice"),
        ("a: 1\n---\nb: 2", "line 2, column 1: a second document begins here; remove the line ---"),
        ("a:\tb", "line 1, column 3: "),
        ('a: "\\0"', r"line 1: holds the character U\+0000"),
        ("a: \x00", r"line 1: holds the character U\+0000"),
        ("a: 1 # b\u2028c: 2", r"holds the character U\+2028"),
        ('a: "\\ud800"', r"holds the character U\+D800"),
        ('a: "\\UFFFFFFFF"', "is not a character"),
        ('a: "\\U00110000"', "is not a character"),
        ("a: &b [*b]", r"\*b contains itself"),
        ("a: &b {<<: *b}", r"\*b contains itself"),
    ],
)
def test_what_is_not_read_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


ALIASES = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
MERGES = ALIASES.replace("[1]", "{b: 1}").replace("[*", "{<<: [*").replace("]\n", "]}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES, "line 5, column .*: has more than 10000 values"),
        (MERGES, "line 5, column .*: has more than 10000 values"),
        ("[" + "1, " * 10_001 + "]", "has more than 10000 values"),
        ("[" * 200_000, "column 17: is nested too deeply"),
        ("{" * 200_000, "column 17: is nested too deeply"),
        ("- " * 100_000, "is nested too deeply"),
        ("x" * (MOST_BYTES + 1), "expected at most 262144"),
    ],
    ids=["aliases", "merges", "long list", "brackets", "braces", "dashes", "long text"],
)
def test_little_text_that_stands_for_much_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
