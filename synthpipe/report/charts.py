"""Draw charts as SVG text. The page's style sheet sets the colours.

Every chart has a title for screen readers. The page also shows the chart's numbers in a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from synthpipe.core.display_names import SCORE

_WIDTH, _HEIGHT = 400, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 12, 40
_INNER = _WIDTH - _LEFT - _RIGHT
_TALL = _HEIGHT - _TOP - _BOTTOM


def histogram(
    title: str, kept: Sequence[int], others: Sequence[int], line: float | None, line_label: str, names: tuple[str, str]
) -> Markup:
    """Draw a histogram of scores from 0 to 1, with the counts of `others` on top of the counts of `kept`.

    Parameters
    ----------
    title : str
        Title of the chart.
    kept, others : sequence of int
        Counts per bin, of equal length.
    line : float or None
        A score to mark with a vertical line.
    line_label : str
        Label of that line.
    names : tuple of str
        Names of kept and others in the legend.
    """
    top = _above(max([1, *(a + b for a, b in zip(kept, others, strict=True))]))
    width = _INNER / len(kept)
    parts = [_axes(_ticks(top), [(tick / 5, f"{tick / 5:g}") for tick in range(6)], SCORE, "composites")]
    for number, (below, above) in enumerate(zip(kept, others, strict=True)):
        for kind, start, count in (("kept", 0, below), ("other", below, above)):
            if count:
                height = _TALL * count / top
                y = _TOP + _TALL * (1 - start / top) - height
                parts.append(
                    Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                        kind, _LEFT + number * width + 0.5, y, width - 1, height
                    )
                )
    if line is not None:
        x = _LEFT + line * _INNER
        anchor = "end" if line > 0.5 else "start"
        parts.append(
            Markup('<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, _TOP, _TOP + _TALL)
        )
        parts.append(
            Markup('<text class="marked" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                x + (-4 if anchor == "end" else 4), _TOP + 10, anchor, line_label
            )
        )
    return _svg(title, parts, list(zip(("kept", "other"), names, strict=True)) if any(others) else [])


def line_chart(
    title: str, series: Mapping[str, Sequence[float]], best: int | None = None, top: float | None = None
) -> Markup:
    """Draw one line for each series over the epochs.

    Parameters
    ----------
    title : str
        Title of the chart.
    series : mapping of str to sequence of float
        A value for each epoch, by the name of the series.
    best : int, optional
        Index of the epoch to mark, from 0. Labels count epochs from 1.
    top : float, optional
        Upper end of the value axis (default: fits the values). The axis starts at 0.
    """
    length = max(map(len, series.values()))
    finite = [value for values in series.values() for value in values if math.isfinite(value)]
    top = top or _above(max([1e-9, *finite]))
    step = max(1, math.ceil((length - 1) / 6))
    epochs = [(_share(number, length), str(number + 1)) for number in range(0, length, step)]
    parts = [_axes(_ticks(top), epochs, "epoch", "")]
    if best is not None:
        x = _LEFT + _INNER * _share(best, length)
        parts.append(
            Markup('<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, _TOP, _TOP + _TALL)
        )
    legend = []
    for number, (name, values) in enumerate(series.items()):
        kind = f"line{number % 4}"
        coordinates = [
            (_LEFT + _INNER * _share(epoch, length), _TOP + _TALL * (1 - min(1.0, max(0.0, value / top))))
            for epoch, value in enumerate(values)
            if math.isfinite(value)
        ]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in coordinates)
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(kind, points))
        dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>')
        parts += [dot.format(kind, x, y) for x, y in coordinates]
        legend.append((kind, name))
    return _svg(title, parts, legend)


def rank_chart(title: str, uses: Sequence[int], what: str) -> Markup:
    """Draw counts as one area, sorted from the largest to the smallest.

    Parameters
    ----------
    title : str
        Title of the chart.
    uses : sequence of int
        The number of composites that use each item.
    what : str
        Label of the axis of items.
    """
    top = _above(max([1, *uses]))
    ordered = sorted(uses, reverse=True)
    positions = sorted({round(number) for number in _spread(len(ordered), 200)})
    points = [(_LEFT + _INNER * number / len(ordered), ordered[number]) for number in positions]
    points.append((_LEFT + _INNER, ordered[-1]))
    corners = [f"{_LEFT},{_TOP + _TALL}"]
    for (x, count), (following, _) in pairwise(points):
        y = _TOP + _TALL * (1 - count / top)
        corners += [f"{x:.1f},{y:.1f}", f"{following:.1f},{y:.1f}"]
    corners.append(f"{_LEFT + _INNER},{_TOP + _TALL}")
    marks = [(share, f"{round(share * len(ordered))}") for share in (0, 0.25, 0.5, 0.75, 1)]
    area = Markup('<polygon class="kept" points="{}"/>').format(" ".join(corners))
    return _svg(title, [_axes(_ticks(top), marks, what, "composites"), area], [])


def stacked_bars(title: str, rows: Sequence[tuple[str, Sequence[int]]], names: Sequence[str]) -> Markup:
    """Draw one stacked bar for each row.

    Parameters
    ----------
    title : str
        Title of the chart.
    rows : sequence of (str, sequence of int)
        The label of each bar, and up to five counts.
    names : sequence of str
        Names of the counts in the legend.
    """
    top, left = max([1, *(sum(counts) for _, counts in rows)]), 70
    kinds = [f"part{number}" for number in range(len(names))]
    parts = []
    for number, (label, counts) in enumerate(rows):
        y, x = 12 + 24 * number, float(left)
        parts.append(Markup('<text x="0" y="{}">{}</text>').format(y + 12, label))
        for kind, count in zip(kinds, counts, strict=True):
            width = (_WIDTH - left) * count / top
            if count:
                parts.append(
                    Markup('<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="16"/>').format(kind, x, y, width)
                )
            x += width
    return _svg(title, parts, list(zip(kinds, names, strict=True)), 24 * len(rows) + 16)


def bar(share: float, kind: str = "kept") -> Markup:
    """Draw a share from 0 to 1 as a bar for a table cell. Another cell of the table has the number."""
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="{}" width="{:.2f}" height="8"/></svg>'
    ).format(kind, 100 * min(1.0, max(0.0, share)))


def swatch(color: Sequence[int]) -> Markup:
    """Draw a colour, RGB from 0 to 255, as a small square for a legend."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" fill="{}"/></svg>'
    ).format("#" + bytes(color).hex())


def class_label(name: str, *colors: Sequence[int]) -> Markup:
    """Return the name of one or more classes, preceded by their colours."""
    return Markup('<span class="tissue">{} {}</span>').format(Markup("").join(map(swatch, colors)), name)


def _svg(title: str, parts: Sequence[Markup], legend: Sequence[tuple[str, str]], height: int = _HEIGHT) -> Markup:
    rows = []
    for number, (kind, name) in enumerate(legend):
        x, y = _LEFT + number % 2 * _INNER / 2, height + 8 + number // 2 * 16
        rows.append(
            Markup(
                '<rect class="{}" x="{:.1f}" y="{}" width="10" height="10"/><text x="{:.1f}" y="{}">{}</text>'
            ).format(kind, x, y - 9, x + 15, y, name)
        )
    height += (len(legend) + 1) // 2 * 16
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        _WIDTH, height, title, title, Markup("").join([*parts, *rows])
    )


def _axes(ticks: Sequence[float], labels: Sequence[tuple[float, str]], below: str, beside: str) -> Markup:
    parts = []
    for value in ticks:
        y = _TOP + _TALL * (1 - value / ticks[-1])
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>').format(_LEFT, _WIDTH - _RIGHT, y=y)
        )
        parts.append(
            Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(_LEFT - 5, y + 4, f"{value:,g}")
        )
    for share, label in labels:
        x = _LEFT + share * _INNER
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(x, _TOP + _TALL + 15, label)
        )
    middle = _LEFT + _INNER / 2
    parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, _HEIGHT - 10, below))
    if beside:
        turned = Markup('<text transform="rotate(-90)" x="{}" y="11" text-anchor="middle">{}</text>')
        parts.append(turned.format(-(_TOP + _TALL / 2), beside))
    return Markup("").join(parts)


def _above(value: float) -> float:
    """Return the smallest number not below `value` that is 1, 2, 4, 5 or 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(factor * power for factor in (1, 2, 4, 5, 8, 10) if factor * power >= value * (1 - 1e-9)))


def _ticks(top: float) -> list[float]:
    return [float(f"{top * number / 4:.6g}") for number in range(5)]


def _share(number: int, length: int) -> float:
    return 0.5 if length == 1 else number / (length - 1)


def _spread(count: int, most: int) -> list[float]:
    return [number * (count - 1) / max(1, most - 1) for number in range(most)]
