"""Figures of composites for papers and notebooks; they need matplotlib."""

from __future__ import annotations

import io

import numpy as np

from synthpipe.core.errors import MissingPackageError
from synthpipe.core.packages import needs
from synthpipe.core.pictures import check_sizes, colors_of, overlay
from synthpipe.core.records import Image, Mask
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.curated import Sample

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
except ImportError as error:
    raise MissingPackageError(needs("synthpipe.plot", ["matplotlib"])) from error

_CELL = 2.8  # width of a picture, in inches
_DPI = 150


class Picture(Figure):
    """A matplotlib figure that notebooks show even if pyplot is not imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI)
        return buffer.getvalue()


def composite(
    image: Sample | Image,
    mask: Mask | None = None,
    taxonomy: Taxonomy | None = None,
    title: str = "",
    opacity: float = 0.45,
) -> Picture:
    """Return a figure with image, mask and overlay side by side, and a legend of the classes that occur.

    Parameters
    ----------
    image : Sample, or (H, W, 3) uint8
        A sample, such as ``curated[41]``; or an RGB image, which also needs `mask` and `taxonomy`.
    mask : (H, W) uint8, optional
        Class indices, or the background index. A sample's own mask is used instead.
    taxonomy : Taxonomy, optional
        Classes and their colours. A sample's own taxonomy is used instead.
    title : str
        Title above the figure, shown without math parsing.
    opacity : float
        Opacity of the classes' colours over the image, 0-1.

    Returns
    -------
    matplotlib.figure.Figure
        pyplot does not manage the figure, so it need not be closed.

    Raises
    ------
    ValueError
        Image and mask differ in size, or an image is given without mask and taxonomy.
    """
    if isinstance(image, Sample):
        sample = image
        image, mask, taxonomy = sample.image, sample.mask, sample.taxonomy
    if mask is None or taxonomy is None:
        raise ValueError("an image needs its mask and taxonomy: composite(image, mask, taxonomy), or composite(sample)")
    check_sizes(image, mask)
    colors = colors_of(taxonomy)
    names = {**dict(enumerate(taxonomy.names)), taxonomy.background: "background", LOST: "lost"}
    found = [(names.get(value, f"value {value}"), colors[value] / 255) for value in np.unique(mask).tolist()]
    height, width = mask.shape
    rows = -(-len(found) // 4)
    figure = Picture((3 * _CELL, _CELL * height / width + 0.45 + 0.25 * rows + 0.3 * bool(title)), layout="constrained")
    parts = {"image": image, "mask": colors[mask], "overlay": overlay(image, mask, taxonomy, opacity)}
    for number, (name, picture) in enumerate(parts.items()):
        axes = figure.add_subplot(1, 3, number + 1)
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(name, fontsize=9.5)
        axes.set_axis_off()
    if title:
        figure.suptitle(title, parse_math=False)
    handles = [Patch(facecolor=color, edgecolor="0.3") for _, color in found]
    legend = figure.legend(
        handles, [name for name, _ in found], loc="outside lower center", ncols=4, fontsize=9.5, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # dollar signs in names are plain text
    return figure
