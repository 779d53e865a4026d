"""Form ``nnunet``: a raw data set of nnU-Net v2, with RGB images and labels as PNG."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from synthpipe.core.records import Mask
from synthpipe.curated import Description
from synthpipe.export.entries import Copy, Part
from synthpipe.export.form import DataCard, Files, Pixels, from_png, grey_png, image_png
from synthpipe.export.png import CLASSES, classes_json
from synthpipe.files.locations import Location
from synthpipe.report.data_cards.croissant import field, file_set, from_file, record_set

_BACKGROUND, _IGNORE = "background", "ignore"


@dataclass(frozen=True, slots=True)
class NnUNetRaw:
    """nnU-Net's raw format: ``imagesTr/KEY_0000.png``, ``labelsTr/KEY.png`` and ``dataset.json``.

    nnU-Net learns label 0 as background. synthpipe has no such class, so label 0 does not occur, and class 0 is label
    1. synthpipe's background becomes ``ignore``, which must be the highest label.
    """

    description: Description
    requires: tuple[str, ...] = ()
    library: str = "nnunetv2"

    def names(self, part: Part) -> Iterator[str]:
        for entry in part.entries:
            yield from (f"labelsTr/{entry.key}.png", f"imagesTr/{entry.key}_0000.png")

    def files(self, part: Part, pixels: Iterable[Pixels]) -> Files:
        names = self.names(part)
        for image, mask in pixels:
            yield next(names), grey_png(mask + np.uint8(1))
            yield next(names), image_png(image)

    def read(self, folder: Location, part: Part) -> Iterator[Copy]:
        size, names = self.description.size, self.names(part)
        for entry in part.entries:
            labels, image = (from_png((folder / next(names)).read_bytes(), size) for _ in range(2))
            yield Copy(entry.key, image, _mask(labels), None)

    def read_by_library(self, folder: Location, part: Part) -> Iterator[Copy]:
        from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

        reader, names = NaturalImage2DIO(), self.names(part)
        for entry in part.entries:
            labels, _ = reader.read_seg(str(folder.absolute() / next(names)))
            image, _ = reader.read_images((str(folder.absolute() / next(names)),))  # (3, 1, H, W) float32
            pixels = image[:, 0].transpose(1, 2, 0).astype(np.uint8)
            yield Copy(entry.key, pixels, _mask(labels[0, 0].astype(np.uint8)), None)

    def whole(self, folder: Location, parts: int, composites: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        content = {
            "channel_names": {"0": "R", "1": "G", "2": "B"},
            "labels": self.labels(),
            "numTraining": composites,
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
        }
        yield CLASSES, [classes_json(self.description)]
        yield "dataset.json", [(json.dumps(content, indent=1) + "\n").encode()]

    def card(self, folder: Location, composites: int, size: int) -> DataCard:
        return DataCard(
            lines=(
                "- `imagesTr/`: RGB images, PNG",
                "- `labelsTr/`: grey PNG; a label is the class index plus 1, the highest label is to be ignored",
                "- `dataset.json`: labels and channels for nnU-Net v2, which finds this folder as",
                "  `$nnUNet_raw/DatasetNNN_NAME`, with a number of three digits",
                "- `classes.json`: class names and colours by index; index 0 is label 1",
            ),
            files=(
                file_set("images", "imagesTr/*.png", "image/png", "RGB images"),
                file_set("labels", "labelsTr/*.png", "image/png", "class indices plus 1"),
            ),
            records=tuple(
                record_set(
                    f"{name}-by-name",
                    f"{name}; the name of an image is that of its labels with _0000",
                    field("name", "sc:Text", "of the file", from_file(name, "filename")),
                    field("pixels", "sc:ImageObject", "RGB, or class indices plus 1", from_file(name, "content")),
                    key="name",
                )
                for name in ("images", "labels")
            ),
        )

    def labels(self) -> dict[str, int]:
        """Return the labels by class name. Class names that nnU-Net reserves get a ``_`` at the end."""
        found = {_BACKGROUND: 0}
        for label, name in enumerate(self.description.taxonomy.names, start=1):
            while name in found or name == _IGNORE:
                name += "_"
            found[name] = label
        return {**found, _IGNORE: len(found)}


def _mask(labels: Mask) -> Mask:
    return labels - np.uint8(1)
