"""Form ``coco``: PNG images, and a JSON file with the pixels of each class as run lengths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import StoreError
from synthpipe.core.records import Mask
from synthpipe.curated import Description
from synthpipe.export.entries import Copy, Entry, Part
from synthpipe.export.form import DataCard, Files, Pixels, from_png, image_png
from synthpipe.export.ledger import sha256_of
from synthpipe.export.png import CLASSES, CLASSES_LINE, classes_json
from synthpipe.files.locations import Location
from synthpipe.report.data_cards.croissant import Node, field, file_object, file_set, from_file, record_set

ANNOTATIONS = "annotations/instances.json"


@dataclass(frozen=True, slots=True)
class CocoRuns:
    """COCO's format: ``images/KEY.png`` and ``annotations/instances.json``, with one annotation per class and image.

    A segmentation is a run-length encoding, as in pycocotools. Runs go down the columns; runs outside and inside the
    class alternate. Category ``1`` is class 0. Pixels without an annotation are background, and must be ignored. Each
    part also has its own file in ``annotations/parts/``, for users who read few images.
    """

    description: Description
    requires: tuple[str, ...] = ()
    library: str = "pycocotools"

    def names(self, part: Part) -> Iterator[str]:
        for entry in part.entries:
            yield f"images/{entry.key}.png"
        yield _part_file(part.number)

    def files(self, part: Part, pixels: Iterable[Pixels]) -> Files:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for entry, (image, mask) in zip(part.entries, pixels, strict=True):
            images.append(self._image(entry))
            annotations += self._annotations(entry, mask)
            yield f"images/{entry.key}.png", image_png(image)
        content = {**self._about(), "images": images, "annotations": annotations, "categories": self.categories()}
        yield _part_file(part.number), _json(content)

    def read(self, folder: Location, part: Part) -> Iterator[Copy]:
        content = json.loads((folder / _part_file(part.number)).read_bytes())
        found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            found[annotation["image_id"]].append(annotation)
        for image in content["images"]:
            runs = {each["category_id"]: each["segmentation"] for each in found[image["id"]]}
            masks = {category: from_runs(each["counts"], each["size"]) for category, each in runs.items()}
            yield self._copy(folder, image, masks)

    def read_by_library(self, folder: Location, part: Part) -> Iterator[Copy]:
        from contextlib import redirect_stdout
        from io import StringIO

        from pycocotools.coco import COCO

        with redirect_stdout(StringIO()):  # COCO prints its loading time
            coco = COCO(str(folder / _part_file(part.number)))
        for image in coco.loadImgs(coco.getImgIds()):
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            masks = {each["category_id"]: coco.annToMask(each) == 1 for each in annotations}
            yield self._copy(folder, image, masks)

    def whole(self, folder: Location, parts: int, composites: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        yield CLASSES, [classes_json(self.description)]
        yield ANNOTATIONS, self._merged(folder, parts)

    def card(self, folder: Location, composites: int, size: int) -> DataCard:
        def listed(path: str) -> Node:
            return {"fileObject": {"@id": "annotations"}, "extract": {"jsonPath": f"$.images[*].{path}"}}

        return DataCard(
            lines=(
                "- `images/`: RGB images, PNG",
                f"- `{ANNOTATIONS}`: one annotation for each class in an image, as run lengths; category 1 is class 0",
                "- `annotations/parts/`: the same in parts; each file can be read alone",
                CLASSES_LINE,
            ),
            files=(
                file_object(
                    *("annotations", ANNOTATIONS, "application/json", sha256_of(folder / ANNOTATIONS)),
                    "COCO's images, annotations and categories",
                ),
                file_set("images", "images/*.png", "image/png", "RGB images"),
            ),
            records=(
                record_set(
                    "images-by-name",
                    "images",
                    field("name", "sc:Text", "of the file", from_file("images", "filename")),
                    field("pixels", "sc:ImageObject", "RGB", from_file("images", "content")),
                    key="name",
                ),
                record_set(
                    "listed-images",
                    "images of the annotations, without segmentations",
                    field("id", "sc:Integer", "that annotations refer to", listed("id")),
                    field("name", "sc:Text", "of the file", listed("file_name")),
                    key="id",
                ),
            ),
        )

    def categories(self) -> list[dict[str, Any]]:
        """Return the classes as COCO's categories. Class 0 is category 1."""
        names = self.description.taxonomy.names
        return [{"id": label + 1, "name": name, "supercategory": "tissue"} for label, name in enumerate(names)]

    def _about(self) -> dict[str, Any]:
        """Return the keys ``info`` and ``licenses``, which COCO's tools need. The data card has the real license."""
        return {"info": {"description": "synthpipe", "version": self.description.fingerprint}, "licenses": []}

    def _image(self, entry: Entry) -> dict[str, Any]:
        height, width = self.description.size
        about = {**entry.to_json(), "key": entry.key}
        return {"id": entry.position + 1, "file_name": f"{entry.key}.png", "height": height, "width": width, **about}

    def _annotations(self, entry: Entry, mask: Mask) -> Iterator[dict[str, Any]]:
        classes = len(self.description.taxonomy)
        for label in range(classes):
            inside = mask == label
            if inside.any():
                yield {
                    "id": entry.position * classes + label + 1,
                    "image_id": entry.position + 1,
                    "category_id": label + 1,
                    "segmentation": {"size": list(mask.shape), "counts": runs_of(inside)},
                    "area": int(inside.sum()),
                    "bbox": _box(inside),
                    "iscrowd": 0,
                }

    def _copy(self, folder: Location, image: Mapping[str, Any], masks: Mapping[int, NDArray[np.bool_]]) -> Copy:
        mask = np.full(self.description.size, self.description.taxonomy.background, np.uint8)
        for category, inside in masks.items():
            mask[inside] = category - 1
        pixels = from_png((folder / "images" / f"{image['key']}.png").read_bytes(), self.description.size)
        about = {name: image[name] for name in ("groups", "index", "labels", "p_real", "strategy")}
        return Copy(image["key"], pixels, mask, tuple(image["labels"]), about)

    def _merged(self, folder: Location, parts: int) -> Iterator[bytes]:
        """Yield the content of the whole file from the files of all parts. Only one part is in memory at a time."""
        yield _json({**self._about(), "categories": self.categories()}).removesuffix(b"}")
        for key in ("images", "annotations"):
            yield f',\n"{key}":['.encode()
            before = b"\n"
            for number in range(parts):
                for each in json.loads((folder / _part_file(number)).read_bytes())[key]:
                    yield before + _json(each)
                    before = b",\n"
            yield b"]"
        yield b"}\n"


def runs_of(inside: NDArray[np.bool_]) -> list[int]:
    """Return run lengths of (H, W) bool, down the columns. Runs of False and True alternate, and False is first."""
    flat = inside.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(ends, prepend=0, append=flat.size).tolist()
    return [0, *lengths] if flat[0] else lengths


def from_runs(counts: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode the run lengths of `runs_of` into (H, W) bool.

    Raises
    ------
    StoreError
        The sum of the lengths is not the number of pixels.
    """
    height, width = size
    if sum(counts) != height * width:
        raise StoreError(
            f"a segmentation has {sum(counts)} pixels, expected {height} x {width}; export into another folder"
        )
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def _box(inside: NDArray[np.bool_]) -> list[int]:
    """Return left, top, width and height of the bounding box of the True pixels."""
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def _json(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def _part_file(number: int) -> str:
    return f"annotations/parts/{number:06}.json"
