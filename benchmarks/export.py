"""``python -m benchmarks.export CURATED``: measure writing and reading of every form, and write ``docs/export.md``."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.page import RESULTS, write_result
from synthpipe.core.progress import Silent
from synthpipe.curated import CuratedSet
from synthpipe.export import FORMS, PART, export, form_of
from synthpipe.export.entries import part_of
from synthpipe.export.work import reader_of
from synthpipe.storage.summary import human_bytes

RESULT = RESULTS / "export" / "forms.json"
PAGE = Path("docs/export.md")


def measure(curated: CuratedSet, form: str, folder: Path, workers: int, part: int) -> dict[str, Any]:
    """Measure a form: write it, write it with every part read back, and read it in this process by its library."""
    start = time.perf_counter()
    written = export(curated, form, folder / "unchecked", Silent(), part, workers, check=False)
    write_seconds = time.perf_counter() - start
    start = time.perf_counter()
    checked = export(curated, form, folder / "checked", Silent(), part, workers)
    check_seconds = time.perf_counter() - start
    assert (written.files, written.bytes) == (checked.files, checked.bytes)
    read_seconds, library = _read(curated, form, folder / "checked", part)
    return {
        "form": form,
        "files": checked.files,
        "bytes": checked.bytes,
        "written_a_second": len(curated) / write_seconds,
        "checked_a_second": len(curated) / check_seconds,
        "read_a_second": len(curated) / read_seconds,
        "read_back_by": checked.read_back[0],
        "read_by": library,
    }


def _read(curated: CuratedSet, name: str, folder: Path, part: int) -> tuple[float, str]:
    """Read all pixels by the form's library and compare them; return the seconds and the library's name."""
    read, package = reader_of(form_of(name, curated.description), folder)
    seconds, count = 0.0, 0
    for number in range(math.ceil(len(curated) / part)):
        entries = part_of(curated, number, part)
        indices = {entry.key: entry.position for entry in entries.entries}
        copies, start = read(folder, entries), time.perf_counter()
        for copy in copies:
            seconds += time.perf_counter() - start
            sample = curated[indices[copy.key]]
            assert np.array_equal(copy.image, sample.image) and np.array_equal(copy.mask, sample.mask)
            count, start = count + 1, time.perf_counter()
        seconds += time.perf_counter() - start
    assert count == len(curated)
    return seconds, package


def write_page(result: Path = RESULT) -> str:
    """Return the page: its text, and a table of the stored measurement."""
    found = json.loads(result.read_text(encoding="utf-8"))
    text = (Path(__file__).parent / "export.md").read_text(encoding="utf-8").rstrip()
    return "\n".join([text, "", *_measured(found)]).rstrip() + "\n"


def _measured(found: Mapping[str, Any]) -> Iterator[str]:
    height, width = found["size"]
    yield (
        f"{found['composites']:,} composites of {found['what']}, {height} x {width} pixels, "
        f"{human_bytes(found['curated_bytes'])} in `curated.zarr`, in parts of {found['part']}, by {found['workers']} "
        f"worker processes on {found['cores']} cores with a load of {found['load']:.1f}:"
    )
    yield from (
        "",
        "| form | files | size | written | written and read back | read by one process | its library |",
        "|---|---|---|---|---|---|---|",
    )
    for row in found["forms"]:
        rates = (f"{row[f'{what}_a_second']:,.0f}" for what in ("written", "checked", "read"))
        cells = (row["form"], f"{row['files']:,}", human_bytes(row["bytes"]), *rates, row["read_by"])
        yield f"| {' | '.join(cells)} |"
    yield from (
        "",
        "Rates are composites per second. The first two rates include the start of the workers and the import of the "
        "libraries. The benchmark compares every pixel with the set. A load above the number of cores means that other "
        "processes used the cores too; idle cores are faster. `python -m benchmarks.export CURATED` measures all forms "
        "again and writes this page.",
    )


@click.command()
@click.argument("curated", type=click.Path(exists=True, path_type=Path))
@click.option("--what", default="procedural tissue", show_default=True, help="Name of the set's tissue on the page.")
@click.option("--workers", default=2, show_default=True, help="Worker processes.")
@click.option("--part", default=PART, show_default=True, help="Composites per part.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, show_default=True)
def main(curated: Path, what: str, workers: int, part: int, output: Path, page: Path) -> None:
    """Measure the forms of export on a curated set, and write a JSON file and the page."""
    found = CuratedSet(curated)
    rows = []
    for form in FORMS:
        folder = Path(tempfile.mkdtemp(prefix="synthpipe-export-"))
        try:
            rows.append(measure(found, form, folder, workers, part))
        finally:
            shutil.rmtree(folder)
        click.echo(json.dumps(rows[-1]))
    result = {
        "what": what,
        "composites": len(found),
        "size": list(found.size),
        "curated_bytes": sum(path.stat().st_size for path in curated.rglob("*") if path.is_file()),
        "part": part,
        "workers": workers,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[1],
        "forms": rows,
    }
    write_result(output, result)
    page.write_text(write_page(output), encoding="utf-8")
    click.echo(f"{output}\n{page}")


if __name__ == "__main__":
    main()
