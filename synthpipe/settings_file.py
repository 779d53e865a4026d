"""Settings files: YAML, overrides of single keys, and every mistake at once, for any model of settings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from synthpipe.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def load_settings(
    model: type[Model],
    path: str | Path | None,
    overrides: Sequence[str] = (),
    between: Callable[[Mapping[str, Any]], Iterable[str]] = lambda valid: (),
    option: str = "--set",
) -> Model:
    """Read and validate a settings file.

    Parameters
    ----------
    model : type of BaseModel
        What the file must be.
    path : str or Path, optional
        The YAML file; without one, nothing but the defaults and `overrides`.
    overrides : sequence of str
        ``key=value`` pairs that replace what the file says: dotted keys, values in YAML.
    between : callable, optional
        Yields what is wrong between keys, given those that are right by themselves, by dotted name.
    option : str
        By which users give `overrides`, for messages.

    Raises
    ------
    ConfigError
        The file cannot be read, or something in it is wrong; the message lists every mistake with its key.
    """
    data = _read_yaml(Path(path)) if path else {}
    for override in overrides:
        _override(data, override, option)
    problems: list[str] = []
    try:
        found = model.model_validate(data)
    except ValidationError as error:
        problems = [_explain(problem, model) for problem in error.errors()]
    problems += between(_valid_keys(data, model))
    if problems:
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise ConfigError("\n  ".join([f"{path or option}: {count}", *problems]))
    return found


class _Loader(yaml.SafeLoader):
    """YAML without silent duplicate keys, and with ``1e-3`` a number as in YAML 1.2."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    own = set[Any]()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is no text", key_node.start_mark)
        if key in own:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} occurs twice", key_node.start_mark)
        own.add(key)
    loader.flatten_mapping(node)  # what is merged comes first, and own keys replace it
    return {
        loader.construct_object(key_node, deep=True): loader.construct_object(value_node, deep=True)
        for key_node, value_node in node.value
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: got {type(data).__name__}, expected a mapping of keys; see the files in pipelines/")
    return data


def _override(data: dict[str, Any], override: str, option: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{option} {override}: expected key=value")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{option} {override}: the value is not valid YAML: {' '.join(str(error).split())}"
        ) from error
    *parents, last = key.strip().split(".")
    target: Any = data
    for parent in parents:
        target = target.setdefault(parent, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise ConfigError(f"{option} {override}: {'.'.join(parents)} holds no keys in this file; set it as a whole")
    target[last] = value


def _valid_keys(data: Mapping[str, Any], model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return the keys that are right by themselves, as dotted names, whatever is wrong beside them."""
    valid: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        section = _section_model(field.annotation)
        if section is not None and isinstance(data.get(key), dict):
            valid |= _valid_keys(data[key], section, f"{prefix}{key}.")
        adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, Annotated[field.annotation, field]))
        try:
            valid[f"{prefix}{key}"] = adapter.validate_python(data[key])
        except (KeyError, ValidationError):
            continue
    return valid


def _section_model(annotation: Any) -> type[BaseModel] | None:
    for choice in (annotation, *get_args(annotation)):
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            return choice
    return None


def _explain(problem: Any, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{key}: missing; add it"
    if problem["type"] == "extra_forbidden":
        allowed = _keys_beside(problem["loc"], model)
        close = difflib.get_close_matches(str(problem["loc"][-1]), allowed, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{key}: no such key; {hint}allowed: {', '.join(allowed)}"
    return f"{key}: got {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _keys_beside(location: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    """Return the keys that may stand where `location` ends."""
    section = model
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_model(section.model_fields[part].annotation) or section
    return list(section.model_fields)
