"""Tasks that sample and render one shard of composites, or render a stored composite again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthpipe.build.tasks.job import training_composites
from synthpipe.build.tasks.worker_state import WorkerState
from synthpipe.compose import Block, Purpose, donor_uses, render, render_block, sample_block
from synthpipe.compose.kernels import count_all_classes
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
        self._done = 0
        self._recipes: list[str] = []
        self._with_recipes = composite_settings(pipeline, purpose).recipes
        self._class_pixels = np.empty((count, pipeline.taxonomy.background + 1), np.int32)
        self._donors = np.empty((count, donor_uses(pipeline, strategy)), np.int32)

    def render(self, indices: Sequence[int], images: Image, masks: Mask) -> None:
        """Sample and render the next composites into (n, H, W, 3) and (n, H, W)."""
        start = done = self._done
        for block in self.sample(indices):
            part = slice(done - start, done - start + len(block))
            self._render_all(block, images[part], masks[part])
            done += len(block)
        # a shard's memory may have checksums between its masks
        for part in [slice(None)] if masks.flags.c_contiguous else [slice(n, n + 1) for n in range(len(masks))]:
            some = masks[part]
            count_all_classes(some.reshape(len(some), -1), self._class_pixels[start:done][part])

    def sample(self, indices: Sequence[int]) -> list[Block]:
        """Sample the next composites; `set_class_pixels` completes their columns if `render` does not."""
        blocks = self._sample_all(indices)
        for block in blocks:
            if self._with_recipes:
                self._recipes += (recipe_to_json(block.recipe(number)) for number in range(len(block)))
            self._donors[self._done : self._done + len(block)] = block.bank.numbers(block.drawn)
            self._done += len(block)
        return blocks

    def set_class_pixels(self, pixels: NDArray[np.int64]) -> None:
        """Take the class pixels of all composites, (N, C + 1), that were counted elsewhere."""
        self._class_pixels[:] = pixels

    def arrays(self, start: int, stop: int) -> dict[str, Samples]:
        """Return the columns of the composites from position `start` to position `stop` in the order of rendering."""
        part = slice(start, stop)
        found: dict[str, Samples] = {"class_pixels": self._class_pixels[part], "donors": self._donors[part]}
        return {"recipe": self._recipes[part], **found} if self._with_recipes else found

    def _sample_all(self, indices: Sequence[int]) -> list[Block]:
        """Sample composites; add their names to an error."""
        try:
            return sample_blocks(self._worker, self._strategy, self._purpose, indices)
        except Exception as error:
            what = f"{self._strategy} {self._purpose} composites {indices[0]} to {indices[-1]}"
            error.add_note(f"while sampling {what}")
            raise

    def _render_all(self, block: Block, images: Image, masks: Mask) -> None:
        """Render composites; if that fails, render them one by one, and add the name and recipe of one to the error."""
        try:
            render_block(block, images, masks)
        except Exception:
            for number in range(len(block)):
                recipe = block.recipe(number)
                try:
                    render(recipe, block.bank)
                except Exception as error:
                    what = f"{self._strategy} {self._purpose} composite {recipe.index}"
                    error.add_note(f"while rendering {what}, recipe {recipe_to_json(recipe)}")
                    raise
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
    (block,) = sample_blocks(worker, strategy, purpose, [index])
    return block.recipe(0)


def sample_blocks(worker: WorkerState, strategy: Strategy, purpose: Purpose, indices: Sequence[int]) -> list[Block]:
    """Sample composites with ascending indices, one block for each set of donors that they are drawn from."""
    pipeline = worker.job.pipeline
    if purpose != "filter":
        return [sample_block(pipeline, strategy, indices, worker.donors, purpose)]
    count = training_composites(pipeline)
    sides = {"train": [n for n in indices if n < count], "validation": [n for n in indices if n >= count]}
    return [
        sample_block(pipeline, strategy, part, worker.donors_of_sides[side], purpose)
        for side, part in sides.items()
        if part
    ]
