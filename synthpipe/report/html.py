"""Make the HTML page of a report: one file that loads nothing from a network.

The template escapes all text from files. A content security policy is a second protection. It permits only the page's
own style sheet and script, which it names by their digests, and pictures inside the page.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from synthpipe.core.display_names import STRATEGY
from synthpipe.core.display_names import stage as stage_name
from synthpipe.patches.quality.dropping import dropped_counts
from synthpipe.report.charts import bar, class_label
from synthpipe.report.facts import RunFacts
from synthpipe.report.strategies import strategy_section
from synthpipe.storage.summary import human_bytes, stored_bytes

_FILES = Path(__file__).parent / "page"
_ROWS = 40  # most rows of a table of label sets or problems
_FEWER = 10  # most rows of a table of sizes or slides


def html_page(facts: RunFacts) -> str:
    """Return the report of a run as HTML. Equal facts give equal pages."""
    environment = Environment(
        loader=FileSystemLoader(_FILES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    red, green, blue = facts.pipeline.background_color
    glass = f"\n:root {{ --glass: rgb({red} {green} {blue}); }}\n"
    style = (_FILES / "report.css").read_text(encoding="utf-8") + glass
    script = (_FILES / "report.js").read_text(encoding="utf-8")
    ours = {"style": Markup(style), "script": Markup(script)}  # nosec B704 # our own files and three numbers
    return environment.get_template("report.html").render(
        page=_contents(facts),
        **ours,
        style_hash=_digest(style),
        script_hash=_digest(script),
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _contents(facts: RunFacts) -> dict[str, Any]:
    taxonomy, catalog = facts.pipeline.taxonomy, facts.catalog
    text = yaml.safe_dump(facts.pipeline.model_dump(mode="json"), sort_keys=False, width=100, allow_unicode=True)
    file = f"{facts.path.name or 'pipeline'}.yaml"
    colors = [class_label(each.name, each.color) for each in taxonomy.classes]
    return {
        "name": facts.pipeline.name,
        "path": str(facts.path),
        "finished": facts.finished,
        "tiles": list(_tiles(facts)),
        "classes": [*colors, class_label("background, ignored", taxonomy.background_color)],
        "strategies": [strategy_section(facts, each) for each in facts.strategies],
        "patches_note": (
            f"{len(catalog.patches):,} patches of {len(catalog.groups):,} slides or patients: {len(catalog.donors):,} "
            f"patches of one class, which donate pixels, and {len(catalog.mixed):,} patches of several classes, which "
            "train the filter as examples of real patches."
        ),
        "label_sets": list(_label_sets(facts)),
        "sizes": list(_sizes(facts)),
        "dropped": list(_dropped(facts)),
        "groups": list(_groups(facts)),
        "remarks": facts.summary["remarks"],
        "problems_note": _problems_note(facts),
        "problems": [(problem.kind.replace("_", " "), problem.message) for problem in catalog.problems[:_ROWS]],
        "stages": list(_stages(facts)),
        "stores": [
            (name, str(_arrays_in(store)), human_bytes(stored_bytes(store)))
            for name, store in facts.summary["stores"].items()
        ],
        "arrays": [row for name, store in facts.summary["stores"].items() for row in _arrays(store, name)],
        "origin": list(_origin(facts)),
        "commands": list(_commands(facts, file)),
        "pipeline_text": text,
        "pipeline_name": file,
        "pipeline_uri": f"data:text/yaml;base64,{base64.b64encode(text.encode('utf-8', 'backslashreplace')).decode()}",
        "versions": list(facts.summary["versions"].items()),
    }


def _tiles(facts: RunFacts) -> Iterator[tuple[str, str]]:
    curated = facts.summary["stores"].get("curated.zarr", {"arrays": {}})["arrays"].get("labels")
    if curated:
        yield "in the curated set", f"{curated['shape'][0]:,}"
    for each in facts.strategies:
        kept, stored = int(each.tally.kept.sum()), int(each.tally.stored.sum())
        if each.tally.judged:
            yield f"{STRATEGY[each.strategy]} kept", f"{kept:,} of {stored:,}"
        else:
            yield f"{STRATEGY[each.strategy]} candidates", f"{stored:,}"
    height, width = facts.pipeline.canvas
    yield "pixels", f"{height} x {width}"
    yield "classes", str(len(facts.pipeline.classes))
    yield "stored", human_bytes(sum(stored_bytes(store) for store in facts.summary["stores"].values()))
    if stages := facts.summary["stages"]:
        yield "built in", f"{sum(stages.values()):,.0f} s"


def _arrays_in(store: Mapping[str, Any]) -> int:
    return len(store["arrays"]) + sum(_arrays_in(child) for child in store["groups"].values())


def _label_sets(facts: RunFacts) -> Iterator[tuple[Any, ...]]:
    counts = facts.catalog.counts()
    for number, (classes, count) in enumerate(counts.items()):
        if number == _ROWS:
            yield f"and {len(counts) - _ROWS} other label sets", "", "", ""
            return
        name = facts.pipeline.taxonomy.label(classes)
        share = count / len(facts.catalog.patches)
        single = len(classes) == 1
        yield name, f"{count:,}", "pixels" if single else "", bar(share, "kept" if single else "other")


def _sizes(facts: RunFacts) -> Iterator[tuple[str, str]]:
    sizes = Counter(f"{patch.height} x {patch.width}" for patch in facts.catalog.patches)
    for size, count in sizes.most_common(_FEWER):
        yield size, f"{count:,}"
    if len(sizes) > _FEWER:
        yield f"{len(sizes) - _FEWER} other sizes", f"{sizes.total() - sum(n for _, n in sizes.most_common(_FEWER)):,}"


def _dropped(facts: RunFacts) -> Iterator[tuple[str, str, str]]:
    """Yield the number of donors that were left out, by class and reason."""
    for (name, reason), count in sorted(dropped_counts(facts.catalog.problems).items()):
        yield name, reason, f"{count:,}"


def _groups(facts: RunFacts) -> Iterator[tuple[str, str, str]]:
    patches = Counter(patch.group for patch in facts.catalog.patches)
    donors = Counter(patch.group for patch in facts.catalog.donors)
    for name, count in patches.most_common(_FEWER):
        yield name, f"{count:,}", f"{donors[name]:,}"


def _problems_note(facts: RunFacts) -> str:
    count = len(facts.catalog.problems)
    if not count:
        return "None: every patch was usable."
    more = f"; the first {_ROWS} are" if count > _ROWS else ""
    return f"{count:,} problem{'s' * (count != 1)}{more}:"


def _stages(facts: RunFacts) -> Iterator[tuple[Any, ...]]:
    """Yield the seconds of each stage and, if known, the number of items and the rate."""
    stages: Mapping[str, float] = facts.summary["stages"]
    longest = max(stages.values(), default=0.0)
    for stage, seconds in stages.items():
        count = _item_count(facts, stage)
        done, rate = ("", "") if count is None else (f"{count:,}", f"{count / max(seconds, 1e-3):,.0f}")
        yield stage_name(stage), f"{seconds:,.1f}", done, rate, bar(seconds / max(longest, 1e-9))


def _item_count(facts: RunFacts, stage: str) -> int | None:
    """Return the number of patches or composites that a stage processed, or None for other stages."""
    pipeline = facts.pipeline
    counts = {
        "catalog": len(facts.catalog.patches) + len(facts.catalog.problems),
        "donors": len(facts.catalog.donors),
        "filter composites": pipeline.filter.candidates * len(pipeline.strategies),
        "curated set": sum(int(each.tally.kept.sum()) for each in facts.strategies),
    }
    for each in facts.strategies:
        stored = int(each.tally.stored.sum()) + each.beyond
        counts |= dict.fromkeys((f"{each.strategy} candidates", f"{each.strategy} scores"), stored)
    return counts.get(stage)


def _arrays(store: Mapping[str, Any], name: str) -> Iterator[tuple[str, ...]]:
    for key, array in store["arrays"].items():
        shape, chunk = (" x ".join(map(str, array[sizes])) for sizes in ("shape", "chunks"))
        codecs = ", ".join(array["codecs"])
        yield f"{name}/{key}", shape, chunk, array["dtype"], codecs, human_bytes(array["bytes_stored"])
    for key, child in store["groups"].items():
        yield from _arrays(child, f"{name}/{key}")


def _origin(facts: RunFacts) -> Iterator[tuple[str, str]]:
    pipeline, summary = facts.pipeline, facts.summary
    yield "pipeline", f"{pipeline.name}, seed {pipeline.seed}"
    yield "fingerprint", summary["fingerprint"]
    yield "patches", f"{pipeline.patches.root}, layout {pipeline.patches.layout}"
    yield "digest of the patches", summary["catalog_digest"]
    yield "synthpipe", summary["versions"]["synthpipe"]


def _commands(facts: RunFacts, file: str) -> Iterator[tuple[str, str]]:
    run, file = shlex.quote(str(facts.path)), shlex.quote(file)
    again = f"synthpipe build {file} --set patches.root=PATCHES -o ANOTHER"
    yield "Build the run again from the pipeline file below and the same patches:", again
    yield "Verify every byte of the run:", f"synthpipe verify {run}"
    yield "Inspect the run in a terminal:", f"synthpipe inspect {run}"
    if facts.finished:
        command = (
            f"synthpipe train {shlex.quote(str(facts.path / 'curated.zarr'))} --real PATCHES --val IMAGES -o MODEL"
        )
        yield "Train a segmentation network on the curated set:", command
