"""Read settings files of any model, with overrides of single keys, and report all mistakes at once."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from synthpipe.config.messages import explain, short, shown
from synthpipe.config.settings_yaml import DEEPEST, MOST_BYTES, check_characters, parse
from synthpipe.core.display import printable
from synthpipe.core.errors import ConfigError
from synthpipe.files.reading import read_regular

Model = TypeVar("Model", bound=BaseModel)

_MOST_PROBLEMS = 60


def load_settings(
    model: type[Model],
    path: str | Path | None,
    overrides: Sequence[str] = (),
    between: Callable[[Mapping[str, Any]], Iterable[str]] = lambda valid: (),
    option: str = "--set",
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Model:
    """Read and validate a settings file.

    Parameters
    ----------
    model : type of BaseModel
        The model of the settings.
    path : str or Path, optional
        The YAML file; without a file, only the defaults and `overrides` count.
    overrides : sequence of str
        ``key=value`` pairs that replace values of the file, with dotted keys and values in YAML.
    between : callable, optional
        Receives the valid values by their dotted names, and yields messages about keys that contradict each other.
    option : str
        Name of the command-line option for `overrides`, for messages.
    complete : callable, optional
        Receives the unchecked keys, and returns them with the keys that follow from others.

    Raises
    ------
    ConfigError
        The file cannot be read, or settings are wrong; the message lists every mistake with its key.
    """
    data = _read(Path(path)) if path else {}
    for override in overrides:
        _override(data, override, option, model)
    return checked(model, data, path or option, between, complete)


def checked(
    model: type[Model],
    data: dict[str, Any],
    where: str | Path,
    between: Callable[[Mapping[str, Any]], Iterable[str]] = lambda valid: (),
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Model:
    """Validate the keys of a settings file; messages begin with `where`, and `load_settings` explains the rest.

    Raises
    ------
    ConfigError
        Settings are wrong; the message lists every mistake with its key.
    """
    problems: list[str] = []
    try:
        found = model.model_validate(completed := complete(data))
    except ValidationError as error:
        problems = list(explain(error.errors(include_url=False)[: _MOST_PROBLEMS + 1], model, data))
    problems += itertools.islice(between(_valid_keys(completed, model)), _MOST_PROBLEMS + 1)
    if problems:
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        if len(problems) > _MOST_PROBLEMS:
            count = f"more than {_MOST_PROBLEMS} mistakes"
        listed = [printable(problem) for problem in problems[:_MOST_PROBLEMS]]
        raise ConfigError("\n  ".join([f"{printable(where)}: {count}", *listed]))
    return found


def choices(annotation: Any) -> tuple[Any, ...]:
    """Return the single words or types that an annotation allows, without their ranges."""
    if get_origin(annotation) is Annotated:
        return choices(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(each for part in get_args(annotation) for each in choices(part))
    return get_args(annotation) if get_origin(annotation) is Literal else (annotation,)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = parse(read_regular(path, MOST_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{printable(path)}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{printable(path)}: is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except ValueError as error:
        raise ConfigError(f"{printable(path)}: not valid YAML: {short(error)}") from error
    if not isinstance(data, dict):
        found = "nothing" if data is None else shown(data)
        raise ConfigError(f"{printable(path)}: got {found}; expected lines with a key and a value, such as seed: 1")
    return data


def _override(data: dict[str, Any], override: str, option: str, model: type[BaseModel]) -> None:
    key, equals, text = override.partition("=")
    setting = f"{option} {short(override)}"
    *parents, last = parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts) or len(parts) > DEEPEST:
        raise ConfigError(f"{setting}: expected key=value, with dots between a section and its key")
    target: Any = data
    for parent in parents:
        inner = target.get(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{setting}: {short(parent)} is not a section in this file; set it as a whole")
        target[parent] = target = dict(inner)  # a YAML alias may use the same dict elsewhere
    try:
        target[last] = _value(text.strip(), _annotation(parts, model))
    except ValueError as error:
        raise ConfigError(f"{setting}: the value is not valid YAML: {short(error)}") from error


def _value(text: str, annotation: Any) -> Any:
    """Read an override's value as YAML; a text key takes the value as written, unless it is null or in quotes."""
    allowed = choices(annotation)
    is_text = str in allowed or any(isinstance(each, str) for each in allowed)
    if not is_text or text == "null" or text[:1] in ("'", '"'):
        return parse(text)
    check_characters(text)
    return text


def _annotation(parts: Sequence[str], model: type[BaseModel]) -> Any:
    """Return the type of a key, or None if the model has no such key."""
    *parents, last = parts
    section: type[BaseModel] | None = model
    for parent in parents:
        field = section.model_fields.get(parent) if section else None
        section = _section_model(field.annotation) if field else None
    field = section.model_fields.get(last) if section else None
    return field.annotation if field else None


def _valid_keys(data: Mapping[str, Any], model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return the values that are valid alone, or defaults, by dotted name; invalid values are left out."""
    valid: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        if key not in data and field.is_required():
            continue
        section = _section_model(field.annotation)
        given = data[key] if key in data else field.get_default(call_default_factory=True)
        if section is not None and isinstance(given, dict | BaseModel):
            inner = given if isinstance(given, dict) else given.model_dump()
            valid |= _valid_keys(inner, section, f"{prefix}{key}.")
        with suppress(ValidationError):
            valid[f"{prefix}{key}"] = _adapter(model, key).validate_python(given)
    return valid


@cache
def _adapter(model: type[BaseModel], key: str) -> TypeAdapter[Any]:
    field = model.model_fields[key]
    return TypeAdapter(cast(Any, Annotated[field.annotation, field]))


def _section_model(annotation: Any) -> type[BaseModel] | None:
    found = (each for each in choices(annotation) if isinstance(each, type) and issubclass(each, BaseModel))
    return next(found, None)
