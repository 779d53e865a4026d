"""Check the shards of one group: first each object alone, then the values of all arrays together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
"""The samples of a shard by the name of the array. Arrays with a damaged object are left out."""

RerenderRecipe = Callable[[int, Recipe | None], tuple[Recipe, Composite] | None]
"""Function that takes an index and the stored recipe (or None), and samples and renders the composite again.

The function returns the sampled recipe and the composite, or None if the donors are not available.
"""


@dataclass(frozen=True, slots=True, eq=False)
class CompositeCheck:
    """The data for checking the composites of a group.

    Attributes
    ----------
    pipeline : Pipeline
        The pipeline of the run.
    numbers : mapping of str to int
        The index of each donor among all donors of the catalog.
    rerender : callable
        Samples and renders a composite again.
    chosen : frozenset of int
        Indices of the composites to render again.
    """

    pipeline: Pipeline
    numbers: Mapping[str, int]
    rerender: RerenderRecipe
    chosen: frozenset[int]


def read_shard(group: ExpectedGroup, shard: int) -> tuple[dict[str, NDArray[Any]], CheckResult]:
    """Read a shard of every array of a group. Return the intact samples and the faults.

    A missing object is a fault only if the group's shards must exist.
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
                # `remove` deletes a broken link, too
                faults.append(Fault("missing", path, "nothing", f"shard {shard} of {name}", remove=(path,)))
            continue
        except AccessError:
            raise
        except OSError as error:
            expected = f"a readable shard {shard} of {name}"
            faults.append(Fault("damaged", path, error.strerror or str(error), expected, remove=(path,)))
            continue
        objects, size = objects + 1, size + len(data)
        try:
            samples[name] = stored.decode(data)
        except DamageError as error:
            faults.append(Fault("damaged", path, error.found, error.expected, remove=(path,)))
    return samples, CheckResult(tuple(faults), objects, size)


def check_composites(group: ExpectedGroup, shard: int, samples: Samples, check: CompositeCheck) -> tuple[Fault, ...]:
    """Check the values of a shard's composites, including those beyond the arrays' length.

    The last shard of a plan is always full, and the next extension uses all of its composites.
    """
    found = [*_check_recipes(group, shard, samples, check), *_check_values(samples, check.pipeline)]
    every = tuple(stored.object(shard) for name, stored in group.arrays.items() if name != "verdict")
    return tuple(_contradiction(group.arrays[name], shard, what, wanted, every) for name, what, wanted in found)


def check_curated(
    group: ExpectedGroup, shard: int, samples: Samples, expected: Samples | None, classes: int
) -> tuple[Fault, ...]:
    """Compare a shard of the curated set with its candidates. Without candidates, compare labels with masks.

    Parameters
    ----------
    group : ExpectedGroup
        The curated set.
    shard : int
        The number of the shard.
    samples, expected : mapping of str to array
        The stored samples, and the samples that follow from the candidates. `expected` is None if the candidates have
        faults.
    classes : int
        The number of tissue classes.
    """
    found = list(_differences(samples, expected) if expected else _check_labels(group, shard, samples, classes))
    every = tuple(stored.object(shard) for stored in group.arrays.values())
    return tuple(_contradiction(group.arrays[name], shard, what, wanted, every) for name, what, wanted in found)


def _contradiction(stored: StoredArray, shard: int, found: str, expected: str, remove: tuple[Any, ...]) -> Fault:
    cure = "give --repair to make this shard of all arrays again"
    return Fault("contradiction", stored.object(shard), found, expected, cure, remove=remove)


Mismatch = tuple[str, str, str]
"""The name of an array, the value that was found in it, and the expected value."""


def _check_recipes(group: ExpectedGroup, shard: int, samples: Samples, check: CompositeCheck) -> Iterator[Mismatch]:
    if "recipe" not in group.store.written:
        first = shard * group.shard
        for index in sorted(check.chosen & set(range(first, first + group.shard))):
            yield from _check_rendering(index, None, index - first, samples, check)
    if "recipe" not in samples:
        return
    for position, text in enumerate(samples["recipe"]):
        index = shard * group.shard + position
        try:
            recipe = recipe_from_json(text)
            numbers = [check.numbers[patch] for patch in recipe.donors()]
        except (ValueError, TypeError, KeyError) as error:
            yield (
                "recipe",
                f"an unreadable recipe of composite {index}: {error!r}",
                "a recipe with donors of the catalog",
            )
            return
        if (recipe.strategy, recipe.index, recipe.canvas) != (group.strategy, index, check.pipeline.canvas):
            wanted = f"that of {group.strategy} {index}, canvas {check.pipeline.canvas}"
            yield "recipe", f"the recipe of {recipe.strategy} {recipe.index}, canvas {recipe.canvas}", wanted
            return
        if "donors" in samples and samples["donors"][position].tolist() != numbers:
            found = samples["donors"][position].tolist()
            yield "donors", f"donors {found} of composite {index}", f"{numbers}, the donors of its recipe"
            return
        if index in check.chosen:
            yield from _check_rendering(index, recipe, position, samples, check)


def _check_rendering(
    index: int, recipe: Recipe | None, position: int, samples: Samples, check: CompositeCheck
) -> Iterator[Mismatch]:
    """Render a composite again and compare it with the stored arrays."""
    try:
        result = check.rerender(index, recipe)
    except ValueError as error:
        yield "recipe", str(error), "crops that fit into the recipe's donors"
        return
    if result is None:
        return
    sampled, composite = result
    if recipe and sampled != recipe:
        yield "recipe", f"a recipe of composite {index} that the pipeline does not sample", recipe_to_json(sampled)
        return
    for name, pixels in (("image", composite.image), ("mask", composite.mask)):
        if name in samples and not np.array_equal(samples[name][position], pixels):
            count = np.count_nonzero(samples[name][position] != pixels)
            yield (
                name,
                f"{count} wrong values in composite {index}",
                f"the {pixels.size} values that its recipe renders",
            )
    columns = {
        "class_pixels": count_class_pixels(composite.mask[None], check.pipeline.taxonomy.background + 1)[0].tolist(),
        "donors": [check.numbers[patch] for patch in sampled.donors()],
    }
    for name, wanted in columns.items():
        if "mask" not in samples and name in samples and samples[name][position].tolist() != wanted:
            yield name, f"{samples[name][position].tolist()} of composite {index}", f"{wanted}, as its recipe renders"


def _check_values(samples: Samples, pipeline: Pipeline) -> Iterator[Mismatch]:
    background = pipeline.taxonomy.background
    if "mask" in samples and (largest := int(samples["mask"].max())) > background:
        yield "mask", f"value {largest}", f"class indices, or {background} for background"
    elif "mask" in samples and "class_pixels" in samples:
        counted = count_class_pixels(samples["mask"], background + 1)
        for position in np.flatnonzero((counted != samples["class_pixels"]).any(axis=1))[:1]:
            wrong = samples["class_pixels"][position].tolist()
            expected = f"{counted[position].tolist()}, the counts in the mask"
            yield "class_pixels", f"{wrong} at position {position} of the shard", expected
    if "p_real" in samples:
        wrong = ~((samples["p_real"] >= 0) & (samples["p_real"] <= 1))  # also true for NaN
        for position in np.flatnonzero(wrong)[:1]:
            yield "p_real", f"{samples['p_real'][position]} at position {position} of the shard", "a probability"
    if "verdict" in samples and (largest := int(samples["verdict"].max())) >= len(REASONS):
        yield "verdict", f"code {largest}", f"at most {len(REASONS) - 1}"


def _check_labels(group: ExpectedGroup, shard: int, samples: Samples, classes: int) -> Iterator[Mismatch]:
    count = min(group.shard, group.length - shard * group.shard)
    if not {"mask", "labels"} <= samples.keys():
        return
    occurs = count_class_pixels(np.minimum(samples["mask"][:count], classes), classes + 1)[:, :classes] > 0
    for position in np.flatnonzero((occurs != samples["labels"][:count]).any(axis=1))[:1]:
        found = samples["labels"][position].tolist()
        expected = f"{occurs[position].astype(int).tolist()}, the classes in the mask"
        yield "labels", f"{found} at position {position} of the shard", expected


def _differences(samples: Samples, expected: Samples) -> Iterator[Mismatch]:
    for name, found in samples.items():
        wanted = expected[name]
        different = found != wanted
        if found.dtype.kind == "f":
            different &= ~(np.isnan(found) & np.isnan(wanted))
        for position in np.flatnonzero(different.reshape(len(found), -1).any(axis=1))[:1]:
            what = f"position {position} of the shard differs from its candidate"
            yield name, what, "the kept candidates in order of their indices"


def count_class_pixels(masks: NDArray[np.uint8], values: int) -> NDArray[np.int32]:
    """Return how many pixels of each mask have each value, (N, values) int32.

    Parameters
    ----------
    masks : (N, H, W) uint8
        Masks whose pixels are all less than `values`.
    values : int
        The number of different values.
    """
    counts = np.empty((len(masks), values), np.int32)
    for mask, row in zip(masks, counts, strict=True):
        count_classes(np.ascontiguousarray(mask).reshape(-1), row)
    return counts
