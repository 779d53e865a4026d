"""Draw a picture of the worst donors, with a section for each reason to leave donors out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from synthpipe.config.pipeline import DROP_REASONS, DropReason
from synthpipe.core.pictures import png
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.patches.pixels import read_pixels
from synthpipe.patches.quality.measuring import DonorQuality, worst_donors

WORST = 20
"""The largest number of donors for each reason."""
_SIDE, _COLUMNS = 128, 10
_GAP, _MARGIN, _LINE, _FONT = 6, 16, 18, 12
_BACK, _FRONT = (255, 255, 255), (30, 30, 30)
_TITLES: dict[DropReason, str] = {
    "label": "label: another class is far more probable",
    "blur": "blur: less sharp than other donors of the class",
    "glass": "glass: the share of glass",
    "pen": "pen: the share of pen marks",
    "fold": "fold: the share of folded tissue",
    "duplicate": "duplicate: a copy of another image",
}


def quality_sheet(found: Sequence[DonorQuality], taxonomy: Taxonomy) -> bytes:
    """Return a PNG that shows the worst 20 donors for each reason, with measure, label and id.

    Raises
    ------
    CatalogError
        A donor's file cannot be read, or has changed since it was indexed.
    """
    font = ImageFont.load_default(_FONT)
    sections = [(reason, worst_donors(found, reason, WORST)) for reason in DROP_REASONS]
    width, cell = 2 * _MARGIN + _COLUMNS * (_SIDE + _GAP), _SIDE + 2 * _LINE + _GAP
    heights = [_LINE + _GAP + -(-len(worst) // _COLUMNS) * cell for _, worst in sections]
    sheet = Pillow.new("RGB", (width, 2 * _MARGIN + sum(heights)), _BACK)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for (reason, worst), height in zip(sections, heights, strict=True):
        count = sum(reason in each.reasons for each in found)
        draw.text((_MARGIN, top), f"{_TITLES[reason]}: {count} of {len(found)} donors", _FRONT, font)
        for number, (donor, measure) in enumerate(worst):
            left = _MARGIN + number % _COLUMNS * (_SIDE + _GAP)
            upper = top + _LINE + _GAP + number // _COLUMNS * cell
            picture = Pillow.fromarray(read_pixels(donor.patch)).resize((_SIDE, _SIDE), Pillow.Resampling.BOX)
            sheet.paste(picture, (left, upper))
            for line, text in enumerate(_captions(donor, reason, measure, taxonomy)):
                draw.text((left, upper + _SIDE + line * _LINE), _shortened(text, font), _FRONT, font)
        top += height
    return png(np.asarray(sheet))


def _captions(donor: DonorQuality, reason: DropReason, measure: float | None, taxonomy: Taxonomy) -> tuple[str, str]:
    label = taxonomy.label(donor.patch.classes)
    if reason == "label" and donor.second is not None:
        label = f"{label}, rather {taxonomy.names[donor.second]}"
    if reason == "duplicate":
        return donor.patch.id, f"= {donor.copy_of}"
    return f"{measure:.2f} {label}", donor.patch.id


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shorten a text to the width of a picture. Its end is kept, because names usually differ at the end."""
    text = text.encode("ascii", "backslashreplace").decode()  # the font has only ASCII
    shown = text
    while font.getlength(shown) > _SIDE:
        text = text[1:]
        shown = f"...{text}"
    return shown
