"""Tasks that sample and render one shard of composites, or render a stored composite again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synthpipe.build.tasks.job import training_composites
from synthpipe.build.tasks.worker_state import WorkerState
from synthpipe.compose import Donors, Purpose, donor_uses, render, sample
from synthpipe.compose.kernels import count_classes
from synthpipe.core.records import Composite, Image, Mask, Recipe, Strategy, recipe_to_json
from synthpipe.storage.chunks import Samples
from synthpipe.storage.stores import CompositeStore

_BLOCK = 32  # composites that are rendered before they are stored


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard of a strategy's composites."""

    strategy: Strategy
    purpose: Purpose
    shard: int

    def __repr__(self) -> str:
        return f"shard {self.shard} of {self.strategy} {self.purpose} composites"


def render_shard(worker: WorkerState, task: ShardTask) -> int:
    """Render a shard of composites, store it and return its number.

    Each block of composites is stored before the next is rendered, so memory does not depend on the shard's size.
    """
    pipeline, bank = worker.job.pipeline, worker.donors
    size = pipeline.store.shard
    recipes: list[str] = []
    class_pixels = np.empty((size, pipeline.taxonomy.background + 1), np.int32)
    donors = np.empty((size, donor_uses(pipeline, task.strategy)), np.int32)
    with worker.store(task.strategy, task.purpose).writing(task.shard) as writers:
        for start in range(0, size, _BLOCK):
            count = min(_BLOCK, size - start)
            # all are sampled and then all rendered: pixels push what sampling uses out of the processor's caches
            first = task.shard * size + start
            block = _sample_all(worker, task, range(first, first + count))
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
    return task.shard


def make_composite(worker: WorkerState, strategy: Strategy, purpose: Purpose, index: int) -> Composite:
    """Sample and render one composite."""
    return render(sample_recipe(worker, strategy, purpose, index), worker.donors)


def equals_stored(worker: WorkerState, task: ShardTask) -> bool:
    """Render the first composite of a shard again; return whether the stored one is equal."""
    store = CompositeStore.open(worker.job.composites(task.purpose), task.strategy)
    index = task.shard * worker.job.pipeline.store.shard
    composite = make_composite(worker, task.strategy, task.purpose, index)
    return (
        recipe_to_json(composite.recipe) == store.recipes([index])[0]
        and np.array_equal(composite.image, store.images()[index])
        and np.array_equal(composite.mask, store.masks()[index])
    )


def sample_recipe(worker: WorkerState, strategy: Strategy, purpose: Purpose, index: int) -> Recipe:
    """Sample the recipe of composite `index`."""
    pipeline, donors = worker.job.pipeline, worker.donors
    if purpose == "filter":
        training = index < training_composites(pipeline)
        donors = worker.donors_of_sides["train" if training else "validation"]
    return sample(pipeline, strategy, index, donors, purpose)


def _sample_all(worker: WorkerState, task: ShardTask, indices: range) -> list[Recipe]:
    """Sample some composites of a shard; an error gets a note that names the composite."""
    block: list[Recipe] = []
    try:
        for index in indices:
            block.append(sample_recipe(worker, task.strategy, task.purpose, index))
    except Exception as error:
        error.add_note(f"while sampling {task.strategy} {task.purpose} composite {indices[len(block)]}")
        raise
    return block


def _render_all(task: ShardTask, first: int, block: list[Recipe], bank: Donors, images: Image, masks: Mask) -> None:
    """Render composites into (N, H, W, 3) and (N, H, W); an error gets a note with the composite and its recipe."""
    number = 0
    try:
        for number, (recipe, image, mask) in enumerate(zip(block, images, masks, strict=True)):  # noqa: B007
            render(recipe, bank, image, mask)
    except Exception as error:
        what = f"{task.strategy} {task.purpose} composite {first + number}"
        error.add_note(f"while rendering {what}, recipe {recipe_to_json(block[number])}")
        raise
