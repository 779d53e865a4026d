from __future__ import annotations

import pytest

from synthpipe.core.spacing import evenly_spaced, first_of_parts


@pytest.mark.parametrize(
    ("length", "count", "spaced", "parts"),
    [
        (10, 4, [0, 3, 6, 9], [0, 2, 5, 7]),
        (10, 1, [0], [0]),
        (3, 8, [0, 1, 2], [0, 1, 2]),
        (12, 5, [0, 3, 6, 8, 11], [0, 2, 4, 7, 9]),
        (0, 3, [], []),
    ],
)
def test_choices_are_spread_over_the_whole_length(length: int, count: int, spaced: list[int], parts: list[int]) -> None:
    assert evenly_spaced(length, count).tolist() == spaced
    assert first_of_parts(length, count) == parts
