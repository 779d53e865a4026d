"""Form ``hf``: Parquet files of a Hugging Face data set. The Hub's viewer can show the images."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synthpipe.core.pictures import palette_png
from synthpipe.curated import Description
from synthpipe.export.entries import Copy, Entry, Part
from synthpipe.export.form import DataCard, Files, Pixels, from_png, image_png
from synthpipe.export.png import CLASSES, CLASSES_LINE, classes_json
from synthpipe.files.locations import Location
from synthpipe.report.data_cards.croissant import field, file_set, record_set

if TYPE_CHECKING:
    import pyarrow

_ROWS = 100  # rows of a row group; readers load a whole row group


@dataclass(frozen=True, slots=True)
class HuggingFaceParquet:
    """Parquet files for Hugging Face's `datasets`, one for each part, such as ``data/train-00000-of-00012.parquet``.

    The columns ``image`` and ``mask`` hold PNGs for `datasets.Image`. The palette indices of a mask are class indices.
    ``labels`` has the classes that occur. The other columns are ``key``, ``strategy``, ``index``, ``p_real`` and
    ``groups``.
    """

    description: Description
    requires: tuple[str, ...] = ("pyarrow",)
    library: str = "datasets"

    def names(self, part: Part) -> Iterator[str]:
        yield f"data/train-{part.number:05}-of-{part.of:05}.parquet"

    def files(self, part: Part, pixels: Iterable[Pixels]) -> Files:
        from pyarrow import parquet

        schema, buffer = self._schema(), io.BytesIO()
        # PNGs cannot be compressed further, and the rest is small
        with parquet.ParquetWriter(buffer, schema, compression="none", write_statistics=False) as writer:
            rows: list[dict[str, Any]] = []
            for entry, (image, mask) in zip(part.entries, pixels, strict=True):
                rows.append(self._row(entry, image_png(image), palette_png(mask, self.description.taxonomy)))
                if len(rows) == _ROWS:
                    writer.write_table(_table(rows, schema))
                    rows = []
            if rows:
                writer.write_table(_table(rows, schema))
        (name,) = self.names(part)
        yield name, buffer.getvalue()

    def read(self, folder: Location, part: Part) -> Iterator[Copy]:
        from pyarrow import parquet

        (name,) = self.names(part)
        file = parquet.ParquetFile(io.BytesIO((folder / name).read_bytes()))
        for batch in file.iter_batches(_ROWS):
            for row in batch.to_pylist():
                image, mask = (from_png(row[name]["bytes"], self.description.size) for name in ("image", "mask"))
                yield self._copy(row, image, mask)

    def read_by_library(self, folder: Location, part: Part) -> Iterator[Copy]:
        from datasets import Dataset
        from datasets.table import InMemoryTable
        from pyarrow import parquet

        (name,) = self.names(part)
        with (folder / name).open("rb") as file:  # the library reads a path as a pattern, and copies the files
            table = parquet.read_table(file)
        for row in Dataset(InMemoryTable(table)):
            yield self._copy(row, np.asarray(row["image"]), np.asarray(row["mask"]))

    def whole(self, folder: Location, parts: int, composites: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        yield CLASSES, [classes_json(self.description)]

    def card(self, folder: Location, composites: int, size: int) -> DataCard:
        def column(name: str, **more: Any) -> dict[str, Any]:
            return {"fileSet": {"@id": "parquet"}, "extract": {"column": name}, **more}

        pixels = {"transform": {"jsonPath": "bytes"}}
        information = {
            "features": _yaml_features(self.description),
            "splits": [{"name": "train", "num_bytes": size, "num_examples": composites}],
            "download_size": size,
            "dataset_size": size,
        }
        default = {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
        return DataCard(
            lines=(
                "- `data/train-*.parquet`: columns `image`, `mask` (PNG; a palette's indices are the classes),",
                "  `labels` (the classes that occur), `key`, `strategy`, `index`, `p_real`, `groups`",
                CLASSES_LINE,
            ),
            files=(file_set("parquet", "data/*.parquet", "application/x-parquet", "all columns"),),
            records=(
                record_set(
                    "composites",
                    "one composite in each row",
                    field("key", "sc:Text", "name of the composite", column("key")),
                    field("image", "sc:ImageObject", "RGB", column("image", **pixels)),
                    field("mask", "sc:ImageObject", "class indices", column("mask", **pixels)),
                    field("strategy", "sc:Text", "that made it", column("strategy")),
                    field("index", "sc:Integer", "among the candidates", column("index")),
                    field("p_real", "sc:Float", "the filter's probability", column("p_real")),
                    key="key",
                ),
            ),
            header={"configs": [default], "dataset_info": information},
        )

    def features(self) -> dict[str, Any]:
        """Return the features of the columns, in the form that `datasets` writes into Parquet's metadata."""
        classes = {"names": list(self.description.taxonomy.names), "_type": "ClassLabel"}
        return {
            "image": {"_type": "Image"},
            "mask": {"_type": "Image"},
            "labels": {"feature": classes, "_type": "Sequence"},
            "key": {"dtype": "string", "_type": "Value"},
            "strategy": {"dtype": "string", "_type": "Value"},
            "index": {"dtype": "int64", "_type": "Value"},
            "p_real": {"dtype": "float64", "_type": "Value"},
            "groups": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
        }

    def _schema(self) -> pyarrow.Schema:
        import pyarrow

        picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        columns = [
            ("image", picture),
            ("mask", picture),
            ("labels", pyarrow.list_(pyarrow.int64())),
            ("key", pyarrow.string()),
            ("strategy", pyarrow.string()),
            ("index", pyarrow.int64()),
            ("p_real", pyarrow.float64()),
            ("groups", pyarrow.list_(pyarrow.string())),
        ]
        information = {"info": {"features": self.features()}}
        return pyarrow.schema(columns, metadata={"huggingface": json.dumps(information)})

    def _row(self, entry: Entry, image: bytes, mask: bytes) -> dict[str, Any]:
        about = entry.to_json()
        about["labels"] = [label for label, occurs in enumerate(entry.labels) if occurs]
        path = f"{entry.key}.png"
        pictures = {"image": {"bytes": image, "path": path}, "mask": {"bytes": mask, "path": path}}
        return {**pictures, **about, "key": entry.key}

    def _copy(self, row: Mapping[str, Any], image: Any, mask: Any) -> Copy:
        labels = tuple(int(label in row["labels"]) for label in range(len(self.description.taxonomy)))
        about = {name: row[name] for name in ("groups", "index", "p_real", "strategy")}
        return Copy(row["key"], image, mask, labels, {**about, "labels": list(labels)})


def _yaml_features(description: Description) -> list[dict[str, Any]]:
    """Return the features of the columns, in the form for the YAML header of a data set's README."""
    names = {str(index): name for index, name in enumerate(description.taxonomy.names)}
    return [
        {"name": "image", "dtype": "image"},
        {"name": "mask", "dtype": "image"},
        {"name": "labels", "sequence": {"class_label": {"names": names}}},
        {"name": "key", "dtype": "string"},
        {"name": "strategy", "dtype": "string"},
        {"name": "index", "dtype": "int64"},
        {"name": "p_real", "dtype": "float64"},
        {"name": "groups", "sequence": "string"},
    ]


def _table(rows: list[dict[str, Any]], schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema=schema)
