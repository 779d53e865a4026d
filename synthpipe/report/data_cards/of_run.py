"""The cards of a run: ``README.md`` and ``croissant.json`` beside its ``curated.zarr``."""

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

_FILES = (
    "- `curated.zarr`: Zarr v3 with `image`, `mask`, `labels` (1 where a class occurs), `p_real`, `origin_strategy`,",
    "  `origin_index`, `donor_groups` and `recipe`, along `sample`",
    "- `candidates.zarr`: all candidates with scores and verdicts",
    "- `catalog.csv`: the source patches; `problems.csv`: those that were left out",
    "- `run.json`, `build.json`: pipeline, versions, what became of the candidates",
    "- `filter/`: the filters and their reports, where one was asked",
)
_COLUMNS = (
    ("id", "sc:Text", "name of the patch in its data set"),
    ("sha256", "sc:Text", "digest of the file"),
    ("classes", "sc:Text", "what it shows, joined by +"),
    ("height", "sc:Integer", "in pixels"),
    ("width", "sc:Integer", "in pixels"),
    ("group", "sc:Text", "slide or patient"),
)


def write_cards(run: RunDirectory, journal: Mapping[str, Any]) -> None:
    """Write the cards of a run whose curated set is complete, and whose ``build.json`` will be `journal`.

    Raises
    ------
    StoreError
        Something of the run cannot be read, or a card not be written.
    """
    facts = card_facts(CuratedSet(run.curated), run, journal)
    catalog, _ = run.tables()
    metadata = run.curated / "zarr.json"
    files = (
        # a set of one file: its digest, which is in SHA256SUMS, depends on where the patches lie, and a card must not
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
    write_atomically(readme_file, readme(facts, _FILES))
    write_atomically(croissant_file, croissant(facts, files, records))
