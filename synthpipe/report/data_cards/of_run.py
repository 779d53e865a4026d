"""Data cards of a run: ``README.md`` and ``croissant.json`` beside its ``curated.zarr``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthpipe.curated import CuratedSet
from synthpipe.files.writing import write_atomically
from synthpipe.report.data_cards.croissant import croissant, field, file_object, file_set, record_set
from synthpipe.report.data_cards.facts import card_facts
from synthpipe.report.data_cards.readme import readme
from synthpipe.storage.checksums import sha256
from synthpipe.storage.run import RunDirectory

_STORED = (
    "- `curated.zarr`: Zarr v3 with `image`, `mask`, `labels` (1 where a class occurs), `p_real`, `origin_strategy`,",
    "  `origin_index`, `donor_groups` and `recipe`, along `sample`",
)
_VIRTUAL = (
    "- `curated.zarr`: Zarr v3 with `labels` (1 where a class occurs), `p_real`, `origin_strategy` and `origin_index`,",
    "  along `sample`, and the pixels of donors; `synthpipe.open_curated` renders images and masks from these, and",
    "  `synthpipe materialize` stores them",
)
_FILES = (
    "- `candidates.zarr`: all candidates with scores and verdicts",
    "- `catalog.csv`: the source patches; `problems.csv`: the patches that were left out",
    "- `run.json`, `build.json`: pipeline, package versions, counts of the verdicts",
    "- `filter/`: the filters and their reports, if the pipeline has filters",
)
_COLUMNS = (
    ("id", "sc:Text", "name of the patch in its data set"),
    ("sha256", "sc:Text", "SHA-256 of the file"),
    ("classes", "sc:Text", "classes of the patch, joined by +"),
    ("height", "sc:Integer", "height in pixels"),
    ("width", "sc:Integer", "width in pixels"),
    ("group", "sc:Text", "slide or patient of the patch"),
)


def write_cards(run: RunDirectory, journal: Mapping[str, Any]) -> None:
    """Write the data cards of a run whose curated set is complete.

    Parameters
    ----------
    run : RunDirectory
        The run.
    journal : mapping
        The content that ``build.json`` will have.

    Raises
    ------
    StoreError
        A file of the run cannot be read, or a card cannot be written.
    """
    facts = card_facts(CuratedSet(run.curated), run, journal)
    catalog, _ = run.tables()
    metadata = run.curated / "zarr.json"
    files = (
        # The digest of the catalog file depends on the location of the patches, and the bytes of a card must not. So
        # this is a file set with one file, which needs no digest.
        file_set("catalog", catalog.name, "text/csv", "the source patches"),
        file_object(
            *("curated-metadata", f"{run.curated.name}/{metadata.name}", "application/json"),
            *(sha256(metadata.read_bytes()), "classes, colours and origin of the curated set"),
        ),
        file_set("curated", f"{run.curated.name}/**", "application/vnd+zarr", "the curated set, Zarr v3"),
    )
    columns = [
        field(name, kind, about, {"fileSet": {"@id": "catalog"}, "extract": {"column": name}})
        for name, kind, about in _COLUMNS
    ]
    records = [record_set("patches", "the source patches", *columns, key="id")]
    readme_file, croissant_file = run.cards()
    write_atomically(readme_file, readme(facts, (*(_VIRTUAL if run.pipeline().virtual else _STORED), *_FILES)))
    write_atomically(croissant_file, croissant(facts, files, records))
