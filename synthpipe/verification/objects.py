"""Checking the shards of one group: each object by itself, then what they say of the same composites."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose.kernels import count_classes
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import AccessError
from synthpipe.core.records import REASONS, Composite, Recipe, recipe_from_json, recipe_to_json
from synthpipe.storage.integrity import DamageError, StoredArray
from synthpipe.storage.shards import shards_of
from synthpipe.verification.expected import ExpectedGroup
from synthpipe.verification.faults import CheckResult, Fault

Samples = Mapping[str, NDArray[Any]]
"""The samples of a shard by array, of those arrays whose objects are sound."""

RenderAgain = Callable[[Recipe], tuple[Recipe, Composite] | None]
"""Samples and renders a composite anew: what should have been sampled, and what the recipe renders. None where its
donors are not at hand."""


@dataclass(frozen=True, slots=True, eq=False)
class CompositeCheck:
    """What the composites of a group are checked against.

    Attributes
    ----------
    pipeline : Pipeline
        The run's.
    numbers : mapping of str to int
        The place of each donor among all donors of the catalog.
    again : callable
        Renders a composite again.
    chosen : collection of int
        The composites that are.
    """

    pipeline: Pipeline
    numbers: Mapping[str, int]
    again: RenderAgain
    chosen: Collection[int]


def read_shard(group: ExpectedGroup, shard: int) -> tuple[dict[str, NDArray[Any]], CheckResult]:
    """Read a shard of every array of a group; return what is sound, and what is not.

    Objects that are not made yet are no fault.
    """
    samples: dict[str, NDArray[Any]] = {}
    faults: list[Fault] = []
    objects = size = 0
    wanted = group.required and shard in shards_of(group.length, group.shard)
    for name, stored in group.arrays.items():
        path = stored.object(shard)
        try:
            data = stored.read(shard)
        except FileNotFoundError:
            if wanted and name not in group.optional:
                # a link to nothing is removed with it
                faults.append(Fault("missing", path, "nothing", f"shard {shard} of {name}", remove=(path,)))
            continue
        except AccessError:
            raise
        except OSError as error:
            expected = f"shard {shard} of {name}, which can be read"
            faults.append(Fault("damaged", path, error.strerror or str(error), expected, remove=(path,)))
            continue
        objects, size = objects + 1, size + len(data)
        try:
            samples[name] = stored.decode(data)
        except DamageError as error:
            faults.append(Fault("damaged", path, error.found, error.expected, remove=(path,)))
    return samples, CheckResult(tuple(faults), objects, size)


def check_composites(group: ExpectedGroup, shard: int, samples: Samples, check: CompositeCheck) -> tuple[Fault, ...]:
    """Check what a shard's composites say: those beyond the arrays' length too, which are as real as the others."""
    found = [*_recipes(group, shard, samples, check), *_values(samples, check.pipeline)]
    every = tuple(stored.object(shard) for name, stored in group.arrays.items() if name != "verdict")
    return tuple(_contradiction(group.arrays[name], shard, what, wanted, every) for name, what, wanted in found)


def check_curated(
    group: ExpectedGroup, shard: int, samples: Samples, expected: Samples | None, classes: int
) -> tuple[Fault, ...]:
    """Check a shard of the curated set against its origins; against itself where they are damaged."""
    found = list(_unequal(samples, expected) if expected else _labels(group, shard, samples, classes))
    every = tuple(stored.object(shard) for stored in group.arrays.values())
    return tuple(_contradiction(group.arrays[name], shard, what, wanted, every) for name, what, wanted in found)


def _contradiction(stored: StoredArray, shard: int, found: str, expected: str, remove: tuple[Any, ...]) -> Fault:
    cure = "give --repair: this shard of all arrays is made again"
    return Fault("contradiction", stored.object(shard), found, expected, cure, remove=remove)


Finding = tuple[str, str, str]
"""An array's name, what was found in it, and what was expected."""


def _recipes(group: ExpectedGroup, shard: int, samples: Samples, check: CompositeCheck) -> Iterator[Finding]:
    if "recipe" not in samples:
        return
    for place, text in enumerate(samples["recipe"]):
        index = shard * group.shard + place
        try:
            recipe = recipe_from_json(text)
            numbers = [check.numbers[patch] for patch in recipe.donors()]
        except (ValueError, TypeError, KeyError) as error:
            yield "recipe", f"no recipe of {index} that can be read: {error!r}", "one of donors of the catalog"
            return
        if (recipe.strategy, recipe.index, recipe.canvas) != (group.strategy, index, check.pipeline.canvas):
            yield "recipe", f"the recipe of {recipe.strategy} {recipe.index}", f"that of {group.strategy} {index}"
            return
        if "donors" in samples and samples["donors"][place].tolist() != numbers:
            yield "donors", f"donors {samples['donors'][place].tolist()} of {index}", f"{numbers}, as its recipe has"
            return
        if index in check.chosen:
            yield from _rendered(index, recipe, place, samples, check.again)


def _rendered(index: int, recipe: Recipe, place: int, samples: Samples, again: RenderAgain) -> Iterator[Finding]:
    try:
        result = again(recipe)
    except ValueError as error:
        yield "recipe", str(error), "crops of its donors"
        return
    if result is None:
        return
    sampled, composite = result
    if sampled != recipe:
        yield "recipe", f"another recipe of {index} than the pipeline samples", recipe_to_json(sampled)
        return
    for name, pixels in (("image", composite.image), ("mask", composite.mask)):
        if name in samples and not np.array_equal(samples[name][place], pixels):
            count = np.count_nonzero(samples[name][place] != pixels)
            yield name, f"{count} values of {index} that its recipe does not render", f"the {pixels.size} that it does"


def _values(samples: Samples, pipeline: Pipeline) -> Iterator[Finding]:
    background = pipeline.taxonomy.background
    if "mask" in samples and (largest := int(samples["mask"].max())) > background:
        yield "mask", f"value {largest}", f"class indices, or {background} for background"
    elif "mask" in samples and "class_pixels" in samples:
        counted = count_pixels(samples["mask"], background + 1)
        for place in np.flatnonzero((counted != samples["class_pixels"]).any(axis=1))[:1]:
            wrong = samples["class_pixels"][place].tolist()
            yield "class_pixels", f"{wrong} at place {place}", f"{counted[place].tolist()}, as the mask has"
    if "p_real" in samples:
        wrong = ~((samples["p_real"] >= 0) & (samples["p_real"] <= 1))  # NaN too
        for place in np.flatnonzero(wrong)[:1]:
            yield "p_real", f"{samples['p_real'][place]} at place {place}", "a probability"
    if "verdict" in samples and (largest := int(samples["verdict"].max())) >= len(REASONS):
        yield "verdict", f"code {largest}", f"at most {len(REASONS) - 1}"


def _labels(group: ExpectedGroup, shard: int, samples: Samples, classes: int) -> Iterator[Finding]:
    count = min(group.shard, group.length - shard * group.shard)
    if not {"mask", "labels"} <= samples.keys():
        return
    occurs = count_pixels(np.minimum(samples["mask"][:count], classes), classes + 1)[:, :classes] > 0
    for place in np.flatnonzero((occurs != samples["labels"][:count]).any(axis=1))[:1]:
        found = samples["labels"][place].tolist()
        yield "labels", f"{found} at place {place}", f"{occurs[place].astype(int).tolist()}, as the mask has"


def _unequal(samples: Samples, expected: Samples) -> Iterator[Finding]:
    for name, found in samples.items():
        wanted = expected[name]
        different = found != wanted
        if found.dtype.kind == "f":
            different &= ~(np.isnan(found) & np.isnan(wanted))
        for place in np.flatnonzero(different.reshape(len(found), -1).any(axis=1))[:1]:
            yield name, f"another value at place {place} than its origin has", "what was kept, in order"


def count_pixels(masks: NDArray[np.uint8], values: int) -> NDArray[np.int32]:
    """Return (N, values) int32: how often each value, all being less than `values`, occurs in (N, H, W) masks."""
    counts = np.empty((len(masks), values), np.int32)
    for mask, row in zip(masks, counts, strict=True):
        count_classes(np.ascontiguousarray(mask).reshape(-1), row)
    return counts
