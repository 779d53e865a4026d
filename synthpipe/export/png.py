"""Form ``png``: folders ``img/`` and ``mask/`` as in the published data sets. mmsegmentation can read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from synthpipe.config.pipeline import Layout
from synthpipe.core.pictures import palette_png
from synthpipe.curated import Description
from synthpipe.export.entries import Copy, Entry, Part
from synthpipe.export.form import DataCard, Files, Pixels, from_png, image_png
from synthpipe.files.locations import Location
from synthpipe.report.data_cards.croissant import field, file_set, from_file, record_set

CLASSES = "classes.json"
CLASSES_LINE = "- `classes.json`: class names and colours by index, and the index to ignore"

_SPELLINGS: Mapping[Layout, tuple[str, str]] = {
    "wsss4luad": ("-", ", "),
    "bcss-wsss": ("+0", ""),
    "luad-histoseg": ("-", " "),
    "folders": ("-", ", "),
    "pattern": ("-", ", "),
    "csv": ("-", ", "),
}
"""For each layout: the text before the label in a file name, and the text between the label's digits."""


@dataclass(frozen=True, slots=True)
class PngFolders:
    """RGB images in ``img/``, and palette masks with the same file names in ``mask/``.

    A file name contains the label, in the spelling of the patches' layout: ``mosaic0000041-[1, 0, 1].png``,
    ``mosaic0000041+0[1001].png`` or ``mosaic0000041-[1 0 0 1].png``. A mask is written before its image, so no image
    lacks a mask.
    """

    description: Description
    requires: tuple[str, ...] = ()
    library: str = "pillow"

    def names(self, part: Part) -> Iterator[str]:
        for entry in part.entries:
            name = self.file_name(entry)
            yield from (f"mask/{name}", f"img/{name}")

    def files(self, part: Part, pixels: Iterable[Pixels]) -> Files:
        names = self.names(part)
        for image, mask in pixels:
            yield next(names), palette_png(mask, self.description.taxonomy)
            yield next(names), image_png(image)

    def read(self, folder: Location, part: Part) -> Iterator[Copy]:
        size = self.description.size
        for entry in part.entries:
            name = self.file_name(entry)
            image, mask = (from_png((folder / below / name).read_bytes(), size) for below in ("img", "mask"))
            yield Copy(entry.key, image, mask, None)

    def read_by_library(self, folder: Location, part: Part) -> Iterator[Copy]:
        return self.read(folder, part)

    def whole(self, folder: Location, parts: int, composites: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        yield CLASSES, [classes_json(self.description)]

    def card(self, folder: Location, composites: int, size: int) -> DataCard:
        return DataCard(
            lines=(
                "- `img/`: RGB images, PNG; the label in a name has one digit for each class, 1 if it occurs",
                "- `mask/`: masks of the same names, palette PNG; pixel values are class indices",
                CLASSES_LINE,
            ),
            files=(
                file_set("images", "img/*.png", "image/png", "RGB images"),
                file_set("masks", "mask/*.png", "image/png", "class indices, with a palette"),
            ),
            records=tuple(
                record_set(
                    f"{name}-by-name",
                    f"{name}; an image and its mask have the same name",
                    field("name", "sc:Text", "of the file", from_file(name, "filename")),
                    field("pixels", "sc:ImageObject", "RGB, or class indices", from_file(name, "content")),
                    key="name",
                )
                for name in ("images", "masks")
            ),
        )

    def file_name(self, entry: Entry) -> str:
        """Return the name of a composite's image and of its mask."""
        before, between = _SPELLINGS[self.description.patches.layout]
        return f"{entry.key}{before}[{between.join(map(str, entry.labels))}].png"


def classes_json(description: Description) -> bytes:
    """Return JSON with the class names, the colours and the index to ignore, under mmsegmentation's keys."""
    taxonomy = description.taxonomy
    meaning: dict[str, Any] = {
        "classes": list(taxonomy.names),
        "palette": [list(tissue.color) for tissue in taxonomy.classes],
        "ignore_index": taxonomy.background,
        "ignore_color": list(taxonomy.background_color),
        "reduce_zero_label": False,
    }
    return (json.dumps(meaning, indent=1) + "\n").encode()
