"""Form ``fiftyone``: a folder that FiftyOne can import. It has all facts about each composite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthpipe.curated import Description
from synthpipe.export.entries import Copy, Entry, Part
from synthpipe.export.form import DataCard, Files, Pixels, from_png, grey_png, image_png
from synthpipe.export.png import CLASSES, classes_json
from synthpipe.files.locations import Location
from synthpipe.report.data_cards.croissant import field, file_set, from_file, record_set

_MASK = "ground_truth"
_VERSION = "1.0.0"
"""Oldest version of FiftyOne with these fields. FiftyOne updates an imported data set to its own version."""


@dataclass(frozen=True, slots=True)
class FiftyOneFolder:
    """FiftyOne's format: images in ``data/``, masks in ``fields/ground_truth/``, and JSON files in ``samples/``.

    FiftyOne imports the folder as type ``FiftyOneDataset``. FiftyOne hides pixels of value 0, so 0 is the background,
    and class 0 has the value 1. FiftyOne's importer needs a database, so Pillow reads the parts back instead.
    """

    description: Description
    requires: tuple[str, ...] = ()
    library: str = "pillow"

    def names(self, part: Part) -> Iterator[str]:
        for entry in part.entries:
            yield from (_mask_path(entry.key), _image_path(entry.key), f"samples/{entry.key}.json")

    def files(self, part: Part, pixels: Iterable[Pixels]) -> Files:
        names, values = self.names(part), len(self.description.taxonomy) + 1
        for entry, (image, mask) in zip(part.entries, pixels, strict=True):
            png = image_png(image)
            yield next(names), grey_png((mask + np.uint8(1)) % np.uint8(values))
            yield next(names), png
            yield next(names), json.dumps(self._sample(entry, len(png))).encode()

    def read(self, folder: Location, part: Part) -> Iterator[Copy]:
        background = np.uint8(self.description.taxonomy.background)
        for entry in part.entries:
            sample = json.loads((folder / f"samples/{entry.key}.json").read_bytes())
            names = (sample["filepath"], sample[_MASK]["mask_path"])
            image, values = (from_png((folder / name).read_bytes(), self.description.size) for name in names)
            labels = [int(name in sample["labels"]) for name in self.description.taxonomy.names]
            about = {name: sample[name] for name in ("groups", "index", "p_real", "strategy")}
            mask = np.where(values == 0, background, values - np.uint8(1))
            yield Copy(sample["key"], image, mask, tuple(labels), {**about, "labels": labels})

    def read_by_library(self, folder: Location, part: Part) -> Iterator[Copy]:
        return self.read(folder, part)

    def whole(self, folder: Location, parts: int, composites: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        taxonomy = self.description.taxonomy
        colors = ["#{:02x}{:02x}{:02x}".format(*tissue.color) for tissue in taxonomy.classes]
        shown = [{"intTarget": value, "color": color} for value, color in enumerate(colors, start=1)]
        scheme = {"color_pool": colors, "color_by": "value", "default_mask_targets_colors": shown}
        content = {
            "version": _VERSION,
            "media_type": "image",
            "info": {"fingerprint": self.description.fingerprint},
            "app_config": {"color_scheme": scheme},
            "default_classes": list(taxonomy.names),
            "default_mask_targets": {str(value): name for value, name in enumerate(["background", *taxonomy.names])},
            "sample_fields": _FIELDS,
        }
        yield CLASSES, [classes_json(self.description)]
        yield "metadata.json", [json.dumps(content).encode()]

    def card(self, folder: Location, composites: int, size: int) -> DataCard:
        return DataCard(
            lines=(
                "- `data/`: RGB images, PNG",
                f"- `fields/{_MASK}/`: masks of the same names, grey PNG; 0 is background, class 0 is 1, and so on",
                "- `samples/`: JSON of each composite: paths, labels, strategy, index, p_real and groups",
                "- `metadata.json`: fields, names and colours for FiftyOne; import the folder as `FiftyOneDataset`",
                "- `classes.json`: class names and colours by index; index 0 is value 1",
            ),
            files=(
                file_set("images", "data/*.png", "image/png", "RGB images"),
                file_set("masks", f"fields/{_MASK}/*.png", "image/png", "class indices plus 1; 0 is background"),
                file_set("samples", "samples/*.json", "application/json", "facts about a composite"),
            ),
            records=tuple(
                record_set(
                    f"{name}-by-name",
                    f"{name}; an image and its mask have the same name",
                    field("name", "sc:Text", "of the file", from_file(name, "filename")),
                    field("pixels", "sc:ImageObject", "RGB, or class indices plus 1", from_file(name, "content")),
                    key="name",
                )
                for name in ("images", "masks")
            ),
        )

    def _sample(self, entry: Entry, size: int) -> dict[str, Any]:
        height, width = self.description.size
        names = self.description.taxonomy.names
        image = {"_cls": "ImageMetadata", "size_bytes": size, "mime_type": "image/png"}
        drawn = self._digest(entry, "shuffle")  # FiftyOne gives each sample a random number, to shuffle samples
        return {
            "_id": {"$oid": self._digest(entry, "sample")},
            "_media_type": "image",
            "_rand": 0.999 + 0.001 * int(drawn[:8], 16) / 16**8,
            "filepath": _image_path(entry.key),
            "tags": [],
            "metadata": {**image, "width": width, "height": height, "num_channels": 3},
            "key": entry.key,
            **entry.to_json(),
            "labels": [name for name, occurs in zip(names, entry.labels, strict=True) if occurs],
            _MASK: {
                "_id": {"$oid": self._digest(entry, "mask")},
                "_cls": "Segmentation",
                "tags": [],
                "mask_path": _mask_path(entry.key),
            },
        }

    def _digest(self, entry: Entry, purpose: str) -> str:
        """Return a database identifier of 24 hexadecimal digits that depends on the composite and the purpose."""
        return hashlib.sha256(f"{self.description.fingerprint} {entry.key} {purpose}".encode()).hexdigest()[:24]


def _field(name: str, kind: str, **more: Any) -> Mapping[str, Any]:
    key = "_id" if name == "id" else name
    about = {"name": name, "ftype": f"fiftyone.core.fields.{kind}Field", "db_field": key, "fields": []}
    return {**about, "embedded_doc_type": None, "subfield": None, **more}


def _texts(name: str) -> Mapping[str, Any]:
    return _field(name, "List", subfield="fiftyone.core.fields.StringField")


_FIELDS = (
    _field("id", "ObjectId"),
    _field("filepath", "String"),
    _texts("tags"),
    _field(
        "metadata",
        "EmbeddedDocument",
        embedded_doc_type="fiftyone.core.metadata.ImageMetadata",
        fields=[
            _field("mime_type", "String"),
            *(_field(name, "Int") for name in ("size_bytes", "width", "height", "num_channels")),
        ],
    ),
    _field("created_at", "DateTime", read_only=True),
    _field("last_modified_at", "DateTime", read_only=True),
    _field("_media_type", "String"),
    _field("_rand", "Float"),
    _field("_dataset_id", "ObjectId"),
    _field("key", "String"),
    _field("strategy", "String"),
    _field("index", "Int"),
    _field("p_real", "Float"),
    _texts("labels"),
    _texts("groups"),
    _field(
        _MASK,
        "EmbeddedDocument",
        embedded_doc_type="fiftyone.core.labels.Segmentation",
        fields=[
            _field("id", "ObjectId"),
            _texts("tags"),
            _field("mask", "Array"),
            _field("mask_path", "String"),
        ],
    ),
)


def _image_path(key: str) -> str:
    return f"data/{key}.png"


def _mask_path(key: str) -> str:
    return f"fields/{_MASK}/{key}.png"
