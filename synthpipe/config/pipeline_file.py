"""Read a pipeline file, and find contradictions between its keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from synthpipe.config.fields import MOST, even_ceil
from synthpipe.config.messages import meant, shown
from synthpipe.config.pipeline import ClassSection, DonorsSection, FilterSection, Pipeline
from synthpipe.config.settings_file import checked, load_settings
from synthpipe.core.errors import ConfigError
from synthpipe.core.patterns import pattern_fault
from synthpipe.core.records import STRATEGIES
from synthpipe.core.taxonomy import BETWEEN_NAMES, distinct_colors, same_name
from synthpipe.files.locations import address, parse_location
from synthpipe.files.reading import LARGEST_WEIGHTS, read_regular

_BEZIER_CLASSES = 2
_WANTED = "curation.wanted"
_EXPECTED = {
    "weights": "give a safetensors file or a checkpoint of torch",
    "quality": "give the file that `synthpipe index --quality` wrote",
}
FileSection = TypeVar("FileSection", FilterSection, DonorsSection)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read and validate a pipeline file.

    Parameters
    ----------
    path : str or Path
        The YAML file.
    overrides : sequence of str
        ``key=value`` pairs that replace values of the file, with dotted keys and values in YAML.

    Raises
    ------
    ConfigError
        The file or its weights cannot be read, or settings are wrong; the message lists every mistake with its key.
    """
    stem = Path(path).stem
    found = load_settings(Pipeline, path, overrides, _cross_problems, complete=lambda data: completed(data, stem))
    if found.filter.weights is not None:
        found = found.model_copy(update={"filter": _with_digest(found.filter, "filter", "weights")})
    if found.donors.quality is not None:
        found = found.model_copy(update={"donors": _with_digest(found.donors, "donors", "quality")})
    return found


def from_keys(data: dict[str, Any], path: Path) -> Pipeline:
    """Return the pipeline with the given keys, as `load` returns it for a file at `path`; the file need not exist.

    Raises
    ------
    ConfigError
        As for `load`.
    """
    return checked(Pipeline, data, path, _cross_problems, lambda data: completed(data, path.stem))


def completed(data: Mapping[str, Any], stem: str) -> dict[str, Any]:
    """Return a file's keys, and add missing ones that follow from other keys or from `stem`, the file's name."""
    found = {"name": stem, **data}
    if isinstance(classes := found.get("classes"), list):
        found["classes"] = _with_colors(classes)
    canvas, mosaic = found.get("canvas", 224), found.get("mosaic", {})
    sides = canvas if isinstance(canvas, list) else [canvas]
    if isinstance(mosaic, dict) and all(type(side) is int and side > 0 for side in sides):
        found["mosaic"] = {"tile": [-(-side // 2) for side in sides * 2][:2], **mosaic}
    curation, section = found.get("curation", {}), found.get("filter", {})
    if isinstance(curation, dict):
        wanted = curation.get("wanted", 3600)
        without = not (isinstance(section, dict) and section.get("enabled") is True)
        # as published (method section 3); without a filter all candidates are kept
        plans = {"candidates": _times(wanted, *((1,) if without else (20, 9))), "max_candidates": _times(wanted, 20)}
        found["curation"] = {**{key: plan for key, plan in plans.items() if plan}, **curation}
    return found


def _with_colors(classes: list[Any]) -> list[Any]:
    """Return classes in their long form; each class without a colour gets the next free colour."""
    spelled = [{"name": each} if isinstance(each, str) else each for each in classes]
    given = [each.get("color") for each in spelled if isinstance(each, dict)]
    free = (list(color) for color in distinct_colors() if list(color) not in given)
    black = [0, 0, 0]  # for classes beyond the number of colours, which are refused later
    return [
        {"color": next(free, black), **each} if isinstance(each, dict) and "color" not in each else each
        for each in spelled
    ]


def _times(wanted: Any, factor: int, over: int = 1) -> Any:
    """Multiply a number, or each strategy's number, by ``factor / over``, and round up; None without a number."""
    if isinstance(wanted, dict):
        plans = {key: _times(count, factor, over) for key, count in wanted.items() if key in STRATEGIES}
        return plans if all(plans.values()) else None
    return min(MOST, -(-wanted * factor // over)) if type(wanted) is int and wanted > 0 else None


def _with_digest(section: FileSection, name: str, key: str) -> FileSection:
    """Return the section `name` with the absolute path of the file that `key` names, and with the file's digest."""
    location, digest = parse_location(getattr(section, key)), getattr(section, f"{key}_sha256")
    try:
        location = location.expanduser().absolute() if isinstance(location, Path) else location
        digest = digest or hashlib.sha256(read_regular(location, LARGEST_WEIGHTS)).hexdigest()
    except Exception as error:  # clients of object stores raise exceptions of their own
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{name}.{key}: {location}: cannot be read: {reason}; {_EXPECTED[key]}") from error
    return section.model_copy(update={key: address(location), f"{key}_sha256": digest})


def _cross_problems(valid: Mapping[str, Any]) -> Iterator[str]:
    """Yield messages about contradictions between keys; `valid` maps dotted names to values that are valid alone."""
    strategies = [strategy for strategy in STRATEGIES if valid.get(strategy, ...) is not None]
    if not strategies:
        yield "mosaic, bezier: both are null; a build needs at least one strategy"
    if "classes" in valid:
        yield from _class_problems(valid["classes"])
    if {"canvas", "mosaic.tile", "mosaic.grid", "mosaic.split"} <= valid.keys():
        yield from _mosaic_problems(valid["canvas"], valid["mosaic.tile"], valid["mosaic.grid"], valid["mosaic.split"])
    if "classes" in valid and valid.get("bezier.pairs") is not None:
        yield from _pair_problems(valid["bezier.pairs"], valid["classes"])
    for key in ("filter.epochs", _WANTED, "curation.candidates", "curation.max_candidates"):
        for strategy in strategies:
            is_reported = key.startswith("curation.") and key != _WANTED and strategy not in valid.get(_WANTED, ())
            if key in valid and strategy not in valid[key] and not is_reported:
                yield f"{key}: no number for {strategy}; give one number for all, or one for each strategy"
    for key in (_WANTED, "curation.candidates"):
        for strategy in strategies:
            least, bound = (valid.get(name, {}).get(strategy) for name in (key, "curation.max_candidates"))
            if least is not None and bound is not None and bound < least:
                yield f"curation.max_candidates: {bound} for {strategy} is less than {key} ({least}); raise it"
    if "classes" in valid and valid.get("curation.min_classes", 1) > len(valid["classes"]):
        least, count = valid["curation.min_classes"], len(valid["classes"])
        yield f"curation.min_classes: got {least}; there are only {count} classes"
    elif "bezier" in strategies and valid.get("curation.min_classes", 1) > _BEZIER_CLASSES:
        got = valid["curation.min_classes"]
        yield f"curation.min_classes: got {got}; a Bezier has {_BEZIER_CLASSES} classes: lower it, or set bezier: null"
    if "filter.candidates" in valid and "filter.train_share" in valid:
        count, share = valid["filter.candidates"], valid["filter.train_share"]
        if not 0 < round(count * share) < count:
            yield f"filter.train_share: got {share}; of {count} filter.candidates it leaves none on one side"
    if valid.get("filter.weights") is None and valid.get("filter.weights_sha256") is not None:
        yield "filter.weights_sha256: got a digest, but filter.weights is null; name the file, or remove the digest"
    if valid.get("filter.weights") is not None and valid.get("filter.pretrained"):
        yield "filter.pretrained: got true beside filter.weights; choose one of them"
    yield from _donor_problems(valid)
    pattern = valid.get("patches.group_pattern")
    if pattern is not None and (fault := pattern_fault(pattern)):
        yield f"patches.group_pattern: got {shown(pattern)}; {fault}"
    yield from _label_problems(valid)


def _donor_problems(valid: Mapping[str, Any]) -> Iterator[str]:
    asked = [key for key in ("drop", "min_confidence") if valid.get(f"donors.{key}") not in (None, ())]
    if valid.get("donors.quality", ...) is None:
        for key in asked:
            yield f"donors.{key}: needs donors.quality, the file that `synthpipe index --quality` writes"
        if valid.get("donors.quality_sha256") is not None:
            yield "donors.quality_sha256: got a digest, but donors.quality is null; name the file, or remove the digest"
    elif (
        valid.get("donors.quality") is not None and not asked and {"donors.drop", "donors.min_confidence"} <= set(valid)
    ):
        yield "donors.quality: nothing uses it; set donors.drop, such as [label, blur], or donors.min_confidence"


def _label_problems(valid: Mapping[str, Any]) -> Iterator[str]:
    layout, pattern = valid.get("patches.layout"), valid.get("patches.label_pattern")
    if pattern is not None and (fault := pattern_fault(pattern, "label")):
        yield f"patches.label_pattern: got {shown(pattern)}; {fault}"
    elif pattern is not None and layout not in ("pattern", None):
        yield f"patches.label_pattern: got {shown(pattern)}; layout {layout} has none: set patches.layout: pattern"
    elif pattern is None and layout == "pattern" and "patches.label_pattern" in valid:
        yield "patches.label_pattern: missing; layout pattern needs it, such as '^(?P<label>[A-Z]+)-'"


def _class_problems(classes: Sequence[ClassSection]) -> Iterator[str]:
    seen: dict[str, tuple[int, str]] = {}
    for number, spec in enumerate(classes):
        aliases = [(f"aliases.{index}", alias) for index, alias in enumerate(spec.aliases)]
        for key, name in [("name", spec.name), *aliases]:
            setting = f"classes.{number}.{key}: got {shown(name)}"
            alike = same_name(name)
            if not name or name != name.strip() or not name.isprintable():
                yield f"{setting}; expected a name without blanks at its ends, control and invisible characters"
            elif name.startswith("[") or set(name) & set(BETWEEN_NAMES):
                yield f"{setting}; expected a name without {' '.join(BETWEEN_NAMES)} and without [ at its start"
            elif alike not in seen:
                seen[alike] = number, name
            elif seen[alike] == (number, name) or seen[alike][0] != number:
                other, former = seen[alike]
                yield f"{setting}; class {other} has {shown(former)}: each name must occur once; case does not count"


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
    index = {same_name(name): number for number, spec in enumerate(classes) for name in (spec.name, *spec.aliases)}
    if not pairs:
        yield "bezier.pairs: got an empty list; name at least one [background, foreground], or write all"
    for number, (background, foreground) in enumerate(pairs):
        for name in (background, foreground):
            if same_name(name) not in index:
                names = [spec.name for spec in classes]
                yield f"bezier.pairs.{number}: no class {shown(name)}; {meant(name, names)}allowed: {', '.join(names)}"
        if index.get(same_name(background), background) == index.get(same_name(foreground), foreground):
            yield f"bezier.pairs.{number}: got [{background}, {foreground}]; the two classes must differ"
