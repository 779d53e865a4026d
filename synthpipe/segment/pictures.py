"""Draw segmentations: masks over images, errors, confusion matrices and training curves.

Classes have the taxonomy's colours. All other colours come from palettes that colour-blind people can distinguish: a
single hue from light to dark for shares, and the eight colours of Okabe and Ito, with line styles, for curves.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from synthpipe.core.pictures import check_sizes, colors_of, overlay, png, strips
from synthpipe.core.records import Image, Mask
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.writing import write_atomically
from synthpipe.segment.metrics import Counts

Series = tuple[ArrayLike, ArrayLike]
"""Steps or epochs, and their values; values may be NaN."""

_DPI = 150
_WIDTH = 13.0  # inches: width of all pictures of a panel together
_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_LINES = ("-", "--", ":", "-.")
_SMOOTHED = 200  # longer series are drawn with a moving average


def errors(image: Image, truth: Mask, prediction: Mask, taxonomy: Taxonomy) -> Image:
    """Draw wrong pixels in the colour of their predicted class; other pixels show the image in pale grey.

    Ignored pixels are hatched.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    truth, prediction : (H, W) uint8
        Class indices. Pixels whose true value is not a class are ignored; wrong pixels without a predicted class are
        black.
    taxonomy : Taxonomy
        Classes and their colours.

    Returns
    -------
    (H, W, 3) uint8
        RGB.

    Raises
    ------
    ValueError
        Image and masks differ in size.
    """
    check_sizes(image, truth)
    check_sizes(image, prediction)
    colors = colors_of(taxonomy)
    colors[len(taxonomy) :] = 0
    period = max(8, min(truth.shape) // 40)
    pale = (155 + np.arange(256) * (90 / 255)).astype(np.uint8)
    picture = np.empty_like(image)
    for strip in strips(len(truth)):
        part = picture[strip]
        part[...] = pale[cv2.cvtColor(image[strip], cv2.COLOR_RGB2GRAY)][..., None]
        wrong = truth[strip] != prediction[strip]
        part[wrong] = colors[prediction[strip][wrong]]
        y, x = np.ogrid[strip, : truth.shape[1]]
        hatch = np.where((x + y) % period < max(1, period // 6), 150, 255).astype(np.uint8)
        np.copyto(part, hatch[..., None], where=(truth[strip] >= len(taxonomy))[..., None])
    return picture


def panel(image: Image, truth: Mask | None, prediction: Mask, taxonomy: Taxonomy, title: str) -> Figure:
    """Draw image, truth, prediction and errors side by side, with a legend; wide images are stacked instead.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB, of any size; large images are shrunk.
    truth : (H, W) uint8, or None
        True class indices; if None, the figure shows only image and prediction.
    prediction : (H, W) uint8
        Class indices.
    taxonomy : Taxonomy
        Classes and their colours.
    title : str
        Title of the figure, for example the image's name.

    Raises
    ------
    ValueError
        Image and masks differ in size.
    """
    for mask in (prediction, truth):
        if mask is not None:
            check_sizes(image, mask)
    height, width = image.shape[:2]
    columns = _columns(2 if truth is None else 4, width / height)
    rows = (2 if truth is None else 4) // columns
    cell = max(min(_WIDTH / columns, 12 / rows * width / height), 2.5)
    shown = _shrink(image, cell)
    parts = {"image": shown, "prediction": overlay(shown, _shrink(prediction, cell), taxonomy)}
    if truth is not None:
        wrong = (prediction != truth)[truth < len(taxonomy)]
        share = f": {wrong.mean():.1%}" if wrong.size else ""
        parts = {
            "image": shown,
            "truth": overlay(shown, _shrink(truth, cell), taxonomy),
            "prediction": parts["prediction"],
            f"errors, coloured as predicted{share}": _shrink(errors(image, truth, prediction, taxonomy), cell),
        }
    handles: list[Artist] = [Patch(facecolor=_unit(tissue.color), edgecolor="0.3") for tissue in taxonomy.classes]
    names = list(taxonomy.names)
    if truth is not None:
        handles.append(Patch(facecolor="white", edgecolor="0.6", hatch="////"))
        names.append("ignored")
    # a letter takes about 0.09 inches; the colour box and the gaps of a name take about 0.6
    in_a_row = min(len(names), max(1, int(cell * columns / (0.09 * sum(map(len, names)) / len(names) + 0.6))))
    below = 0.25 * -(-len(names) // in_a_row)
    cell_height = min(max(cell * height / width, 0.5), 12)
    figure = Figure((cell * columns, (cell_height + 0.3) * rows + below + 0.6), layout="constrained")
    for number, (name, picture) in enumerate(parts.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(picture)
        axes.set_title(name, fontsize=9.5)
        axes.set_axis_off()
    figure.suptitle(title, parse_math=False)
    _literal(figure.legend(handles, names, loc="outside lower center", ncols=in_a_row, fontsize=10, frameon=False))
    return figure


def confusion_figure(confusion: Counts, taxonomy: Taxonomy) -> Figure:
    """Draw a confusion matrix as a heat map, with the share of each true class's pixels.

    Parameters
    ----------
    confusion : (C, C) int64
        Number of pixels by true class (rows) and predicted class (columns).
    taxonomy : Taxonomy
        The C classes.

    Raises
    ------
    ValueError
        The matrix has another number of classes than the taxonomy.
    """
    classes = len(taxonomy)
    if confusion.shape != (classes, classes):
        raise ValueError(f"confusion has shape {confusion.shape}, expected {(classes, classes)} for {classes} classes")
    totals = confusion.sum(1, keepdims=True)
    shares = np.where(totals > 0, confusion / np.maximum(totals, 1), np.nan)
    size = max(4.0, 1.1 * classes + 2)
    figure = Figure((size + 1.2, size), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("0.9")  # the colour of absent classes
    drawn = axes.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = "absent" if np.isnan(share) else f"{share:.1%}\n{_number(int(confusion[row, column]))}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if share > 0.55 else "black")
    axes.set_xticks(range(classes), taxonomy.names, rotation=30, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(classes), taxonomy.names, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label("share of the true class's pixels")
    return figure


def curves_figure(losses: Mapping[str, Series], metrics: Mapping[str, Series]) -> Figure:
    """Draw training curves: losses on the left, validation metrics on the right.

    Parameters
    ----------
    losses, metrics : mapping of str to (steps, values)
        Series by name. A series of more than 200 values is drawn faint, with a moving average over 2 % of the values.
        The best value of each metric is marked.
    """
    figure = Figure((12, 4.5), layout="constrained")
    for number, (label, series) in enumerate((("loss", losses), ("validation metric", metrics))):
        axes = figure.add_subplot(1, 2, number + 1)
        styles = cycle([(color, line) for line in _LINES for color in _OKABE_ITO])
        lines = [
            _curve(axes, np.asarray(steps, float), np.asarray(values, float), *style, mark=series is metrics)
            for (steps, values), style in zip(series.values(), styles, strict=False)
        ]
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        if series:
            _literal(axes.legend(lines, list(series), fontsize=9, frameon=False))
        else:
            axes.text(0.5, 0.5, "none recorded", ha="center", transform=axes.transAxes, color="0.4")
    return figure


def save(picture: Figure | Image, path: Path) -> None:
    """Write a figure or an (H, W, 3) uint8 RGB picture to a PNG file; equal pictures give equal bytes.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        write_atomically(path, buffer.getvalue())
    else:
        write_atomically(path, png(picture))


def _curve(
    axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64], color: str, line: str, mark: bool
) -> Line2D:
    """Draw one series, and return its line for the legend."""
    if len(values) > _SMOOTHED:
        axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.6)
        window = len(values) // 50
        known = np.isfinite(values)
        sums, counts = (
            np.convolve(part, np.ones(window), "same") for part in (np.where(known, values, 0), known.astype(float))
        )
        values = np.where(known, sums / np.maximum(counts, 1), np.nan)
    marker = "." if len(values) <= 60 else None  # a line through a single value is invisible, so draw a dot
    (curve,) = axes.plot(steps, values, line, color=color, linewidth=1.6, marker=marker)
    if mark and np.isfinite(values).any():
        best = int(np.nanargmax(values))
        axes.plot(steps[best], values[best], "o", color=color, markersize=8, markerfacecolor="none")
    return curve


def _literal(legend: Legend) -> None:
    """Show the names in a legend literally: a dollar sign does not start a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _columns(pictures: int, aspect: float) -> int:
    """Return the number of columns for which the figure's width is closest to four times its height."""
    choices = [columns for columns in (4, 2, 1) if columns <= pictures]
    return min(choices, key=lambda columns: abs(np.log(columns * aspect / (pictures / columns) / 4)))


def _shrink(picture: NDArray[np.uint8], width: float) -> NDArray[np.uint8]:
    """Shrink an image or mask to the pixels that `width` inches show, so that contours drawn later stay visible."""
    wanted = int(width * _DPI)
    height, present = picture.shape[:2]
    if present <= wanted:
        return picture
    size = wanted, max(1, round(height * wanted / present))
    how = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def _unit(color: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255


def _number(count: int) -> str:
    """Format a count in few characters, such as 12,345 or 12.3 M."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 100 * unit or (count >= unit and unit > 1000):
            return f"{count / unit:.1f} {name}"
    return f"{count:,}"
