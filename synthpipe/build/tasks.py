"""What a worker does: make a shard of composites, score it, train a filter, write a shard of the curated set.

Each task is idempotent, writes objects that no other task touches, and returns a few bytes. The filter is imported only
by the tasks that need it: a worker that renders need not spend seconds, and hundreds of megabytes, on torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from synthpipe.compose import Donors, Purpose, donor_uses, generator, render, sample
from synthpipe.compose.kernels import count_classes
from synthpipe.compose.view import real_view
from synthpipe.config.pipeline import FilterSection, Pipeline, StoreSection
from synthpipe.core.errors import FilterError
from synthpipe.files.locations import Location
from synthpipe.patches.bank import open_bank
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.patches.shared_bank import BankLocation
from synthpipe.patches.pixels import read_pixels
from synthpipe.core.records import STRATEGIES, Composite, Image, Mask, PatchRef, Recipe, Strategy, recipe_to_json
from synthpipe.runtime import announce
from synthpipe.storage.chunks import Samples
from synthpipe.storage.run import RunDirectory, read_json
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import CURATED_ARRAYS, array, open_group
from synthpipe.storage.shards import ShardWriter, commit, read_range, read_small, write_shard

_BLOCK = 32  # composites that are rendered before they are stored
_READ = 256  # composites that are held to be scored or copied, about
_PIXELS = ("image", "mask")


@dataclass(frozen=True, slots=True)
class Job:
    """What all tasks of a build share."""

    pipeline: Pipeline
    run: RunDirectory
    bank: BankLocation


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard of a strategy's composites."""

    job: Job
    strategy: Strategy
    purpose: Purpose
    shard: int

    def __repr__(self) -> str:
        return f"shard {self.shard} of {self.strategy} {self.purpose} composites"


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """Shards of a strategy's candidates to score, one after the other without a pause."""

    job: Job
    strategy: Strategy
    shards: tuple[int, ...]

    def __repr__(self) -> str:
        return f"scores of shards {self.shards[0]} to {self.shards[-1]} of {self.strategy} candidates"


@dataclass(frozen=True, slots=True)
class NetworkTask:
    """A check that the workers have the filter's network, and the weights that it starts from."""

    settings: FilterSection

    def __repr__(self) -> str:
        return f"the check of filter.network {self.settings.network}"


@dataclass(frozen=True, slots=True)
class TrainTask:
    """The filter of one strategy; `access` is what `Catalog.access` gave."""

    job: Job
    strategy: Strategy
    access: Mapping[str, str]

    def __repr__(self) -> str:
        return f"training of the {self.strategy} filter"


@dataclass(frozen=True, slots=True)
class CuratedTask:
    """One shard of the curated set: strategy by strategy, the samples' indices among its candidates."""

    job: Job
    shard: int
    origins: Mapping[Strategy, NDArray[np.int64]]

    def __repr__(self) -> str:
        return f"shard {self.shard} of the curated set"


def render_shard(task: ShardTask) -> int:
    """Make a shard of composites, store it and return its number.

    A block of composites is stored before the next is rendered, so a worker's memory does not depend on the shard.
    """
    pipeline = task.job.pipeline
    size = pipeline.store.shard
    recipes: list[str] = []
    class_pixels = np.empty((size, pipeline.taxonomy.background + 1), np.int32)
    donors = np.empty((size, donor_uses(pipeline, task.strategy)), np.int32)
    bank = open_donors(task.job.bank)
    arrays = _composite_arrays(_store(task), task.strategy, pipeline.store, pipeline.canvas)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(ShardWriter(each, task.shard)) for name, each in arrays.items()}
        for start in range(0, size, _BLOCK):
            count = min(_BLOCK, size - start)
            # all are sampled and then all rendered: pixels push what sampling uses out of the processor's caches
            first = task.shard * size + start
            block = _sample_all(task, range(first, first + count))
            recipes += map(recipe_to_json, block)
            donors[start : start + count] = [[bank.number(patch) for patch in recipe.donors()] for recipe in block]
            with writers["image"].block(count) as images, writers["mask"].block(count) as masks:
                _render_all(task, first, block, bank, images, masks)
                for mask, pixels in zip(masks, class_pixels[start : start + count], strict=True):
                    count_classes(mask.reshape(-1), pixels)
        writers["image"].finish()  # the disk is busy with it while the others are encoded
        writers["mask"].finish()
        small: dict[str, Samples] = {"recipe": recipes, "class_pixels": class_pixels, "donors": donors}
        for name, samples in small.items():
            writers[name].write(samples)
            writers[name].finish()
        commit(*writers.values())
    return task.shard


@lru_cache(maxsize=4)
def _composite_arrays(
    path: Location, strategy: Strategy, store: StoreSection, canvas: tuple[int, int]
) -> dict[str, zarr.Array[Any]]:
    """Return the arrays of composites, in the order in which their shards appear.

    `store` and `canvas` decide what a writer needs of them; they are not opened anew for every shard.
    """
    group = open_group(path, strategy, writable=True)
    return {name: array(group, name) for name in ("recipe", "class_pixels", "donors", "mask", "image")}


def make_composite(job: Job, strategy: Strategy, purpose: Purpose, index: int) -> Composite:
    """Sample and render one composite."""
    return render_recipe(job, sample_recipe(job, strategy, purpose, index))


def equals_stored(task: ShardTask) -> bool:
    """Whether the first composite of a shard, made again, is the one that is stored."""
    group, index = open_group(_store(task), task.strategy), task.shard * task.job.pipeline.store.shard
    composite = make_composite(task.job, task.strategy, task.purpose, index)
    return (
        recipe_to_json(composite.recipe) == read_range(array(group, "recipe"), index, index + 1)[0]
        and np.array_equal(composite.image, SampleReader(array(group, "image"))[index])
        and np.array_equal(composite.mask, SampleReader(array(group, "mask"))[index])
    )


def render_recipe(job: Job, recipe: Recipe) -> Composite:
    """Render one composite."""
    return render(recipe, open_donors(job.bank))


def sample_recipe(job: Job, strategy: Strategy, purpose: Purpose, index: int) -> Recipe:
    """Sample one composite."""
    donors = open_donors(job.bank)
    if purpose == "filter":
        training = index < training_composites(job.pipeline)
        donors = _donors_of_side(job.bank, job.run, "train" if training else "validation")
    return sample(job.pipeline, strategy, index, donors, purpose)


def _sample_all(task: ShardTask, indices: range) -> list[Recipe]:
    """Sample some composites of a shard; what fails tells which one it was."""
    block: list[Recipe] = []
    try:
        for index in indices:
            block.append(sample_recipe(task.job, task.strategy, task.purpose, index))
    except Exception as error:
        error.add_note(f"while sampling {task.strategy} {task.purpose} composite {indices[len(block)]}")
        raise
    return block


def _render_all(task: ShardTask, first: int, block: list[Recipe], bank: Donors, images: Image, masks: Mask) -> None:
    """Render composites of a shard, (N, H, W, 3) and (N, H, W); what fails tells which one it was, and its recipe."""
    number = 0
    try:
        for number, (recipe, image, mask) in enumerate(zip(block, images, masks, strict=True)):  # noqa: B007
            render(recipe, bank, image, mask)
    except Exception as error:
        what = f"{task.strategy} {task.purpose} composite {first + number}"
        error.add_note(f"while rendering {what}, recipe {recipe_to_json(block[number])}")
        raise


def training_composites(pipeline: Pipeline) -> int:
    """Return how many of the filter's composites train it; those behind them validate it."""
    return round(pipeline.filter.candidates * pipeline.filter.train_share)


def score_shards(task: ScoreTask) -> tuple[int, int]:
    """Score shards of candidates and store the scores; return how many are planned, and how many of these pass."""
    from synthpipe.filtering.scoring import load_scorer

    job, size = task.job, task.job.pipeline.store.shard
    group = open_group(job.run.candidates, task.strategy, writable=True)
    images = SampleReader(array(group, "image"))
    settings = job.pipeline.filter
    scorer = load_scorer(job.run.weights(task.strategy), settings.threads, settings.precision == "mixed")
    expected = read_json(job.run.report(task.strategy))["model_sha256"]
    if scorer.sha256 != expected:
        raise FilterError(
            f"{job.run.weights(task.strategy)}: is not the filter that its report {job.run.report(task.strategy).name} "
            "tells of; remove both and build again"
        )
    numbers = [number for shard in task.shards for number in range(shard * size, (shard + 1) * size)]

    def fill(start: int, out: Image) -> None:
        shown = numbers[start : start + len(out)]
        stored = [number for number in shown if number < len(images)]
        images.read_many(stored, out[: len(stored)])
        # the last shard may reach beyond what is planned; scores are final, so it is scored as a whole
        for number, image in zip(shown[len(stored) :], out[len(stored) :], strict=True):
            image[:] = make_composite(job, task.strategy, "candidate", number).image

    p_real = scorer.score_filled(fill, len(numbers), job.pipeline.canvas, settings.batch)
    for shard, scores in zip(task.shards, p_real.reshape(-1, size), strict=True):
        write_shard(array(group, "p_real"), shard, scores)
    planned = p_real[np.array(numbers) < len(images)]
    return len(planned), int(np.count_nonzero(planned > job.pipeline.curation.threshold))


def check_network(task: NetworkTask) -> None:
    """Refuse an unknown filter network, and weights that do not fit, before anything is rendered for it."""
    from synthpipe.filtering.network import check_start

    check_start(task.settings)


def train(task: TrainTask) -> list[str]:
    """Train the filter of a strategy, announcing its epochs; store its weights and metrics; return notes on it."""
    from synthpipe.filtering.training import FilterData, train_filter

    job, strategy = task.job, task.strategy
    pipeline, settings = job.pipeline, job.pipeline.filter
    synthetic = SampleReader(array(open_group(job.run.training, strategy), "image"))
    count = training_composites(pipeline)
    real = real_patches(pipeline, load_catalog(job.run.path, pipeline.taxonomy, task.access), read_split(job.run))
    held = [read_pixels(patch) for patch in real["train"]]  # every epoch has new views of them

    def views(images: Iterable[Image], total: int, epoch: int) -> Image:
        shown = np.empty((total, *pipeline.canvas, 3), np.uint8)
        for number, image in enumerate(images):
            rng = generator(pipeline.seed, strategy, "view", epoch << 32 | number)
            shown[number] = real_view(rng, image, strategy, pipeline)
        return shown

    data = FilterData(
        synthetic_train=synthetic.read_many(range(count)),
        synthetic_val=synthetic.read_many(range(count, settings.candidates)),
        real_train=lambda epoch: views(held, len(held), 1 + epoch),
        real_val=views(map(read_pixels, real["validation"]), len(real["validation"]), 0),
    )
    notes: list[str] = []
    train_filter(settings, strategy, data, pipeline.seed, job.run.filter, lambda epoch: announce(1), notes.append)
    return notes


def real_patches(
    pipeline: Pipeline, catalog: Catalog, split: Mapping[str, Collection[str]]
) -> dict[str, list[PatchRef]]:
    """Return the real patches of each side of the filter's split, ``train`` and ``validation``.

    They are no more than the composites of that side, evenly spread over the catalog. `split` has each side's groups.
    """
    count = training_composites(pipeline)
    limits = {"train": count, "validation": pipeline.filter.candidates - count}
    return {
        side: _spread([patch for patch in catalog.mixed if patch.group in split[side]], limit)
        for side, limit in limits.items()
    }


def write_curated_shard(task: CuratedTask) -> int:
    """Copy a shard's worth of kept candidates into the curated set, pixels block by block; return how many."""
    job, size = task.job, task.job.pipeline.store.shard
    target = open_group(job.run.curated, writable=True)
    small = curated_shard(job.pipeline, job.run, target, task.origins, _group_numbers(job.bank), pixels=False)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(ShardWriter(array(target, name), task.shard)) for name in CURATED_ARRAYS}
        for name in _PIXELS:
            for block in _blocks(size, _READ):
                count, origins = block.stop - block.start, _between(task.origins, block.start, block.stop)
                writers[name].write(_curated_pixels(job.run, target, name, origins, count))
            writers[name].finish()  # the disk is busy with it while the others are encoded
        for name, samples in small.items():
            writers[name].write(samples)
            writers[name].finish()
        commit(*writers.values())
    return sum(map(len, task.origins.values()))


def curated_shard(
    pipeline: Pipeline,
    run: RunDirectory,
    target: zarr.Group,
    origins: Mapping[Strategy, NDArray[np.int64]],
    group_numbers: NDArray[np.int32],
    pixels: bool = True,
) -> dict[str, NDArray[Any]]:
    """Put a shard of the curated set together.

    Parameters
    ----------
    pipeline, run
        Whose candidates they are.
    target : zarr.Group
        The curated set's: it has the arrays' shapes.
    origins : mapping of str to (n,) int64
        As of `CuratedTask`.
    group_numbers : (D,) int32
        The place of each donor's group among all donors' groups.
    pixels : bool
        Whether images and masks are wanted too.

    Returns
    -------
    dict of str to (N, ...) array
        The shard of each array of `CURATED_ARRAYS`; what no composite fills has the fill value.
    """
    size = pipeline.store.shard
    shard: dict[str, NDArray[Any]] = {}
    for name, spec in CURATED_ARRAYS.items():
        if name not in _PIXELS:
            shape = (size, *array(target, name).shape[1:])
            shard[name] = np.full(shape, spec.fill_value, "O" if spec.dtype == "str" else spec.dtype)
    count = 0
    for strategy, origin in origins.items():
        indices, places = origin.tolist(), slice(count, count + len(origin))
        count += len(origin)
        group = open_group(run.candidates, strategy)
        shard["origin_strategy"][places], shard["origin_index"][places] = STRATEGIES.index(strategy), origin
        shard["recipe"][places] = read_small(array(group, "recipe"), indices)
        shard["labels"][places] = read_small(array(group, "class_pixels"), indices)[:, : len(pipeline.classes)] > 0
        if pipeline.filter.enabled:
            shard["p_real"][places] = read_small(array(group, "p_real"), indices)
        donors = read_small(array(group, "donors"), indices)
        shard["donor_groups"][places, : donors.shape[1]] = _groups_of(donors, group_numbers)
    if pixels:
        shard |= {name: _curated_pixels(run, target, name, origins, size) for name in _PIXELS}
    return shard


def _curated_pixels(
    run: RunDirectory, target: zarr.Group, name: str, origins: Mapping[Strategy, NDArray[np.int64]], size: int
) -> NDArray[np.uint8]:
    """Return the images or masks of `origins`, one strategy after the other, and the fill value up to `size`."""
    pixels = np.full((size, *array(target, name).shape[1:]), CURATED_ARRAYS[name].fill_value, np.uint8)
    count = 0
    for strategy, origin in origins.items():
        reader = SampleReader(array(open_group(run.candidates, strategy), name))
        reader.read_many(origin.tolist(), pixels[count : count + len(origin)])
        count += len(origin)
    return pixels


def _blocks(size: int, block: int) -> Iterator[slice]:
    """Cut `size` places into blocks."""
    return (slice(start, min(start + block, size)) for start in range(0, size, block))


def _between(origins: Mapping[Strategy, NDArray[np.int64]], start: int, stop: int) -> dict[Strategy, NDArray[np.int64]]:
    """Return those of the origins whose places, one strategy after the other, are from `start` to `stop`."""
    part = {}
    for strategy, origin in origins.items():
        part[strategy] = origin[max(0, start) : max(0, stop)]
        start, stop = start - len(origin), stop - len(origin)
    return part


def group_numbers(groups: Sequence[str]) -> NDArray[np.int32]:
    """Return the place of each donor's group among all donors' groups, which are sorted."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int32)


def _groups_of(donors: NDArray[np.int32], numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return (N, D) int32: in each row the groups that the donors of a composite come from, in order, then -1."""
    groups = np.sort(np.where(donors >= 0, numbers[donors], -1), axis=1)
    groups[:, 1:][groups[:, 1:] == groups[:, :-1]] = -1
    return np.take_along_axis(groups, np.argsort(groups < 0, axis=1, kind="stable"), axis=1)


def read_split(run: RunDirectory) -> dict[str, frozenset[str]]:
    """Return the groups on each side of the filter's split: ``train``, then ``validation``."""
    split = read_json(run.split_file)
    return {side: frozenset(split[side]) for side in ("train", "validation")}


def _spread(patches: list[PatchRef], limit: int) -> list[PatchRef]:
    if len(patches) <= limit:
        return patches
    return [patches[number * len(patches) // limit] for number in range(limit)]


def _store(task: ShardTask) -> Location:
    return task.job.run.training if task.purpose == "filter" else task.job.run.candidates


@lru_cache(maxsize=1)
def open_donors(bank: BankLocation) -> Donors:
    """Map this node's donor bank, which some process of the node must hold; once a process."""
    return Donors(*open_bank(bank.directory))


def release_donors() -> None:
    """Forget the donors, so that the room of a bank that was removed is free."""
    for cached in (open_donors, _group_numbers, _donors_of_side):
        cached.cache_clear()


@lru_cache(maxsize=1)
def _group_numbers(bank: BankLocation) -> NDArray[np.int32]:
    """Return the place of each donor's group among all donors' groups."""
    return group_numbers([donor.group for donor in open_donors(bank).listed])


@lru_cache(maxsize=2)
def _donors_of_side(bank: BankLocation, run: RunDirectory, side: str) -> Donors:
    return open_donors(bank).within(read_split(run)[side])
