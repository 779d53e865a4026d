"""Reading a pipeline file, and what may be wrong between its keys."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthpipe.config import ClassSection, FilterSection, Pipeline, even_ceil
from synthpipe.errors import ConfigError
from synthpipe.files import LARGEST_WEIGHTS, address, located, read_regular
from synthpipe.patterns import pattern_fault
from synthpipe.records import STRATEGIES
from synthpipe.settings_file import load_settings, shown
from synthpipe.taxonomy import BETWEEN_NAMES

_BEZIER_CLASSES = 2


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
        The file cannot be read, or something in it is wrong; the message lists every mistake with its key. Or the
        weights that it names cannot be read.
    """
    found = load_settings(Pipeline, path, overrides, _cross_problems)
    if found.filter.weights is None:
        return found
    return found.model_copy(update={"filter": _with_digest(found.filter)})


def _with_digest(section: FilterSection) -> FilterSection:
    """Return the filter's settings with the absolute path of its weights, and with their digest."""
    location, digest = located(section.weights or ""), section.weights_sha256
    try:
        location = location.expanduser().absolute() if isinstance(location, Path) else location
        digest = digest or hashlib.sha256(read_regular(location, LARGEST_WEIGHTS)).hexdigest()
    except Exception as error:  # clients of object stores raise exceptions of their own
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"filter.weights: {location}: cannot be read: {reason}; give a safetensors file or a checkpoint of torch"
        ) from error
    return section.model_copy(update={"weights": address(location), "weights_sha256": digest})


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
    pattern = valid.get("patches.group_pattern")
    if pattern is not None and (fault := pattern_fault(pattern)):
        yield f"patches.group_pattern: got {shown(pattern)}; {fault}"


def _class_problems(classes: Sequence[ClassSection]) -> Iterator[str]:
    seen: dict[str, tuple[int, str]] = {}
    for number, spec in enumerate(classes):
        aliases = [(f"aliases.{place}", alias) for place, alias in enumerate(spec.aliases)]
        for key, name in [("name", spec.name), *aliases]:
            told = f"classes.{number}.{key}: got {shown(name)}"
            alike = unicodedata.normalize("NFC", name).casefold()
            if not name or name != name.strip() or not name.isprintable():
                yield f"{told}; expected a name without blanks at its ends, control and invisible characters"
            elif name.startswith("[") or set(name) & set(BETWEEN_NAMES):
                yield f"{told}; expected a name without {' '.join(BETWEEN_NAMES)}, which join names, and no [ before it"
            elif alike not in seen:
                seen[alike] = number, name
            elif seen[alike] == (number, name) or seen[alike][0] != number:
                other, former = seen[alike]
                yield f"{told}; class {other} has {shown(former)}: names must occur once, and differ by more than case"


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
                names = ", ".join(spec.name for spec in classes)
                yield f"bezier.pairs.{number}: no class {shown(name)}; allowed: {names}"
        if index.get(background, background) == index.get(foreground, foreground):
            yield f"bezier.pairs.{number}: got [{background}, {foreground}]; the two classes must differ"
