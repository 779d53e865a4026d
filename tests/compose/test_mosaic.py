from __future__ import annotations

import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from synthpipe.compose import SAMPLER_VERSION, Donors, generator, render, sample
from synthpipe.compose.geometry import source_map
from synthpipe.config.fields import even_ceil
from synthpipe.core.records import (
    Crop,
    Donor,
    MosaicRecipe,
    Quadrant,
    ShiftScaleRotate,
    recipe_from_json,
    recipe_to_json,
)
from tests.conftest import FLAT_COLORS, flat_donors, pipeline, textured_donors


def recipes(count: int, *overrides: str) -> list[MosaicRecipe]:
    settings, donors = pipeline(*overrides), textured_donors()
    found = [sample(settings, "mosaic", index, donors) for index in range(count)]
    return [recipe for recipe in found if isinstance(recipe, MosaicRecipe)]


def uniform(values: list[float], low: float, high: float) -> bool:
    """Kolmogorov-Smirnov: the values are uniform in [low, high] (1 in 1,000 chance of a false alarm)."""
    ordered = (np.sort(values) - low) / (high - low)
    assert ordered[0] >= 0 and ordered[-1] <= 1
    steps = np.arange(len(values) + 1) / len(values)
    distance = max(np.abs(ordered - steps[1:]).max(), np.abs(ordered - steps[:-1]).max())
    return bool(distance < 1.95 / np.sqrt(len(values)))


def test_split_points_are_uniform_in_their_range_and_rounded_up_to_even() -> None:
    splits = np.array([recipe.split for recipe in recipes(4000, "canvas=224", "mosaic.tile=112")])
    low, high = even_ceil(0.2 * 224), even_ceil(0.8 * 224)
    assert (splits % 2 == 0).all()
    assert splits.min() == low and splits.max() == high
    # rounding up gives each even number its own interval of two pixels, the first and last cut short
    inner = splits[(splits > low) & (splits < high)]
    counts = np.bincount(inner // 2)[low // 2 + 1 : high // 2]
    expected = counts.mean()
    assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 4 * np.sqrt(2 * len(counts))
    assert abs(np.corrcoef(splits.T)[0, 1]) < 0.06


def test_transforms_are_uniform_in_their_ranges_and_as_frequent_as_stated() -> None:
    quadrants = [quadrant for recipe in recipes(1500) for quadrant in recipe.quadrants]
    warps = [quadrant.warp for quadrant in quadrants if quadrant.warp]
    assert len(warps) / len(quadrants) == pytest.approx(0.8, abs=0.02)
    assert uniform([warp.angle for warp in warps], -45, 45)
    assert uniform([warp.scale for warp in warps], 0.8, 1.2)
    assert uniform([warp.shift_x for warp in warps], -0.0625, 0.0625)
    assert uniform([warp.shift_y for warp in warps], -0.0625, 0.0625)
    flips = [quadrant.flip for quadrant in quadrants]
    assert flips.count("none") / len(flips) == pytest.approx(0.2, abs=0.02)
    for kind in ("horizontal", "vertical", "both"):
        assert flips.count(kind) / len(flips) == pytest.approx(0.8 / 3, abs=0.02)


def test_every_donor_and_every_window_of_it_is_equally_likely() -> None:
    donors = textured_donors()
    tiles = [tile for recipe in recipes(1500) for quadrant in recipe.quadrants for tile in quadrant.tiles]
    counts = np.array([sum(tile.patch == donor.id for tile in tiles) for donor in donors])
    expected = len(tiles) / len(donors)
    assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 4 * np.sqrt(2 * len(counts))
    last_y = {donor.id: donor.image.shape[0] - 32 for donor in donors}
    assert uniform([(tile.y + 0.5) / (last_y[tile.patch] + 1) for tile in tiles[::7]], 0, 1)


def test_balanced_classes_draw_a_rare_class_as_often() -> None:
    common = [donor for donor in textured_donors() if donor.label != 2]
    rare = next(donor for donor in textured_donors() if donor.label == 2)
    donors = Donors([*common, rare])

    def share(*overrides: str) -> float:
        settings = pipeline(*overrides)
        drawn = [patch for index in range(200) for patch in sample(settings, "mosaic", index, donors).donors()]
        return drawn.count(rare.id) / len(drawn)

    assert share() == pytest.approx(1 / 21, abs=0.015)
    assert share("donors.balance_classes=true") == pytest.approx(1 / 3, abs=0.03)


def expected_sources(recipe: MosaicRecipe) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Return the position (y, x) of each pixel in its grid image, and the number of its quadrant."""
    (height, width), (split_y, split_x) = recipe.canvas, recipe.split
    rows, columns = np.mgrid[:height, :width]
    number = (rows >= split_y) * 2 + (columns >= split_x)
    ys, xs = np.empty((height, width)), np.empty((height, width))
    grid = recipe.tile[0] * recipe.grid[0], recipe.tile[1] * recipe.grid[1]
    for index, quadrant in enumerate(recipe.quadrants):
        affine = source_map(grid, quadrant.flip, quadrant.warp, quadrant.y, quadrant.x)
        here = number == index
        local = np.stack(
            [columns[here] - (index % 2) * split_x, rows[here] - (index // 2) * split_y, np.ones(here.sum())]
        )
        xs[here], ys[here] = affine @ local
    return ys, xs, number


def reflect(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    index = np.abs(index) % (2 * size - 2)
    return np.where(index >= size, 2 * size - 2 - index, index)


@pytest.mark.parametrize("index", range(12))
def test_the_mask_boundary_is_the_image_seam_pixel_for_pixel(index: int) -> None:
    settings, donors = pipeline(), flat_donors()
    recipe = sample(settings, "mosaic", index, donors)
    assert isinstance(recipe, MosaicRecipe)
    composite = render(recipe, donors)
    ys, xs, number = expected_sources(recipe)
    # the class of the tile that holds the source pixel; interpolation weights have steps of 1/32 pixel
    certain = (np.abs(ys % 1 - 0.5) > 1 / 32) & (np.abs(xs % 1 - 0.5) > 1 / 32)
    grid_y, grid_x = reflect(np.rint(ys).astype(int), 64) // 32, reflect(np.rint(xs).astype(int), 64) // 32
    tiles = np.array([[int(tile.patch[5]) for tile in quadrant.tiles] for quadrant in recipe.quadrants])
    expected = tiles[number, grid_y * 2 + grid_x]
    assert certain.mean() > 0.8
    assert np.array_equal(composite.mask[certain], expected[certain])
    # where the image shows one pure colour, it is the mask's; blends are confined to the pixel beside a seam
    pure = (composite.image[..., None, :] == FLAT_COLORS).all(-1)
    assert np.array_equal(pure.argmax(-1)[pure.any(-1)], composite.mask[pure.any(-1)])
    around = np.ones((3, 3), np.uint8)
    seams = cv2.dilate(composite.mask, around) != cv2.erode(composite.mask, around)
    # a blend's other pixel may be cut off: by the canvas, or by the split
    cut = np.ones(seams.shape, bool)
    y, x = recipe.split
    for rows in (slice(1, y - 1), slice(y + 1, -1)):
        for columns in (slice(1, x - 1), slice(x + 1, -1)):
            cut[rows, columns] = False
    assert (pure.any(-1) | seams | cut).all()


def test_no_pixel_bleeds_across_the_split() -> None:
    donors = textured_donors()
    one, other = (sample(pipeline(), "mosaic", index, donors) for index in (1, 2))
    assert isinstance(one, MosaicRecipe) and isinstance(other, MosaicRecipe)
    mixed = replace(one, quadrants=(one.quadrants[0], *other.quadrants[1:]))
    y, x = one.split
    assert np.array_equal(render(one, donors).image[:y, :x], render(mixed, donors).image[:y, :x])
    assert not np.array_equal(render(one, donors).image[:y, x:], render(mixed, donors).image[:y, x:])


def test_pixels_are_the_donors_own_where_nothing_is_transformed() -> None:
    donors = textured_donors()
    recipe = sample(pipeline("mosaic.probability=0"), "mosaic", 3, donors)
    assert isinstance(recipe, MosaicRecipe)
    composite = render(recipe, donors)
    first = recipe.quadrants[0]
    grid = np.concatenate(
        [
            np.concatenate(
                [donors[tile.patch].image[tile.y : tile.y + 32, tile.x : tile.x + 32] for tile in row], axis=1
            )
            for row in (first.tiles[:2], first.tiles[2:])
        ]
    )
    height, width = recipe.split
    assert np.array_equal(composite.image[:height, :width], grid[first.y : first.y + height, first.x : first.x + width])


def test_a_quarter_turn_with_flip_is_exact() -> None:
    donors = textured_donors()
    tiles = tuple(Crop(donor.id, 0, 0) for donor in list(donors)[:4])
    quadrant = Quadrant(tiles, "horizontal", ShiftScaleRotate(90.0, 1.0, 0.0, 0.0), 0, 0)
    plain = Quadrant(tiles, "none", None, 0, 0)
    recipe = MosaicRecipe(0, (64, 64), (32, 32), (2, 2), (62, 62), (quadrant, plain, plain, plain))
    turned = render(recipe, donors)
    straight = render(replace(recipe, quadrants=(plain,) * 4, canvas=(66, 66), split=(64, 64)), donors)
    grid_image, grid_mask = straight.image[:64, :64], straight.mask[:64, :64]
    assert np.array_equal(turned.image[:62, :62], np.rot90(grid_image[:, ::-1])[:62, :62])
    assert np.array_equal(turned.mask[:62, :62], np.rot90(grid_mask[:, ::-1])[:62, :62])


def test_a_shift_moves_the_picture_right_and_down() -> None:
    donors = textured_donors()
    tiles = tuple(Crop(donor.id, 0, 0) for donor in list(donors)[:4])
    plain = Quadrant(tiles, "none", None, 0, 0)
    moved = Quadrant(tiles, "none", ShiftScaleRotate(0.0, 1.0, 0.0625, 0.03125), 0, 0)
    recipe = MosaicRecipe(0, (64, 64), (32, 32), (2, 2), (60, 60), (plain, plain, plain, plain))
    still = render(recipe, donors)
    shifted = render(replace(recipe, quadrants=(moved, plain, plain, plain)), donors)
    assert np.array_equal(shifted.image[4:60, 2:60], still.image[:56, :58])


def test_no_class_that_no_donor_has_and_no_black_corner() -> None:
    white = Donors(Donor(f"{label}.png", "s", label, np.full((40, 40, 3), 255, np.uint8), None) for label in (0, 2))
    for index in range(200):
        composite = render(sample(pipeline(), "mosaic", index, white), white)
        assert composite.image.min() == 255
        assert set(np.unique(composite.mask)) <= {0, 2}


def test_patches_smaller_than_a_tile_are_reflected() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (20, 11, 3), dtype=np.uint8)
    donors = Donors([Donor("small.png", "s", 1, image, None)])
    composite = render(sample(pipeline(), "mosaic", 0, donors), donors)
    assert composite.image.min() > 0 and (composite.mask == 1).all()
    plain = render(sample(pipeline("mosaic.probability=0"), "mosaic", 0, donors), donors)
    colors = {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}
    assert {tuple(pixel) for pixel in plain.image.reshape(-1, 3).tolist()} <= colors


def test_tiles_with_too_much_glass_are_drawn_again() -> None:
    donors = []
    for number in range(20):
        mask = np.zeros((40, 40), np.uint8)
        mask[: 40 if number < 10 else 4] = 3  # ten are all glass, ten a little
        donors.append(Donor(f"{number:02}.png", "s", 0, np.zeros((40, 40, 3), np.uint8), mask))
    drawn = [patch for i in range(50) for patch in sample(pipeline(), "mosaic", i, Donors(donors)).donors()]
    assert min(drawn) == "10.png"
    bounded = pipeline("glass.max_draws=1")
    drawn = [patch for i in range(50) for patch in sample(bounded, "mosaic", i, Donors(donors)).donors()]
    assert sum(patch < "10.png" for patch in drawn) / len(drawn) == pytest.approx(0.5, abs=0.07)
    everything_glass = Donors(donors[:10])
    assert render(sample(pipeline(), "mosaic", 0, everything_glass), everything_glass).mask.min() == 3


@pytest.mark.parametrize(
    ("canvas", "tile", "grid"), [("[50, 90]", "[24, 20]", "[2, 4]"), ("96", "80", "1"), ("48", "16", "3")]
)
def test_canvas_tile_and_grid_of_any_size(canvas: str, tile: str, grid: str) -> None:
    settings = pipeline(f"canvas={canvas}", f"mosaic.tile={tile}", f"mosaic.grid={grid}")
    donors = textured_donors()
    recipe = sample(settings, "mosaic", 5, donors)
    composite = render(recipe, donors)
    assert composite.image.shape == (*settings.canvas, 3)
    assert composite.mask.max() <= 2
    assert settings.mosaic and len(list(recipe.donors())) == 4 * settings.mosaic.grid[0] * settings.mosaic.grid[1]


def test_a_recipe_survives_json_bit_for_bit() -> None:
    for recipe in recipes(50):
        assert recipe_from_json(recipe_to_json(recipe)) == recipe


def test_streams_depend_on_seed_strategy_purpose_and_index() -> None:
    keys = [(1, "mosaic", "candidate", 0), (2, "mosaic", "candidate", 0), (1, "bezier", "candidate", 0)]
    keys += [(1, "mosaic", "filter", 0), (1, "mosaic", "candidate", 1)]
    draws = {generator(*key).random() for key in keys}  # type: ignore[arg-type]
    assert len(draws) == len(keys)
    assert generator(1, "mosaic", "candidate", 0).random() in draws


def test_golden_recipes() -> None:
    """Recipes must not change: with another hash, runs cannot be extended or replayed from their seeds."""
    text = "\n".join(map(recipe_to_json, recipes(20)))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN_RECIPES[SAMPLER_VERSION]


GOLDEN_RECIPES = {1: "a5f2685dd86b5b14c1e6c6ead3ad90c96b8ae119bf88d302fdd72b9bd6c2fd02"}
"""By the version of the sampler: virtual curated sets of another version are refused."""
