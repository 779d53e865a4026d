"""Messages about wrong values in a settings file: the value, the expected values and an example."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core.core_schema import ErrorType

from synthpipe.config.schema import Schema, allows, at, choices_of, example, keys, properties, words
from synthpipe.core.display import printable

_LONGEST_VALUE = 100
_KINDS = set(get_args(ErrorType)) - {"value_error", "assertion_error"}
"""Kinds of errors with pydantic's own messages; all other kinds have messages for users."""


def explain(problems: Sequence[Mapping[str, Any]], model: type[BaseModel], data: Mapping[str, Any]) -> Iterator[str]:
    """Yield one message for each different error that pydantic found when it made a model from `data`."""
    schema = model.model_json_schema()
    locations = [problem["loc"] for problem in problems]
    messages = (
        _explain(problem, schema, data)
        for problem, location in zip(problems, locations, strict=True)
        if not any(len(other) > len(location) and other[: len(location)] == location for other in locations)
    )
    yield from dict.fromkeys(messages)


def shown(value: Any) -> str:
    """Return a value as short YAML text."""
    if value is None or isinstance(value, bool | list | dict):
        return short(json.dumps(value, ensure_ascii=False, default=str))
    return short(repr(value))


def short(text: object) -> str:
    """Return any text in a form that fits into a message: on one line, with a bounded length."""
    shown = str(text)
    end = "" if len(shown) <= _LONGEST_VALUE else f"... ({len(shown)} characters)"
    return printable(shown[:_LONGEST_VALUE]) + end


def meant(word: str, allowed: Sequence[str]) -> str:
    """Return a question such as ``did you mean 'csv'?`` about the most similar allowed word, or an empty text."""
    close = difflib.get_close_matches(word[:_LONGEST_VALUE], allowed, 1)
    return f"did you mean {close[0]!r}? " if close else ""


def _explain(problem: Mapping[str, Any], schema: Schema, data: Mapping[str, Any]) -> str:
    location, kind, value = problem["loc"], problem["type"], problem["input"]
    if location[-1:] == ("[key]",):
        location, kind = location[:-1], "extra_forbidden"
    if kind == "extra_forbidden":
        return _unknown(location, schema)
    if kind == "missing" and isinstance(location[-1], int):  # the list is shorter than its fixed length
        location, kind = location[:-1], "too_short"
    location, value = _written(location, value, data)
    key, found = short(".".join(map(str, location))), at(schema, location)
    if kind not in _KINDS:
        fault = problem["msg"].removeprefix("Value error, ")
        return f"{key}: got {shown(value)}; {fault[0].lower()}{fault[1:]}"
    if kind == "missing":
        return f"{key}: missing; expected {_expected(found, schema)}"
    return f"{key}: got {shown(value)}; expected {_expected(found, schema)}{_hint(found, schema, value)}"


def _written(location: Sequence[str | int], value: Any, data: Any) -> tuple[Sequence[str | int], Any]:
    """Return the location and the value in the file; there one value can stand for a list, such as 5 for [5, 5]."""
    for depth, part in enumerate(location):
        if isinstance(data, dict):
            if part not in data:
                return location, value
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        else:
            return location[:depth], data
    return location, data


def _expected(found: Schema | None, schema: Schema) -> str:
    """Return the values that a key allows as text, with an example."""
    if found is None:
        return "another value; see docs/pipeline-file.md"
    allowed, such = words(found, schema), example(found, schema)
    is_choice = such == allowed or choices_of(found, schema) or allows("boolean", found, schema)
    return allowed if is_choice or not such else f"{allowed}, such as {such}"


def _hint(found: Schema | None, schema: Schema, value: Any) -> str:
    """Return advice about a value that looks right but is wrong, such as a number in quotes."""
    if found is None:
        return ""
    if isinstance(value, str) and (hint := meant(value, choices_of(found, schema))):
        return f"; {hint.strip()}"
    is_number = allows("integer", found, schema) or allows("number", found, schema)
    if isinstance(value, str) and is_number and not allows("string", found, schema):
        return "; write numbers without quotes, leading zeros, colons and underscores"
    if isinstance(value, bool | int | float) and allows("string", found, schema) and not choices_of(found, schema):
        return "; put it in quotes"
    return ""


def _unknown(location: Sequence[str | int], schema: Schema) -> str:
    """Return a message about an unknown key, which suggests an equal key of another section or a similar key."""
    name = str(location[-1])
    section = at(schema, location[:-1])
    allowed = properties(section, schema) if section else []
    others = [key.name for key in keys(schema) if key.name.rpartition(".")[2] == name]
    hint = f"did you mean {' or '.join(others)}? " if others else meant(name, allowed)
    return f"{short('.'.join(map(str, location)))}: no such key; {hint}allowed: {', '.join(allowed)}"
