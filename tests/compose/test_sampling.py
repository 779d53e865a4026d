"""The compiled kernels draw the recipes of plain Python and NumPy, alone and in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.reference_sampling import sample_plainly
from synthpipe.compose import Donors, Purpose, generator, render, render_block, sample, sample_block
from synthpipe.compose.sampling import uniforms
from synthpipe.core.records import STRATEGIES, Donor, Strategy, recipe_to_json
from tests.compose.test_kernels import SHAPES, glassy_donors
from tests.conftest import pipeline, textured_donors

RULES = [
    ("glass=null",),
    ("glass.max_share=0.05", "glass.max_draws=3"),
    ("glass.max_share=0", "glass.max_draws=1"),
    ("donors.balance_classes=true",),
    ("bezier.min_distance=100", "bezier.max_draws=6", "bezier.pairs=all"),
]


@pytest.mark.parametrize(("seed", "purpose", "index"), [(0, "candidate", 0), (2**64 - 1, "view", 2**40 + 3)])
def test_random_numbers_are_those_of_numpy(seed: int, purpose: Purpose, index: int) -> None:
    words = np.uint64(seed), np.uint64(2), np.uint64({"candidate": 0, "view": 2}[purpose])
    expected = generator(seed, "bezier", purpose, index).random(60)
    for skip, count in ((0, 60), (1, 7), (4, 4), (6, 54), (59, 1)):
        found = np.empty(count)
        uniforms(found, words, index, skip)
        assert found.tolist() == expected[skip : skip + count].tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("overrides", [*SHAPES, *RULES], ids=" ".join)
@pytest.mark.parametrize("donors", [textured_donors(), glassy_donors()], ids=["plain", "glass"])
def test_recipes_and_pixels_of_a_block_equal_those_of_single_composites(
    strategy: Strategy, overrides: tuple[str, ...], donors: Donors
) -> None:
    settings, indices = pipeline(*overrides), [7, 0, 2**33, *range(20, 40)]
    block, rows = sample_block(settings, strategy, indices, donors), np.arange(len(indices))[::-1]
    images, masks = (np.empty((len(rows), *settings.canvas, *more), np.uint8) for more in ((3,), ()))
    render_block(block, images, masks, rows)
    for number, (index, row) in enumerate(zip(indices, rows, strict=True)):
        recipe = sample_plainly(settings, strategy, index, donors)
        assert recipe_to_json(block.recipe(number)) == recipe_to_json(recipe)
        assert recipe_to_json(sample(settings, strategy, index, donors)) == recipe_to_json(recipe)
        composite = render(recipe, donors)
        assert np.array_equal(images[row], composite.image) and np.array_equal(masks[row], composite.mask)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_with_bytes_between_them_are_filled(strategy: Strategy) -> None:
    settings, donors = pipeline(), textured_donors()
    shape = (5, *settings.canvas)
    block = sample_block(settings, strategy, range(5), donors)
    expected = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    render_block(block, *expected)
    shards = [np.zeros((5, pixels[0].size + 4), np.uint8) for pixels in expected]
    found = [shard[:, :-4].reshape(pixels.shape) for shard, pixels in zip(shards, expected, strict=True)]
    render_block(block, found[0], found[1])
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not any(shard[:, -4:].any() for shard in shards)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rule", [(), ("glass=null",)], ids=["glass", "no glass"])
def test_a_donor_without_pixels_is_named(strategy: Strategy, rule: tuple[str, ...]) -> None:
    settings, donors = pipeline(*rule), list(textured_donors())
    some = Donors(donor for donor in donors if donor.id != donors[4].id).drawn_from(donors)
    images, masks = np.empty((60, 64, 64, 3), np.uint8), np.empty((60, 64, 64), np.uint8)
    with pytest.raises(KeyError, match=donors[4].id):
        render_block(sample_block(settings, strategy, range(60), some), images, masks)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_arrays_of_another_shape_are_refused(strategy: Strategy) -> None:
    block = sample_block(pipeline(), strategy, range(2), textured_donors())
    masks = np.empty((2, 64, 64), np.uint8)
    for images in (np.empty((2, 64, 63, 3), np.uint8), np.empty((1, 64, 64, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"have the shapes .* but these composites need"):
            render_block(block, images, masks)
    with pytest.raises(ValueError, match=r"row 2"):
        render_block(block, np.empty((2, 64, 64, 3), np.uint8), masks, np.array([0, 2]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_donors_an_error_says_so(strategy: Strategy) -> None:
    with pytest.raises(IndexError, match=r"no donors to draw from|no pair of classes"):
        sample(pipeline(), strategy, 0, Donors([]))


def test_a_donor_of_one_pixel_that_is_all_glass_is_used_after_the_last_draw() -> None:
    donor = Donor("glass.png", "s", 0, np.zeros((1, 1, 3), np.uint8), np.full((1, 1), 3, np.uint8))
    settings = pipeline("glass.max_draws=4")
    recipe = sample(settings, "mosaic", 0, Donors([donor]))
    assert recipe == sample_plainly(settings, "mosaic", 0, Donors([donor]))
