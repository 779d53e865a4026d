"""The donor of each pixel, compared with the masks of donors with known classes."""

from __future__ import annotations

import numpy as np
import pytest

from synthpipe.compose import render, sample
from synthpipe.compose.regions import region_map, regions
from synthpipe.core.records import STRATEGIES, Strategy
from tests.conftest import flat_donors, pipeline, textured_donors


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pixel_shows_the_class_of_the_donor_that_it_came_from(strategy: Strategy) -> None:
    settings, donors = pipeline(), textured_donors()
    for index in range(20):
        recipe = sample(settings, strategy, index, donors)
        numbers, found = region_map(recipe), regions(recipe)
        assert [each.patch for each in found] == list(recipe.donors())
        assert [each.number for each in found] == list(range(1, len(found) + 1))
        labels = np.array([donors[each.patch].label for each in found])
        assert np.array_equal(labels[numbers.astype(int) - 1], render(recipe, donors).mask)


def test_regions_of_one_class_have_separate_numbers() -> None:
    recipe = sample(pipeline("donors.balance_classes=true"), "mosaic", 3, flat_donors())
    mask, numbers = render(recipe, flat_donors()).mask, region_map(recipe)
    assert len(np.unique(numbers)) > len(np.unique(mask))
    shown = {each.number: each for each in regions(recipe)}
    assert numbers[0, 0] in (1, 2, 3, 4) and numbers[-1, -1] in (13, 14, 15, 16)
    assert shown[1].position == "upper left, tile 1/1" and shown[16].position == "lower right, tile 2/2"
    assert shown[6].window.startswith("32 x 32 from y ")


def test_more_regions_than_a_byte_can_number() -> None:
    settings, donors = pipeline("mosaic.tile=8", "mosaic.grid=[8,9]", "mosaic.split=[0.5,0.5]"), textured_donors()
    recipe = sample(settings, "mosaic", 0, donors)
    numbers, found = region_map(recipe), regions(recipe)
    assert len(found) == 288 and numbers.max() > 255
    labels = np.array([donors[each.patch].label for each in found])
    assert np.array_equal(labels[numbers.astype(int) - 1], render(recipe, donors).mask)
