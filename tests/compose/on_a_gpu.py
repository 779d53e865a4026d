"""Tests of the renderer that need a GPU, or numba's simulator of one; `test_gpu` runs them in the simulator.

With a GPU: ``python -m pytest tests/compose/on_a_gpu.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numba import cuda

from synthpipe.compose import Donors, render, sample
from synthpipe.compose.batches import pack_recipes
from synthpipe.compose.gpu import Renderer
from synthpipe.core.errors import CatalogError, GpuError
from synthpipe.core.records import STRATEGIES, Recipe, Strategy
from tests.compose.test_kernels import glassy_donors
from tests.conftest import pipeline, textured_donors

SHAPES = [
    ("canvas=[12, 14]", "mosaic.tile=[6, 7]"),
    ("canvas=[10, 18]", "mosaic.tile=[5, 5]", "mosaic.grid=[2, 4]", "bezier.points=3", "bezier.samples=2"),
    ("canvas=[9, 10]", "mosaic.tile=40", "mosaic.grid=1", "mosaic.scale=0.75", "mosaic.shift=1"),
    ("canvas=[11, 37]", "mosaic.tile=40", "mosaic.grid=1", "bezier.edgy=30", "bezier.radius=1"),
]
TINY = SHAPES[0]


def recipes(strategy: Strategy, donors: Donors, count: int = 3, shape: Sequence[str] = TINY) -> list[Recipe]:
    return [sample(pipeline(*shape), strategy, index, donors) for index in range(count)]


def check_equal(rendered: tuple[Any, Any], expected: Sequence[Recipe], donors: Donors) -> None:
    images, masks = (each.copy_to_host() for each in rendered)
    composites = [render(recipe, donors) for recipe in expected]
    assert images.dtype == masks.dtype == np.uint8
    assert np.array_equal(images, [composite.image for composite in composites])
    assert np.array_equal(masks, [composite.mask for composite in composites])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", SHAPES, ids=" ".join)
def test_it_renders_the_bytes_of_the_cpu(strategy: Strategy, shape: tuple[str, ...]) -> None:
    donors = glassy_donors()
    some = recipes(strategy, donors, 3, shape)
    with Renderer(donors) as renderer:
        check_equal(renderer.render(some), some, donors)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_can_be_packed_and_uploaded_before(strategy: Strategy) -> None:
    donors = glassy_donors()
    some = recipes(strategy, donors)
    with Renderer(donors) as renderer:
        batch = renderer.upload(pack_recipes(some, donors))
        assert renderer.upload(batch).arrays == batch.arrays  # what is on the GPU is not copied again
        out = renderer.render(batch)
        renderer.render(recipes(strategy, donors, 6)[3:], out)
        again = renderer.render(batch, out)
        assert again[0] is out[0] and again[1] is out[1]
        check_equal(again, some, donors)


def test_bezier_donors_are_resized_for_each_canvas() -> None:
    donors = glassy_donors()
    with Renderer(donors) as renderer:
        for shape in (SHAPES[0], SHAPES[1], SHAPES[0]):
            some = recipes("bezier", donors, 1, shape)
            check_equal(renderer.render(some), some, donors)


def test_output_arrays_of_other_sizes_are_refused() -> None:
    donors = textured_donors()
    with Renderer(donors) as renderer:
        out = renderer.render(recipes("mosaic", donors, 2))
        with pytest.raises(ValueError, match=r"\(2, 12, 14, 3\) and \(2, 12, 14\).* needs \(1, 12, 14, 3\)"):
            renderer.render(recipes("mosaic", donors, 1), out)


def test_other_donors_are_named() -> None:
    donors = textured_donors()
    with Renderer(glassy_donors()) as renderer, pytest.raises(CatalogError, match="mosaic 0 uses the donor 'slide"):
        renderer.render(recipes("mosaic", donors))


def test_a_closed_renderer_says_so() -> None:
    donors = textured_donors()
    renderer = Renderer(donors)
    renderer.close()
    with pytest.raises(GpuError, match="the renderer is closed; make a new one"):
        renderer.render(recipes("mosaic", donors))


def test_an_absent_gpu_is_named() -> None:
    with pytest.raises(GpuError, match=r"there is no GPU 99; this machine has \d+, numbered from 0"):
        Renderer(textured_donors(), 99)


class FullMemory:
    """The memory of a GPU with a given number of free bytes; the simulator has no limit."""

    def __init__(self, free: int) -> None:
        self.free, self.cleared = free, False
        self.memory_manager = self.deallocations = self

    def get_memory_info(self) -> FullMemory:
        return self

    def clear(self) -> None:
        self.cleared = True


def test_too_little_memory_says_how_much_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    donors = glassy_donors()
    with Renderer(donors) as renderer:
        memory = FullMemory(5)
        monkeypatch.setattr(cuda, "current_context", lambda: memory)
        with pytest.raises(GpuError, match=r"bank of 24 donors needs \d+ MiB.* 0 MiB .* on the CPU"):
            Renderer(donors)
        assert memory.cleared
        with pytest.raises(GpuError, match=r"3 composites needs .*; render fewer recipes at once"):
            renderer.render(recipes("mosaic", donors))
        with pytest.raises(GpuError, match="resized to 12 x 14 needs"):
            renderer.render(recipes("bezier", donors))
