"""Charts are well-formed SVG with a title, for any numbers."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from synthpipe.report.charts import bar, histogram, line_chart, rank_chart, swatch

_LABEL = "</title><script>\"'&"


def parsed(chart: Markup) -> ElementTree.Element:
    found = ElementTree.fromstring(chart)
    assert found.get("role") == "img" and found.get("aria-label") == found.findtext("title") == _LABEL
    numbers = [float(text) for each in found.iter() for name in ("x", "y", "x1", "y2") if (text := each.get(name))]
    assert all(math.isfinite(number) for number in numbers)
    return found


@pytest.mark.parametrize("line", [None, 0.0, 0.25, 1.0])
def test_histogram_stacks_the_others_on_the_kept(line: float | None) -> None:
    found = parsed(histogram(_LABEL, [0, 3, 5, 0], [1, 2, 0, 0], line, _LABEL, ("kept", _LABEL)))
    bars = [each for each in found.findall("rect") if float(each.get("width", "")) > 20]
    heights = [float(each.get("height", "")) for each in bars]
    assert [each.get("class") for each in bars] == ["other", "kept", "other", "kept"]
    assert heights == pytest.approx([heights[0], 3 * heights[0], 2 * heights[0], 5 * heights[0]], abs=0.3)
    low, high = bars[1], bars[2]
    assert float(high.get("y", "")) + float(high.get("height", "")) == pytest.approx(float(low.get("y", "")), abs=0.15)
    assert len(found.findall("line[@class='mark']")) == (line is not None)


def test_histogram_of_nothing() -> None:
    assert not parsed(histogram(_LABEL, [0, 0], [0, 0], None, "", ("a", "b"))).findall("rect")


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.25, 4e5], [math.nan, 1.0], [1e-7, 0.0], [math.inf, 2.0]])
def test_curves_have_a_point_an_epoch(values: list[float]) -> None:
    found = parsed(line_chart(_LABEL, {_LABEL: values, "other": values[::-1]}, best=0))
    points = [len((each.get("points") or "").split()) for each in found.findall("polyline")]
    assert points == [sum(map(math.isfinite, values))] * 2
    assert _LABEL in [text.text for text in found.findall("text")]


@pytest.mark.parametrize("uses", [[0], [3], [5, 1, 9, 9], list(range(100_000))])
def test_ranks_fall_and_stay_small(uses: list[int]) -> None:
    chart = rank_chart(_LABEL, uses, "patches")
    corners = (parsed(chart).find("polygon").get("points") or "").split()  # type: ignore[union-attr]
    heights = [float(corner.split(",")[1]) for corner in corners[1:-1]]
    assert heights == sorted(heights) and len(chart) < 20_000


def test_bars_and_swatches() -> None:
    assert 'width="100.00"' in bar(1.7) and 'width="0.00"' in bar(-1) and 'width="25.00"' in bar(0.25)
    assert 'fill="#0040ff"' in swatch((0, 64, 255))
