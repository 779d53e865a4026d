"""Form ``webdataset``: tar shards with PNG and JSON files, for streaming."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from synthpipe.curated import Description
from synthpipe.export.entries import Copy, Part
from synthpipe.export.form import DataCard, Files, Pixels, from_png, grey_png, image_png
from synthpipe.export.png import CLASSES, CLASSES_LINE, classes_json
from synthpipe.files.locations import Location
from synthpipe.report.data_cards.croissant import field, file_set, from_file, record_set


@dataclass(frozen=True, slots=True)
class WebDatasetShards:
    """Tar shards, one for each part, with ``KEY.mask.png``, ``KEY.json`` and ``KEY.image.png``.

    Masks are grey, because the decoders of `webdataset` convert palettes to colours.
    """

    description: Description
    requires: tuple[str, ...] = ()
    library: str = "webdataset"

    def names(self, part: Part) -> Iterator[str]:
        yield f"shard-{part.number:06}.tar"

    def files(self, part: Part, pixels: Iterable[Pixels]) -> Files:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for entry, (image, mask) in zip(part.entries, pixels, strict=True):
                _add(tar, f"{entry.key}.mask.png", grey_png(mask))
                _add(tar, f"{entry.key}.json", json.dumps(entry.to_json()).encode())
                _add(tar, f"{entry.key}.image.png", image_png(image))
        (name,) = self.names(part)
        yield name, buffer.getvalue()

    def read(self, folder: Location, part: Part) -> Iterator[Copy]:
        (name,) = self.names(part)
        with tarfile.open(fileobj=io.BytesIO((folder / name).read_bytes())) as tar:
            members: dict[str, bytes] = {}
            for member in tar:
                content = tar.extractfile(member)
                key, _, suffix = member.name.partition(".")
                members[suffix] = content.read() if content else b""
                if suffix == "image.png":
                    yield self._copy(key, members)
                    members = {}

    def read_by_library(self, folder: Location, part: Part) -> Iterator[Copy]:
        from webdataset.tariterators import group_by_keys, tar_file_expander

        (name,) = self.names(part)
        with (folder / name).open("rb") as stream:  # the library would read a path as a pattern, a URL or a command
            for sample in group_by_keys(tar_file_expander([{"url": name, "stream": stream}])):
                yield self._copy(sample["__key__"], sample)

    def whole(self, folder: Location, parts: int, composites: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        yield CLASSES, [classes_json(self.description)]

    def card(self, folder: Location, composites: int, size: int) -> DataCard:
        pattern = {"transform": {"regex": r"^([^.]+)\."}}
        image, mask = ({**from_file(name, "filename"), **pattern} for name in ("image", "mask"))
        return DataCard(
            lines=(
                "- `shard-NNNNNN.tar`: for every composite `KEY.image.png` (RGB), `KEY.mask.png` (grey, class indices)",
                "  and `KEY.json` (labels, strategy, index, p_real, groups)",
                CLASSES_LINE,
            ),
            files=(
                file_set("shards", "shard-*.tar", "application/x-tar", "tar shards"),
                file_set("image", "*.image.png", "image/png", "RGB images", within="shards"),
                file_set("mask", "*.mask.png", "image/png", "class indices", within="shards"),
                file_set("about", "*.json", "application/json", "facts about a composite", within="shards"),
            ),
            records=(
                record_set(
                    "composites",
                    "images and masks of equal keys",
                    field("key", "sc:Text", "of a composite", image, references=mask),
                    field("image", "sc:ImageObject", "RGB", from_file("image", "content")),
                    field("mask", "sc:ImageObject", "class indices", from_file("mask", "content")),
                ),
            ),
        )

    def _copy(self, key: str, members: Mapping[str, bytes]) -> Copy:
        about: dict[str, Any] = json.loads(members["json"])
        image, mask = (from_png(members[name], self.description.size) for name in ("image.png", "mask.png"))
        return Copy(key, image, mask, tuple(about["labels"]), about)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to an archive. Owner and time are constant, so equal contents give equal bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
