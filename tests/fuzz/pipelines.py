"""Pipeline files and overrides as nobody should write them: the shipped ones, damaged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any

import yaml

from synthpipe.config.pipeline import Pipeline
from synthpipe.config.settings_file import choices
from tests.conftest import ROOT

SOUND = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "pipelines").glob("*.yaml"))]

TOKENS = (
    *("", "~", "null", "true", "no", "Off", "=", "<<", "*a", "&a", "&a [*a]", "!!bool 1", "!!python/name:os", "!x y"),
    *("010", "0o17", "0x1F", "0b1", "1_000", "1:30", "-0", "+5", "1.0", "5.", ".5", "1e3", "1e400", ".inf", "-.inf"),
    *(".nan", "1" * 60, "1" * 5000, "0x" + "f" * 5000, "1e-320", "-1", "0", "1", "2", "10000000000", "2001-01-01"),
    *("'", '"', "'5'", '"\\0"', '"\\ud800"', '"\\UFFFFFFFF"', "[", "[]", "{", "{}", "[[[[[[[[", "a: b", "- a", "? a"),
    *("---", "...", "%YAML 9.9", "#", "|", ">", "@", "`", "\t", "[1, 2, 3]", "{a: 1}", "[" * 300, "x" * 3000, "\u202e"),
    *("(a+)+$", "(a{99999999999999})", "(" * 150, "(?i)([!-\U000fffff])", "tumour ", "tumor+stroma", "\x1b[31m", "é"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 255, 256, 10**6, 10**9, 10**18, 10**59, 10**400, 0.0, 1.0, 0.5, -0.5),
    *(1e308, 5e-324, float("inf"), float("-inf"), float("nan"), "", " ", "5", "no", "all", "null", "\0", "\ud800"),
    *(
        "tumour",
        "tumour ",
        "x" * 10**5,
        "\x1b]0;x\x07",
        [],
        {},
        [[]],
        [1],
        [1, 2],
        [0, 0],
        [10**9, 10**9],
        [None, None],
    ),
    *(
        ["a", "b"],
        [["tumour", "stroma"]],
        {"mosaic": 1},
        {"mosaic": 10**30, "bezier": "x"},
        {"a": {"b": 1}},
        list("abc"),
    ),
    *([0] * 1000, {str(number): number for number in range(300)}),
)


def damaged_pipeline(rng: Random) -> str:
    """Return a pipeline file with some damage to its text, its tokens or its values."""
    text = rng.choice(SOUND)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        text = rng.choice((_damaged_text, _damaged_token, _damaged_line, _damaged_value))(rng, text)
    return text


def damaged_override(rng: Random) -> str:
    """Return what may stand behind ``--set``, right or wrong."""
    key = rng.choice(KEYS)
    if rng.random() < 0.3:
        key = (
            _damaged_text(rng, key)
            if rng.random() < 0.5
            else rng.choice(("", ".", "a..b", "classes.0.name", f"{key}."))
        )
    value = rng.choice((rng.choice(TOKENS), _yaml(rng.choice(VALUES)), rng.choice(SOUND)))
    return f"{key}={value}" if rng.random() < 0.95 else f"{key}{value}"


def _keys(model: Any, above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{above}{name}"
        for each in choices(field.annotation):
            if hasattr(each, "model_fields"):
                yield from _keys(each, f"{above}{name}.")


KEYS = tuple(_keys(Pipeline))


def _damaged_text(rng: Random, text: str) -> str:
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.choice((0, 1, 1, 2, 10, 100)))
    inserted = rng.choice(("", text[start:end] * 2, chr(rng.randrange(128)), chr(rng.randrange(0x110000)), "\n", " "))
    return text[:start] + inserted + text[end:]


def _damaged_token(rng: Random, text: str) -> str:
    tokens = list(re.finditer(r"[^\s\[\]{},:#]+", text))
    if not tokens:
        return text
    token = rng.choice(tokens)
    return text[: token.start()] + rng.choice((*TOKENS, *KEYS)) + text[token.end() :]


def _damaged_line(rng: Random, text: str) -> str:
    lines = text.split("\n")
    first, second = (rng.randrange(len(lines)) for _ in range(2))
    kind = rng.randrange(5)
    if kind == 0:
        lines.insert(second, lines[first])
    elif kind == 1:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 2:
        del lines[first]
    elif kind == 3:
        lines[first] = " " * rng.randrange(5) + lines[first].strip()
    else:
        return rng.choice(("\r\n", "\r", "\u2028", "\n\n")).join(lines)
    return "\n".join(lines)


def _damaged_value(rng: Random, text: str) -> str:
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, KeyError, AttributeError):
        return text
    inner, holders = [data], list[Any]()
    while inner:
        each = inner.pop()
        if isinstance(each, dict | list) and len(holders) < 1000:
            holders.append(each)
            inner += each.values() if isinstance(each, dict) else each
    holders = [each for each in holders if each]
    if holders:
        holder = rng.choice(holders)
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        holder[key] = rng.choice(VALUES)
    return _yaml(data)


def _yaml(value: Any) -> str:
    try:
        return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).removesuffix("...\n").strip()
    except (ValueError, yaml.YAMLError, RecursionError):  # numbers of more digits than Python shows
        return "1" * 5000
