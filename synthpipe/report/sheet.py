"""Contact sheets: one picture with image, mask and overlay of several composites, and a legend of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from synthpipe.core.pictures import colors_of, overlay, png
from synthpipe.core.records import Image, Mask
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.report.stored import StoredComposite

_SIZES = 128, 256  # pixels of a picture's longer side; smaller pictures are enlarged, larger ones are reduced
_COLUMNS = 3
_GAP, _MARGIN, _LINE, _FONT = 4, 16, 22, 14
_BACK, _FRONT = (255, 255, 255), (30, 30, 30)
_PARTS = ("image", "mask", "overlay")


def contact_sheet(composites: Sequence[StoredComposite], taxonomy: Taxonomy) -> bytes:
    """Return a PNG with image, mask and overlay of each composite side by side, and its name below them.

    Parameters
    ----------
    composites : sequence of StoredComposite
        The composites; at least one.
    taxonomy : Taxonomy
        Class names and colours.
    """
    height, width = _fitted(composites[0].mask.shape)
    columns = min(_COLUMNS, len(composites))
    cell_width, cell_height = 3 * width + 2 * _GAP + _MARGIN, height + _LINE + _MARGIN
    font = ImageFont.load_default(_FONT)
    legend = _legend_rows(taxonomy, columns * cell_width, font)
    top = _MARGIN + (len(legend) + 1) * _LINE + _GAP
    rows = -(-len(composites) // columns)
    sheet = Pillow.new("RGB", (_MARGIN + columns * cell_width, top + rows * cell_height), _BACK)
    draw = ImageDraw.Draw(sheet)
    _draw_legend(draw, legend, font)
    for number, composite in enumerate(composites):
        left, upper = _MARGIN + number % columns * cell_width, top + number // columns * cell_height
        for part, picture in enumerate(_triple(composite.image, composite.mask, taxonomy, (width, height))):
            sheet.paste(picture, (left + part * (width + _GAP), upper))
        caption = _shortened(f"{composite.index}: {composite.caption()}", 3 * width + 2 * _GAP, font)
        draw.text((left, upper + height + 2), caption, _FRONT, font)
    return png(np.asarray(sheet))


def _triple(image: Image, mask: Mask, taxonomy: Taxonomy, size: tuple[int, int]) -> tuple[Pillow.Image, ...]:
    smooth, exact = Pillow.Resampling.BOX, Pillow.Resampling.NEAREST
    return (
        Pillow.fromarray(image).resize(size, smooth),
        Pillow.fromarray(colors_of(taxonomy)[mask]).resize(size, exact),
        Pillow.fromarray(overlay(image, mask, taxonomy)).resize(size, smooth),
    )


def _fitted(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of the pictures. Enlargement is by a whole number, so all pixels have the same size."""
    height, width = shape
    least, most = _SIZES
    longer = max(height, width)
    if longer > most:
        return max(1, round(height * most / longer)), max(1, round(width * most / longer))
    factor = max(1, -(-least // longer))
    return height * factor, width * factor


def _legend_rows(
    taxonomy: Taxonomy, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[list[tuple[str, tuple[int, int, int], float]]]:
    """Return name, colour and x position of each class in rows that fit into `width`."""
    entries = [(each.name, each.color) for each in taxonomy.classes]
    entries.append(("background, ignored", taxonomy.background_color))
    rows: list[list[tuple[str, tuple[int, int, int], float]]] = [[]]
    x = 0.0
    for name, color in entries:
        needed = _FONT + 8 + font.getlength(name) + _MARGIN
        if x + needed > width and rows[-1]:
            rows.append([])
            x = 0.0
        rows[-1].append((name, color, x))
        x += needed
    return rows


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    rows: list[list[tuple[str, tuple[int, int, int], float]]],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    draw.text((_MARGIN, _MARGIN), ", ".join(_PARTS), _FRONT, font)
    for number, row in enumerate(rows, 1):
        y = _MARGIN + number * _LINE
        for name, color, x in row:
            left = _MARGIN + x
            draw.rectangle((left, y + 1, left + _FONT, y + 1 + _FONT), color, (120, 120, 120))
            draw.text((left + _FONT + 6, y), name, _FRONT, font)


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = text.encode("ascii", "backslashreplace").decode()  # the font has only ASCII
    while font.getlength(text) > width:
        text = f"{text[:-4]}..."
    return text
