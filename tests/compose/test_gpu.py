"""The code for GPUs renders the same bytes as the CPU: in numba's simulator, and compiled for the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from synthpipe.compose import Donors, render, sample
from synthpipe.compose.batches import Batch, pack_recipes, resized
from synthpipe.compose.gpu import Renderer, open_device
from synthpipe.compose.gpu_kernels import bezier_pixel, mosaic_pixel
from synthpipe.core.errors import CatalogError, GpuError, MissingPackageError
from synthpipe.core.packages import GPU, absent, require
from synthpipe.core.records import (
    STRATEGIES,
    BezierRecipe,
    Crop,
    Flip,
    MosaicRecipe,
    Quadrant,
    Recipe,
    ShiftScaleRotate,
    Strategy,
    pack,
)
from tests.compose.test_kernels import SHAPES, glassy_donors
from tests.conftest import ROOT, pipeline, textured_donors

_mosaic_pixel, _bezier_pixel = mosaic_pixel(njit), bezier_pixel(njit)


@njit
def fill_mosaics(packed, bank, steps, rows, splits, tiles, tile, grid):  # type: ignore[no-untyped-def]
    for n, y, x in np.ndindex(packed.shape):
        packed[n, y, x] = _mosaic_pixel(bank, steps, rows, splits, tiles, n, y, x, tile, grid)


@njit
def fill_beziers(packed, bank, fitted, inside, starts):  # type: ignore[no-untyped-def]
    for n, y, x in np.ndindex(packed.shape):
        packed[n, y, x] = _bezier_pixel(bank, fitted, inside, starts, n, y, x, packed.shape[2])


def render_batch(batch: Batch, donors: Donors) -> NDArray[np.uint32]:
    """Render a batch with the functions of single pixels that GPUs use; return (N, H, W) packed pixels."""
    packed = np.empty((len(batch), *batch.canvas), np.uint32)
    if batch.strategy == "mosaic":
        fill_mosaics(packed, donors.bank, *batch.arrays, *batch.layout)
    else:
        fill_beziers(packed, donors.bank, resized(donors, batch.canvas), *batch.arrays)
    return packed


def check_equal(recipes: Sequence[Recipe], donors: Donors) -> None:
    packed = render_batch(pack_recipes(recipes, donors), donors)
    for recipe, pixels in zip(recipes, packed, strict=True):
        composite = render(recipe, donors)
        assert np.array_equal(pixels, pack(composite.image, 0) | composite.mask.astype(np.uint32) << 24), recipe


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("overrides", SHAPES, ids=" ".join)
@pytest.mark.parametrize("donors", [textured_donors(), glassy_donors()], ids=["plain", "glass"])
def test_pixels_equal_those_of_the_cpu(strategy: Strategy, overrides: tuple[str, ...], donors: Donors) -> None:
    settings = pipeline(*overrides)
    check_equal([sample(settings, strategy, index, donors) for index in range(60)], donors)


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical", "both"])
@pytest.mark.parametrize("split", [(0, 0), (5, 9), (20, 23), (0, 23)])
def test_every_flip_and_extreme_warp_equals_the_cpu(flip: Flip, split: tuple[int, int]) -> None:
    donors = glassy_donors()
    patches = [donor.id for donor in donors]
    warps = [None] + [
        ShiftScaleRotate(angle, scale, *shift)
        for angle in (-180.0, -90.0, 0.0, 33.3, 45.0, 90.0)
        for scale in (0.2, 1.0, 2.0)
        for shift in ((-1.0, 1.0), (0.0, 0.0), (1 / 64, -1 / 7))
    ]
    recipes = []
    for index, warp in enumerate(warps):
        tiles = tuple(Crop(patches[(index + number) % len(patches)], 0, 0) for number in range(6))
        quadrants = tuple(Quadrant(tiles[::step], flip, warp, index % 7, index % 5) for step in (1, -1, 1, -1))
        first, second, third, fourth = quadrants
        recipes.append(MosaicRecipe(index, (20, 23), (13, 9), (2, 3), split, (first, second, third, fourth)))
    check_equal(recipes, donors)


@pytest.mark.parametrize("width", [1, 31, 32, 33, 65])
def test_curves_beyond_the_canvas_equal_the_cpu(width: int) -> None:
    donors, rng = glassy_donors(), np.random.default_rng(width)
    patches = [donor.id for donor in donors]
    recipes = []
    for index in range(200):
        points = tuple((x, y) for x, y in rng.integers(0, 5, (3 + index % 9, 2)) / 4)  # also equal and outer points
        back, front = rng.choice(patches, 2)
        edgy, radius = (-30.0, 0.0, 1.5)[index % 3], (0.01, 0.3, 1.0)[index // 3 % 3]
        recipes.append(BezierRecipe(index, (17, width), str(back), str(front), points, edgy, radius, 2 + index % 30))
    check_equal(recipes, donors)


def test_the_renderer_is_right_in_the_simulator() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/compose/on_a_gpu.py"]
    simulated = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, cwd=ROOT, env=simulated, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_a_batch_has_one_strategy_and_one_size() -> None:
    donors = textured_donors()
    some = [sample(pipeline(), strategy, 0, donors) for strategy in STRATEGIES]
    other = sample(pipeline("canvas=48", "mosaic.tile=24"), "mosaic", 0, donors)
    for recipes in ([], some, [some[0], other]):
        with pytest.raises(ValueError, match="a batch needs recipes of one strategy, canvas, tile and grid, but got"):
            pack_recipes(recipes, donors)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_donor_that_is_not_in_the_bank_is_named(strategy: Strategy) -> None:
    donors = textured_donors()
    recipe = sample(pipeline(), strategy, 7, donors)
    with pytest.raises(CatalogError, match=f"{strategy} 7 uses the donor 'slide.* is not among the 24 donors"):
        pack_recipes([recipe], glassy_donors())


def test_a_position_that_does_not_fit_in_32_bits_is_refused() -> None:
    donors = textured_donors()
    quadrant = Quadrant((Crop(next(iter(donors)).id, 0, 0),), "none", ShiftScaleRotate(0.0, 0.2, 0.0, -1.0), 0, 0)
    far = MosaicRecipe(3, (4, 4), (1, 1 << 21), (1, 1), (2, 2), (quadrant, quadrant, quadrant, quadrant))
    with pytest.raises(ValueError, match=r"mosaic 3 shows a position beyond 2,097,150 pixels.* render it on the CPU"):
        pack_recipes([far], donors)


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    if not absent(*GPU):
        require("rendering on a GPU", *GPU)
    else:
        with pytest.raises(MissingPackageError, match=r"rendering on a GPU needs numba-cuda.* pip install numba-cuda"):
            Renderer(textured_donors())


def test_without_a_gpu_the_error_names_rendering_on_the_cpu() -> None:
    from numba import cuda

    if cuda.is_available():
        open_device(0)
    else:
        with pytest.raises(GpuError, match="numba finds no GPU: check nvidia-smi and the driver, or render on the CPU"):
            open_device(0)
