from __future__ import annotations

import numpy as np
import pytest

from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.taxonomy import LOST
from synthpipe.segment import mask_values
from synthpipe.segment.mask_values import check_palette, count_values, palette_colors, parse_mask_map, to_classes
from tests.conftest import pipeline

TAXONOMY = pipeline().taxonomy
"""Of the demo: tumour, stroma, normal."""
COLORS = [tissue.color for tissue in TAXONOMY.classes]


def classes_of(values: list[int], given: dict[int, int] | None = None) -> list[int]:
    mask = np.array([values], np.uint8)
    found: list[int] = to_classes(mask, count_values(mask), TAXONOMY, given)[0].tolist()
    return found


def test_values_mean_what_is_given() -> None:
    given = parse_mask_map(" 1=stroma, 2 = tumour,0=ignore,200=normal", TAXONOMY)
    assert classes_of([0, 1, 2, 200, 255], given) == [3, 1, 0, 2, LOST]
    assert classes_of([0, 255], parse_mask_map("255=tumour,0=stroma", TAXONOMY)) == [1, 0]
    assert classes_of([0, 1, 2, 3, 255]) == [0, 1, 2, 3, LOST]


def test_values_that_mean_nothing_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_values, "_BLOCK", 3)
    with pytest.raises(
        CatalogError, match=r'^has unknown values: 4 \(1 pixels\), 7 \(2 pixels\); expected 0 to 3 .*"0=tumour,1=stroma'
    ):
        classes_of([0, 7, 4, 7])
    with pytest.raises(
        CatalogError, match=r"^has unknown values: 4 \(1 pixels\), 5 \(1 pixels\), 6 \(1 pixels\) and 2 more values"
    ):
        classes_of([4, 5, 6, 7, 8])
    expected = r"^has values that --mask-map does not name: 3 \(2 pixels\); add .* 3=ignore"
    with pytest.raises(CatalogError, match=expected):
        classes_of([0, 3, 3], {0: 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got '', expected VALUE=CLASS"),
        (
            "tumour=0",
            "got 'tumour=0', expected VALUE=CLASS with a value from 0 to 255 that occurs once; write for example "
            '"0=tumour,1=stroma,',
        ),
        ("256=tumour", "got '256=tumour', expected VALUE=CLASS"),
        ("0=tumour,0=stroma", "got '0=stroma', expected VALUE=CLASS with a value"),
        ("0=tumor,1=stroma", "'0=tumor' does not name a class; expected one of tumour, stroma, normal, ignore"),
    ],
)
def test_maps_that_cannot_be_read_are_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--mask-map: {message}"):
        parse_mask_map(text, TAXONOMY)


def test_palettes_have_the_colours_of_the_classes() -> None:
    check_palette(COLORS, {0, 1, 2}, TAXONOMY)
    check_palette(COLORS[:1], {0}, TAXONOMY)  # it may end with the last index that a mask shows
    check_palette([*COLORS, (1, 2, 3)], {0, 1}, TAXONOMY)  # an index that the mask does not show
    check_palette([], {0, 1}, TAXONOMY)
    assert palette_colors((1, 2, 3, 4, 5, 6)) == [(1, 2, 3), (4, 5, 6)]
    with pytest.raises(
        CatalogError, match=r"has \(9, 9, 200\) at 0, but the network expects \(0, 64, 128\) for tumour; the classes"
    ):
        check_palette([(9, 9, 200)], {0}, TAXONOMY)
    with pytest.raises(
        CatalogError, match=r"has \(1, 2, 3\) at 3, but the network expects \(255, 255, 255\) for background"
    ):
        check_palette([*COLORS, (1, 2, 3)], {0, 3}, TAXONOMY)


def test_a_palette_in_another_order_gives_its_map() -> None:
    with pytest.raises(CatalogError, match=r'--mask-map "3=tumour,2=stroma,1=normal,0=ignore"'):
        check_palette([TAXONOMY.background_color, *reversed(COLORS)], {1, 2, 3}, TAXONOMY)


def test_grey_palettes_are_taken_where_index_and_grey_agree() -> None:
    check_palette([(grey, grey, grey) for grey in range(256)], {0, 1, 3, 255}, TAXONOMY)
    check_palette([(0, 0, 0), (200, 200, 200)], {0}, TAXONOMY)
    with pytest.raises(CatalogError, match=r"its palette has grey 0 at 1, so these pixels may have class 1 or class 0"):
        check_palette([(0, 0, 0), (0, 0, 0)], {1}, TAXONOMY)
