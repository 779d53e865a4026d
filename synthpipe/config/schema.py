"""Describe JSON schemas of settings in words: the keys and their allowed values, for messages and pages."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthpipe.config.settings_yaml import parse

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a settings file.

    Attributes
    ----------
    name : str
        Name with the sections above it, such as ``mosaic.tile``.
    values : str
        The allowed values, in words.
    default : str
        Default value as YAML; empty if the key is required, or if its value follows from other keys.
    is_required : bool
        Whether a file must have the key.
    description : str
        Purpose of the key.
    """

    name: str
    values: str
    default: str
    is_required: bool
    description: str


def keys(schema: Schema, root: Schema | None = None, above: str = "") -> Iterator[Key]:
    """Yield all keys of a model's schema; a section comes before its keys."""
    root = root or schema
    for name, found in schema["properties"].items():
        sections = [part for part in _parts(found, root) if "properties" in part and "$ref" in str(found)]
        resolved = _resolved(found, root)
        yield Key(
            name=f"{above}{name}",
            values=("null, or " if sections and "null" in _types(found, root) else "")
            + ("the keys below" if sections else words(found, root)),
            default="" if isinstance(found.get("default", {}), dict) else flow(found["default"]),
            is_required=name in schema.get("required", ()),
            description=found.get("description") or resolved.get("description", ""),
        )
        for section in sections:
            yield from keys(section, root, f"{above}{name}.")
        for item in _parts(found.get("items", {}), root):
            if "properties" in item:
                yield from keys(item, root, f"{above}{name}.N.")


def words(schema: Schema, root: Schema) -> str:
    """Return the values that a schema allows in words, such as ``a whole number from 1 to 8192``."""
    schema = _resolved(schema, root)
    if "x-words" in schema:
        return str(schema["x-words"])
    if "anyOf" in schema:
        return ", or ".join(words(part, root) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return _choice([str(each) for each in schema.get("enum", [schema.get("const")])])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return f"a {'whole ' * (kind == 'integer')}number{_bounds(schema)}"
    if kind == "array":
        return _list(schema, root)
    if kind == "object" and "properties" in schema:
        return f"the keys {', '.join(schema['properties'])}"
    if kind == "string" and schema.get("minLength"):
        return "text that is not empty"
    simple = {"boolean": "true or false", "string": "text", "null": "null", "object": "keys with values"}
    return simple.get(str(kind), "a value")


def example(schema: Schema, root: Schema) -> str:
    """Return an example of an allowed value, as YAML in one line; empty if the schema gives no example."""
    for found in (schema, *_parts(schema, root)):
        values = [*found.get("examples", ()), found.get("default")]
        if values[0] not in (None, [], {}) and not isinstance(values[0], dict):
            return flow(values[0])
        inner = found.get("properties", {})
        shown = {key: example(inner[key], root) for key in found.get("required", list(inner)[:1])}
        if any(shown.values()):
            return "{" + ", ".join(f"{key}: {text}" for key, text in shown.items()) + "}"
    return ""


def at(schema: Schema, location: Sequence[str | int]) -> Schema | None:
    """Return the part of a model's schema for the value at a location, or None."""
    found: Schema | None = schema
    for part in location:
        if found is None:
            break
        found = next((inner for each in _parts(found, schema) if (inner := _inner(each, part))), None)
    return found


def choices_of(schema: Schema, root: Schema) -> list[str]:
    """Return the words that a schema allows; empty if it does not list words."""
    parts = _parts(schema, root)
    return [word for part in parts for word in part.get("enum", [part.get("const")]) if isinstance(word, str)]


def properties(schema: Schema, root: Schema) -> list[str]:
    """Return the keys that a section allows."""
    return [key for part in _parts(schema, root) for key in part.get("properties", ())]


def allows(kind: str, schema: Schema, root: Schema) -> bool:
    """Whether a schema allows a value of a JSON type, such as ``string``."""
    return kind in _types(schema, root)


def flow(value: object) -> str:
    """Return a value as YAML in one line, with quotes only where YAML needs them."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        is_plain = set(value) <= _PLAIN and parse(value) == value
        return value if is_plain else json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _number(value) if isinstance(value, float) else str(value)


_PLAIN = frozenset(string.ascii_letters + string.digits + "_ -/.")


def _resolved(schema: Schema, root: Schema) -> Schema:
    reference = schema.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else schema


def _parts(schema: Schema, root: Schema) -> list[Schema]:
    """Return the alternatives of a schema, or only the schema itself."""
    schema = _resolved(schema, root)
    return [part for each in schema.get("anyOf", ()) for part in _parts(each, root)] or [schema]


def _types(schema: Schema, root: Schema) -> set[str]:
    return {str(part.get("type")) for part in _parts(schema, root)}


def _inner(schema: Schema, part: str | int) -> Schema | None:
    if isinstance(part, int):
        fixed = schema.get("prefixItems", ())
        found: Schema | None = fixed[part] if part < len(fixed) else schema.get("items")
        return found
    inner: Schema | None = schema.get("properties", {}).get(part)
    return inner


def _choice(options: Sequence[str]) -> str:
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} or {options[-1]}"


def _bounds(schema: Schema) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    lower = f"at least {_number(low)}" if low is not None else f"above {_number(above)}" if above is not None else ""
    upper = f"at most {_number(high)}" if high is not None else f"below {_number(below)}" if below is not None else ""
    bounds = " and ".join(filter(None, (lower, upper)))
    return f" of {bounds}" if bounds.startswith("at") else f" {bounds}" if bounds else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _list(schema: Schema, root: Schema) -> str:
    items = schema.get("prefixItems") or [schema.get("items", {})]
    least, most = schema.get("minItems"), schema.get("maxItems")
    count = "" if least is None and most is None else f" of {least if least == most else _range(least, most)}"
    return f"a list{count}, each {words(items[0], root)}"


def _range(least: int | None, most: int | None) -> str:
    if least is None:
        return f"at most {most}"
    return f"at least {least}" if most is None else f"{least} to {most}"
