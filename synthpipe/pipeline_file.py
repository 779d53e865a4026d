"""Reading a pipeline file: YAML, overrides, and every mistake at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from synthpipe.config import ClassSection, Pipeline, even_ceil
from synthpipe.errors import ConfigError
from synthpipe.records import STRATEGIES


def load(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read and validate a pipeline file.

    Parameters
    ----------
    path : str or Path
        The YAML file.
    overrides : sequence of str
        ``key=value`` pairs that replace what the file says: dotted keys, values in YAML.

    Raises
    ------
    ConfigError
        The file cannot be read, or something in it is wrong; the message lists every mistake with its key.
    """
    data = _read_yaml(Path(path))
    for override in overrides:
        _override(data, override)
    problems = _problems(data)
    if problems:
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise ConfigError("\n  ".join([f"{path}: {count}", *problems]))
    return Pipeline.model_validate(data)


class _Loader(yaml.SafeLoader):
    """YAML without silent duplicate keys, and with ``1e-3`` a number as in YAML 1.2."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is no text", key_node.start_mark)
        if key in mapping:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} occurs twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


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
        raise ConfigError(f"{path}: got {type(data).__name__}, expected a mapping of keys; see `synthpipe schema`")
    return data


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected key=value, such as curation.threshold=0.4")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {' '.join(str(error).split())}") from error
    *parents, last = key.strip().split(".")
    target: Any = data
    for parent in parents:
        target = target.setdefault(parent, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise ConfigError(f"--set {override}: {'.'.join(parents)} holds no keys in this file; set it as a whole")
    target[last] = value


def _problems(data: Mapping[str, Any]) -> list[str]:
    """List every mistake: those of single keys first, then those between keys that are right by themselves."""
    problems = []
    try:
        Pipeline.model_validate(data)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
    return problems + list(_cross_problems(_valid_keys(data)))


def _valid_keys(data: Mapping[str, Any], model: type[BaseModel] = Pipeline, prefix: str = "") -> dict[str, Any]:
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


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{key}: missing; add it"
    if problem["type"] == "extra_forbidden":
        allowed = _keys_beside(problem["loc"])
        close = difflib.get_close_matches(str(problem["loc"][-1]), allowed, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{key}: no such key; {hint}allowed: {', '.join(allowed)}"
    return f"{key}: got {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _keys_beside(location: Sequence[str | int]) -> list[str]:
    """Return the keys that may stand where `location` ends."""
    section: type[BaseModel] = Pipeline
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            item = get_args(annotation)[0] if part == "classes" else annotation
            section = _section_model(item) or section
    return list(section.model_fields)


def _cross_problems(valid: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong between keys; `valid` holds those that are right by themselves, by dotted name."""
    strategies = [strategy for strategy in STRATEGIES if valid.get(strategy, ...) is not None]
    if not strategies:
        yield "mosaic, bezier: both are null; a build needs at least one strategy"
    if "classes" in valid:
        yield from _class_problems(valid["classes"])
    if {"canvas", "mosaic.tile", "mosaic.grid", "mosaic.split"} <= valid.keys():
        yield from _mosaic_problems(valid["canvas"], valid["mosaic.tile"], valid["mosaic.grid"], valid["mosaic.split"])
    if "classes" in valid and valid.get("bezier.pairs") is not None:
        yield from _pair_problems(valid["bezier.pairs"], valid["classes"])
    for key in ("filter.epochs", "curation.wanted", "curation.candidates", "curation.max_candidates"):
        for strategy in strategies:
            if key in valid and strategy not in valid[key]:
                yield f"{key}: no number for {strategy}; give one number for all, or one for each strategy"
    for key in ("curation.wanted", "curation.candidates"):
        for strategy in strategies:
            least, bound = (valid.get(name, {}).get(strategy) for name in (key, "curation.max_candidates"))
            if least is not None and bound is not None and bound < least:
                yield f"curation.max_candidates: {bound} for {strategy} is less than {key} ({least}); raise it"
    if "classes" in valid and valid.get("curation.min_classes", 1) > len(valid["classes"]):
        least, count = valid["curation.min_classes"], len(valid["classes"])
        yield f"curation.min_classes: got {least}; there are only {count} classes"
    if "filter.candidates" in valid and "filter.train_share" in valid:
        count, share = valid["filter.candidates"], valid["filter.train_share"]
        if not 0 < round(count * share) < count:
            yield f"filter.train_share: got {share}; of {count} filter.candidates it leaves none on one side"
    if valid.get("patches.group_pattern") is not None:
        yield from group_pattern_problems(valid["patches.group_pattern"])


def _class_problems(classes: Sequence[ClassSection]) -> Iterator[str]:
    names = [name for spec in classes for name in (spec.name, *spec.aliases)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"classes: {name!r} names two classes; names and aliases must be unique"


def _mosaic_problems(
    canvas: tuple[int, int], tile: tuple[int, int], grid: tuple[int, int], split: tuple[float, float]
) -> Iterator[str]:
    low, high = split
    if low > high:
        yield f"mosaic.split: got [{low}, {high}]; the first must not be larger than the second"
        return
    for axis, pixels, side, count in zip(("height", "width"), canvas, tile, grid, strict=True):
        first, last = even_ceil(low * pixels), even_ceil(high * pixels)
        largest = max(last, pixels - first)
        if first < 2 or last > pixels - 1:
            yield f"mosaic.split: got [{low}, {high}]; no pixel is left beside the split of a canvas of {axis} {pixels}"
        elif largest > side * count:
            yield (
                f"mosaic.tile: the largest quadrant has {axis} {largest} but a grid image only {side} x {count} = "
                f"{side * count}; enlarge mosaic.tile or mosaic.grid, or narrow mosaic.split"
            )


def _pair_problems(pairs: Sequence[tuple[str, str]], classes: Sequence[ClassSection]) -> Iterator[str]:
    index = {name: number for number, spec in enumerate(classes) for name in (spec.name, *spec.aliases)}
    if not pairs:
        yield "bezier.pairs: got an empty list; name at least one [background, foreground], or write all"
    for number, (background, foreground) in enumerate(pairs):
        for name in (background, foreground):
            if name not in index:
                yield f"bezier.pairs.{number}: no class {name!r}; allowed: {', '.join(spec.name for spec in classes)}"
        if index.get(background, background) == index.get(foreground, foreground):
            yield f"bezier.pairs.{number}: got [{background}, {foreground}]; the two classes must differ"


def group_pattern_problems(pattern: str) -> Iterator[str]:
    """Yield what is wrong with a pattern that finds slides or patients in stems."""
    try:
        if re.compile(pattern).groups < 1:
            yield f"patches.group_pattern: got {pattern!r}; put ( ) around the part that names the slide or patient"
    except re.error as error:
        yield f"patches.group_pattern: got {pattern!r}; no regular expression: {error}"
