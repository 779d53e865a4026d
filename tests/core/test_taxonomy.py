from __future__ import annotations

import itertools

import pytest

from synthpipe.core.taxonomy import LOST, Taxonomy, TissueClass, distinct_colors


def test_names_are_found_in_any_case_but_as_they_are_spelled_first() -> None:
    taxonomy = Taxonomy((TissueClass("tum", (0, 0, 0), ("Gewebe \u00c9",)), TissueClass("TUM", (1, 1, 1))))
    assert [taxonomy.index(name) for name in ("tum", "TUM", "Tum", "gewebe e\u0301")] == [0, 1, 0, 0]
    with pytest.raises(KeyError):
        taxonomy.index("tu")


def test_there_are_enough_colours_and_they_stay() -> None:
    colors = list(itertools.islice(distinct_colors(), LOST))
    assert len({*colors, (0, 0, 0), (255, 255, 255)}) == LOST + 2
    assert colors[:3] == [(230, 159, 0), (86, 180, 233), (0, 158, 115)] and colors[7] == (20, 20, 20)
