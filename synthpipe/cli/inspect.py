"""`synthpipe inspect`: summarise a run, a store or a curated set, or show single composites."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from synthpipe.cli.options import LOCATION, json_option
from synthpipe.cli.output import plain, say
from synthpipe.core.display_names import STRATEGY, VERDICT
from synthpipe.core.display_names import stage as in_words
from synthpipe.core.errors import ConfigError
from synthpipe.core.records import STRATEGIES
from synthpipe.core.verdict_text import below_threshold_warning, verdict_text
from synthpipe.files.locations import Location
from synthpipe.files.writing import write_atomically
from synthpipe.storage.filter_report import accuracy_text
from synthpipe.storage.summary import human_bytes, stored_bytes, summarise

if TYPE_CHECKING:
    from synthpipe.core.taxonomy import Taxonomy
    from synthpipe.report.stored import StoredComposite, StoredComposites

_ON_SHEET = 24  # number of composites on a contact sheet, unless --index chooses composites
_MOST = 300
_MAP = 16, 32  # rows and columns of a composite's map; a character is twice as high as wide
_MARKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@click.command()
@click.argument("path", type=LOCATION)
@json_option
@click.option(
    "--index",
    "samples",
    multiple=True,
    metavar="I",
    help="Indices of composites to show: 3, or 3,7, or 10-19; can be repeated.",
)
@click.option(
    "--sheet", type=LOCATION, metavar="PNG", help="Write a contact sheet of the composites of --index, or of a sample."
)
def inspect(path: Location, as_json: bool, samples: tuple[str, ...], sheet: Location | None) -> None:
    """Summarise a run or a store, or show its composites.

    PATH is a run, a Zarr store, a group in a store, or the URL of any of these. The run can be unfinished.

    --index shows composites with their recipe, which names the patch of each region. If PATH is a run, indices count
    the composites of the curated set. For other composites, give a store such as RUN/candidates.zarr/mosaic.

    \b
    Examples:
      synthpipe inspect runs/demo
      synthpipe inspect runs/demo/curated.zarr --json
      synthpipe inspect runs/demo --index 0 --index 10-12
      synthpipe inspect runs/demo/candidates.zarr/bezier --sheet bezier.png
    """
    chosen = _indices_of(samples)
    if not samples and not sheet:
        summary = summarise(path)
        say(json.dumps(summary, indent=1) if as_json else "\n".join(_lines(summary)))
        return
    from synthpipe.report import stored  # loads compiled kernels; a summary need not wait for them

    found = stored.open_composites(path)
    shown = [found[index] for index in chosen or found.evenly_spaced(_ON_SHEET)]
    if as_json:
        say(json.dumps({"path": str(path), "samples": [stored.as_json(each, found.taxonomy) for each in shown]}))
    elif samples:
        _print("\n".join(line for each in shown for line in _sample_lines(each, found.taxonomy)))
    if sheet:
        _write_sheet(sheet, shown, found)
        say(f"{sheet}: {len(shown)} of {len(found)} composites", err=as_json)


def _write_sheet(sheet: Location, shown: Sequence[StoredComposite], found: StoredComposites) -> None:
    from synthpipe.report.sheet import contact_sheet

    if not shown:
        raise ConfigError("--sheet: no composite is stored yet; `synthpipe status` shows the progress")
    write_atomically(sheet, contact_sheet(shown, found.taxonomy))


def _indices_of(samples: Sequence[str]) -> list[int]:
    """Return the indices in texts such as ``3``, ``3,7`` and ``10-19``."""
    found: list[int] = []
    for part in (part.strip() for text in samples for part in text.split(",")):
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII)
        if numbers is None:
            raise ConfigError(f"--index {part}: expected an index such as 3, several as 3,7, or a range such as 10-19")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if last < first:
            raise ConfigError(f"--index {part}: a range goes up; did you mean {last}-{first}?")
        if len(found) + last + 1 - first > _MOST:
            raise ConfigError(f"--index {part}: the options name more than {_MOST} composites; give fewer indices")
        found += range(first, last + 1)
    return found


def _print(text: str) -> None:
    """Print text; use colours only if the terminal shows them and NO_COLOR is not set."""
    bare = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    click.echo(text, color=False if bare else None)


def _lines(summary: Mapping[str, Any]) -> Iterator[str]:
    if summary["kind"] == "store":
        yield f"{summary['path']}: {human_bytes(stored_bytes(summary))}"
        for key in ("pipeline", "fingerprint", "strategy", "purpose"):
            if key in summary["attributes"]:
                yield f"  {key} {summary['attributes'][key]}"
        yield from _group_lines(summary, "  ")
        return
    state = "finished" if summary["finished"] else "not finished; `synthpipe status` shows the progress"
    size = human_bytes(sum(map(stored_bytes, summary["stores"].values())))
    yield f"{summary['path']}: run of {summary['name']}, {state}"
    yield f"  stores       {size}"
    yield f"  fingerprint  {summary['fingerprint']}"
    yield f"  patches      {summary['catalog_digest']}"
    yield "  versions     " + ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    if summary["stages"]:
        yield "  seconds      " + ", ".join(
            f"{in_words(stage)} {seconds:.1f}" for stage, seconds in summary["stages"].items()
        )
    for strategy in STRATEGIES:
        entry, report = summary["strategies"].get(strategy, {}), summary["filters"].get(strategy)
        yield from _strategy_lines(strategy, entry, report, summary["ranked"], summary["threshold"])
    yield from (f"  note: {remark}" for remark in summary["remarks"])
    for name, store in summary["stores"].items():
        yield f"  {name}: {human_bytes(stored_bytes(store))}"
        yield from _group_lines(store, "    ")


def _strategy_lines(
    strategy: str, entry: Mapping[str, Any], report: Mapping[str, Any] | None, ranked: bool, threshold: float
) -> Iterator[str]:
    if report:
        kept = report["best_epoch"] + 1
        epoch = f"epoch {kept} of {len(report['epochs'])}"
        yield f"  {STRATEGY[strategy]} filter: {accuracy_text(report)}, {report['network']}, {epoch}"
    if "verdicts" not in entry:
        return
    rate = "" if entry["acceptance"] is None else f", acceptance {entry['acceptance']:.1%}"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in entry["class_share"].items())
    donors = entry["donors"]
    yield f"  {STRATEGY[strategy]}: {entry['candidates']} candidates{rate}"
    yield f"    verdicts: {_counted({verdict_text(reason, ranked): n for reason, n in entry['verdicts'].items()})}"
    if below := entry.get("below_threshold"):
        yield f"    warning: {below_threshold_warning(strategy, below, threshold)}"
    yield f"    kept pixels: {shares}"
    yield (
        f"    donors: {donors['used']} of {donors['available']} used, each in at most "
        f"{donors['most_composites_of_one']} composites"
    )


def _group_lines(group: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield from (f"{indent}{line}" for line in _content_lines(group.get("contents", {})))
    for name, entry in group["arrays"].items():
        shape, chunk = (" x ".join(map(str, entry[sizes])) for sizes in ("shape", "chunks"))
        complete = f"{entry['shards_complete']} of {entry['shards_planned']} shards"
        layout = f"chunk {chunk}" + (f", shard {entry['shards'][0]}" if entry["shards"] else "")
        stored = f"{complete}, {human_bytes(entry['bytes_stored'])}"
        codecs = "+".join(entry["codecs"])
        yield f"{indent}{name:16} {entry['dtype']:8} {shape:22} {stored:28} {layout}, {codecs}"
    if group["others"]:
        yield f"{indent}not of synthpipe: {', '.join(group['others'])}"
    for name, child in group["groups"].items():
        yield f"{indent}{name}: {human_bytes(stored_bytes(child))}"
        yield from _group_lines(child, indent + "  ")


def _content_lines(found: Mapping[str, Any]) -> Iterator[str]:
    if "class_share" in found:
        some = f" of {found['masks_counted']} masks" if "masks_counted" in found else ""
        yield f"pixels{some}: " + ", ".join(f"{name} {share:.1%}" for name, share in found["class_share"].items())
    if "class_occurrence" in found:
        yield "occur in: " + ", ".join(f"{name} {share:.1%}" for name, share in found["class_occurrence"].items())
    if scores := found.get("p_real", {}).get("count"):
        p_real = found["p_real"]
        yield f"scores: {p_real['least']:.3f} to {p_real['greatest']:.3f}, mean {p_real['mean']:.3f}, of {scores}"
    if "verdicts" in found:
        yield f"verdicts: {_counted({VERDICT[reason]: n for reason, n in found['verdicts'].items()})}"
    if "strategies" in found:
        yield f"strategies: {_counted({STRATEGY.get(name, name): n for name, n in found['strategies'].items()})}"
    if "slides" in found:
        yield f"slides or patients: {found['slides']['used']} of {found['slides']['known']} used"


def _sample_lines(shown: StoredComposite, taxonomy: Taxonomy) -> Iterator[str]:
    from synthpipe.report.composites import class_shares, visible_regions
    from synthpipe.report.stored import class_name

    height, width = shown.mask.shape
    yield plain(f"{shown.index}: {shown.caption()}, {height} x {width} pixels")
    yield plain("  " + ", ".join(f"{share:.1%} {name}" for name, share in class_shares(shown.mask, taxonomy)))
    if not shown.source:
        yield "  its recipe is not stored (store.recipes: false)"
        return
    if shown.recipe is None:
        yield plain(f"  patch {shown.source.get('patch')}, sha256 {shown.source.get('sha256')}")
        return
    regions, numbers = visible_regions(shown.recipe, shown.mask)
    marks = {each.region.number: _MARKS[index % len(_MARKS)] for index, each in enumerate(regions)}
    yield from (f"  {line}" for line in _map(numbers, shown.mask, marks, taxonomy))
    width = max(len(each.region.position) for each in regions)
    names = max(len(class_name(each, taxonomy)) for each in regions)
    for each in regions:
        name = class_name(each, taxonomy)
        yield plain(
            f"  {marks[each.region.number]} {each.share:6.1%}  {name:{names}}  {each.region.position:{width}}  "
            f"{each.region.patch}, {each.region.window}"
        )
    yield ""


def _map(numbers: Any, mask: Any, marks: Mapping[int, str], taxonomy: Taxonomy) -> Iterator[str]:
    """Yield the lines of a map of a composite: one letter per region, in the colour of its class."""
    colors = [*(each.color for each in taxonomy.classes), taxonomy.background_color]
    rows, columns = ((np.arange(n) + 0.5) * size / n for n, size in zip(_MAP, mask.shape, strict=True))
    for y in rows.astype(int):
        line = ""
        for x in columns.astype(int):
            color = colors[min(int(mask[y, x]), len(taxonomy))]
            dark = sum(color) > 380
            line += click.style(marks[int(numbers[y, x])], fg=(0, 0, 0) if dark else (255, 255, 255), bg=color)
        yield line


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
