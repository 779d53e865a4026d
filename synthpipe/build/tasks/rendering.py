"""Tasks that sample and render one shard of composites, or render a stored composite again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from synthpipe.build.tasks.job import training_composites
from synthpipe.build.tasks.worker_state import WorkerState
from synthpipe.compose import Purpose, donor_uses, render, sample
from synthpipe.compose.kernels import count_classes
from synthpipe.core.records import Composite, Image, Mask, Recipe, Strategy, recipe_to_json
from synthpipe.storage.chunks import Samples
from synthpipe.storage.shard_writing import ShardWriter
from synthpipe.storage.stores import CompositeStore, composite_settings

_BLOCK = 32  # composites that are rendered before they are stored
_PIXELS = ("image", "mask")


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

    Each block of composites is stored before the next is rendered, so memory does not depend on the shard's size. Of
    virtual composites, only the columns are stored.
    """
    pipeline = worker.job.pipeline
    size = pipeline.store.shard
    columns = Columns(worker, task.strategy, task.purpose, size)
    store = worker.store(task.strategy, task.purpose)
    with store.writing(task.shard) as writers:
        for start in range(0, size, _BLOCK):
            count = min(_BLOCK, size - start)
            indices = range(task.shard * size + start, task.shard * size + start + count)
            with _pixels_of(writers, count, pipeline.canvas) as (images, masks):
                columns.render(indices, images, masks)
        for name in () if store.virtual else _PIXELS:
            writers[name].finish()  # the disk writes pixels while the other arrays are encoded
        for name, samples in columns.arrays(0, size).items():
            if name in writers:
                writers[name].write(samples)
                writers[name].finish()
    return task.shard


@contextmanager
def _pixels_of(writers: Mapping[str, ShardWriter], count: int, canvas: tuple[int, int]) -> Iterator[tuple[Image, Mask]]:
    """Yield arrays for the images and masks of a block: memory of the writers, or memory that is not stored."""
    if "image" not in writers:
        yield np.empty((count, *canvas, 3), np.uint8), np.empty((count, *canvas), np.uint8)
        return
    with writers["image"].block(count) as images, writers["mask"].block(count) as masks:
        yield images, masks


class Columns:
    """Collect the recipes, class pixels and donors of composites while the composites are rendered.

    Parameters
    ----------
    worker, strategy, purpose
        The state of this worker, and the composites.
    count : int
        The number of composites that will be rendered.
    """

    def __init__(self, worker: WorkerState, strategy: Strategy, purpose: Purpose, count: int) -> None:
        pipeline = worker.job.pipeline
        self._worker, self._strategy, self._purpose = worker, strategy, purpose
        self._bank, self._done = worker.donors, 0
        self._recipes: list[str] = []
        self._with_recipes = composite_settings(pipeline, purpose).recipes
        self._class_pixels = np.empty((count, pipeline.taxonomy.background + 1), np.int32)
        self._donors = np.empty((count, donor_uses(pipeline, strategy)), np.int32)

    def render(self, indices: Sequence[int], images: Image, masks: Mask) -> None:
        """Sample and render the next composites into (n, H, W, 3) and (n, H, W)."""
        # sample all before rendering: pixels push the data of sampling out of the processor's caches
        block = self._sample_all(indices)
        part = slice(self._done, self._done + len(block))
        self._done += len(block)
        if self._with_recipes:
            self._recipes += map(recipe_to_json, block)
        self._donors[part] = [[self._bank.number(patch) for patch in recipe.donors()] for recipe in block]
        self._render_all(block, images, masks)
        for mask, pixels in zip(masks, self._class_pixels[part], strict=True):
            count_classes(mask.reshape(-1), pixels)

    def arrays(self, start: int, stop: int) -> dict[str, Samples]:
        """Return the columns of the composites from position `start` to position `stop` in the order of rendering."""
        part = slice(start, stop)
        found: dict[str, Samples] = {"class_pixels": self._class_pixels[part], "donors": self._donors[part]}
        return {"recipe": self._recipes[part], **found} if self._with_recipes else found

    def _sample_all(self, indices: Sequence[int]) -> list[Recipe]:
        """Sample composites; add the name of the composite to an error."""
        block: list[Recipe] = []
        try:
            for index in indices:
                block.append(sample_recipe(self._worker, self._strategy, self._purpose, index))
        except Exception as error:
            error.add_note(f"while sampling {self._strategy} {self._purpose} composite {indices[len(block)]}")
            raise
        return block

    def _render_all(self, block: list[Recipe], images: Image, masks: Mask) -> None:
        """Render composites; add the name of the composite and its recipe to an error."""
        number = 0
        try:
            for number, (recipe, image, mask) in enumerate(zip(block, images, masks, strict=True)):  # noqa: B007
                render(recipe, self._bank, image, mask)
        except Exception as error:
            what = f"{self._strategy} {self._purpose} composite {block[number].index}"
            error.add_note(f"while rendering {what}, recipe {recipe_to_json(block[number])}")
            raise


def make_composite(worker: WorkerState, strategy: Strategy, purpose: Purpose, index: int) -> Composite:
    """Sample and render one composite."""
    return render(sample_recipe(worker, strategy, purpose, index), worker.donors)


def equals_stored(worker: WorkerState, task: ShardTask) -> bool:
    """Render the first composite of a shard again; return whether it equals the stored arrays."""
    store = CompositeStore.open(worker.job.composites(task.purpose), task.strategy)
    index, canvas = task.shard * worker.job.pipeline.store.shard, worker.job.pipeline.canvas
    columns = Columns(worker, task.strategy, task.purpose, 1)
    images, masks = np.empty((1, *canvas, 3), np.uint8), np.empty((1, *canvas), np.uint8)
    columns.render([index], images, masks)
    made = {"image": images, "mask": masks, **columns.arrays(0, 1)}
    return all(
        np.array_equal(
            made[name], store.pixels(name).read_many([index]) if name in _PIXELS else store.read(name, [index])
        )
        for name in store.written
    )


def sample_recipe(worker: WorkerState, strategy: Strategy, purpose: Purpose, index: int) -> Recipe:
    """Sample the recipe of composite `index`."""
    pipeline, donors = worker.job.pipeline, worker.donors
    if purpose == "filter":
        training = index < training_composites(pipeline)
        donors = worker.donors_of_sides["train" if training else "validation"]
    return sample(pipeline, strategy, index, donors, purpose)
