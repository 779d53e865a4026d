"""Write ``README.md``, the data card with the content, the intended use and the limits of a curated set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from synthpipe.core.display import printable
from synthpipe.core.display_names import STRATEGY
from synthpipe.core.records import REASONS
from synthpipe.core.verdict_text import below_threshold_warning, possible_verdicts, verdict_text
from synthpipe.report.data_cards.facts import CardFacts, RunSummary
from synthpipe.storage.filter_report import accuracy_text, calibration_text

NO_LICENSE = "not given: the license of the source patches applies"
_KNOWN_LICENSES = (
    *("apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
    *("mit", "odbl", "pddl"),
)
_MARKUP = re.compile(r"([\\`*_\[\]|~#])")

CITATION = """\
@article{fang2024hisynseg,
  title   = {HisynSeg: Weakly-Supervised Histopathological Image Segmentation via Image-Mixing Synthesis and
             Consistency Regularization},
  author  = {Fang, Zijie and Wang, Yifeng and Xie, Peizhang and Wang, Zhi and Zhang, Yongbing},
  journal = {IEEE Transactions on Medical Imaging},
  year    = {2024},
  note    = {arXiv:2412.20924}
}"""

_OF_COMPOSITES = (
    "The images are synthetic: each is assembled from pieces of real patches. No composite shows natural tissue "
    "architecture, and a recipe decides where the borders between tissues are.",
    "A pixel's class is the label of the patch that it comes from. If that label is wrong or incomplete, so is the "
    "mask. Small structures of other tissue within a patch get the class of the patch.",
    "Composites of one set share patches and slides, so they are not independent samples. Split by slide or patient, "
    "and evaluate on real images with masks drawn by people.",
)
_OF_REAL_PATCHES = (
    "The images are patches of real patients. The terms of their data set apply.",
    "A network predicts the class of each pixel among the classes of the patch's label; every pixel of a single-class "
    "patch has that class. Nobody has checked the masks. They repeat the network's errors and cannot measure its "
    "accuracy.",
    "Patches of one slide are not independent samples. Split by slide or patient, and evaluate on real images with "
    "masks drawn by people.",
)
_OF_ALL = (
    "Stain, scanner and patients are those of the source patches, with all their biases.",
    "Not for diagnosis or any other decision about a patient.",
)
USE = (
    "Train networks that segment tissue in H&E images, together with the real patches and their labels. Study weak "
    "supervision and synthetic data."
)


def title(facts: CardFacts) -> str:
    """Return the title of a set's data card."""
    return f"{facts.name}: {'curated composites' if facts.synthetic else 'patches with predicted masks'}"


def about(facts: CardFacts) -> str:
    """Return a sentence about the content and the origin of a set."""
    height, width = facts.size
    images = f"{facts.composites} images of {height} x {width} pixels with"
    if facts.synthetic:
        return (
            f"{images} masks, made by synthpipe from weakly-labelled histopathology patches by the method of HisynSeg "
            "(arXiv:2412.20924)."
        )
    return (
        f"{images} predicted masks: weakly-labelled histopathology patches. A network trained on composites predicts "
        "the class of each pixel among the classes of the patch's label (stage 2 of HisynSeg, arXiv:2412.20924)."
    )


def limits(facts: CardFacts) -> tuple[str, ...]:
    """Return the limits of a set, each in a few sentences."""
    return (*(_OF_COMPOSITES if facts.synthetic else _OF_REAL_PATCHES), *_OF_ALL)


def keywords(facts: CardFacts) -> list[str]:
    """Return the search keywords of a set."""
    return ["histopathology", "synthetic" if facts.synthetic else "pseudo-labels"]


def readme(facts: CardFacts, files: Sequence[str], extra: Mapping[str, Any] | None = None) -> str:
    """Return a data card as Markdown, with the YAML header that the Hugging Face hub reads.

    Parameters
    ----------
    facts : CardFacts
        The facts that the card states.
    files : sequence of str
        Lines of Markdown about the files beside the card.
    extra : mapping, optional
        Additional keys of the header.
    """
    return "\n".join([*_header(facts, extra or {}), *_body(facts, files)]) + "\n"


def escaped(text: str) -> str:
    """Return text in one line, escaped so that Markdown, HTML and a terminal show it unchanged."""
    plain = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)


def _header(facts: CardFacts, extra: Mapping[str, Any]) -> Iterator[str]:
    header: dict[str, Any] = {"pretty_name": title(facts), **_license(facts.license)}
    header |= {"task_categories": ["image-segmentation"], "size_categories": [_size(facts.composites)]}
    header |= {"tags": [*keywords(facts), "synthpipe"], **extra}
    yield "---"
    yield yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000).rstrip()
    yield "---"


def _license(text: str | None) -> dict[str, str]:
    """Return the license keys of the hub's header: one of the hub's names, or ``other`` and the license's name."""
    if text is None:
        return {"license": "unknown"}
    known = text.strip().lower()
    return {"license": known} if known in _KNOWN_LICENSES else {"license": "other", "license_name": text.strip()}


def _size(count: int) -> str:
    """Return the hub's size category for `count` samples."""
    bounds = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return next((name for power, name in enumerate(bounds, 3) if count < 10**power), "100M<n<1B")


def _body(facts: CardFacts, files: Sequence[str]) -> Iterator[str]:
    yield f"\n# {escaped(title(facts))}\n"
    yield about(facts)
    if facts.synthetic:
        yield "Each pixel of a composite has the class of the single-class patch that it comes from, or is glass."
    yield f"\nLicense: {escaped(facts.license or NO_LICENSE)}\n"
    yield "## Files\n"
    yield from files
    yield "\n## Classes\n"
    yield "The values of a mask are class indices. Losses and metrics must ignore the background (glass).\n"
    yield from _table(("index", "class", "colour"), _classes(facts))
    yield f"\n## {'Composites' if facts.synthetic else 'Patches'}\n"
    names = [escaped(name) for name in facts.taxonomy.names]
    rows = [(STRATEGY[each], count, *shown.values()) for each, (count, shown) in facts.counts.items()]
    what = "composites" if facts.synthetic else "patches"
    yield from _table(("strategy", what, *(f"with {name}" for name in names)), rows)
    if facts.run:
        yield from _run(facts.run, names)
    yield f"\n## Intended use\n\n{USE}\n"
    yield "## Limits\n"
    yield from (f"- {limit}" for limit in limits(facts))
    yield from _origin(facts)
    yield f"\n## Citation\n\n```bibtex\n{CITATION}\n```"


def _classes(facts: CardFacts) -> Iterator[tuple[object, ...]]:
    for index, tissue in enumerate(facts.taxonomy.classes):
        yield index, escaped(tissue.name), _color(tissue.color)
    yield facts.taxonomy.background, "background (ignored)", _color(facts.taxonomy.background_color)


def _run(run: RunSummary, names: Sequence[str]) -> Iterator[str]:
    shares = [
        (STRATEGY[each], *(f"{share:.1%}" for share in entry["class_share"].values()))
        for each, entry in run.strategies.items()
    ]
    yield "\nShare of the pixels:\n"
    yield from _table(("strategy", *names), shares)
    yield "\n## Curation\n"
    yield from _verdicts(run)
    threshold = run.pipeline.curation.threshold
    if not run.filters:
        yield "\nThe pipeline has no filter, so the composites have no scores."
    elif run.pipeline.ranked:
        yield f"\nCuration keeps the highest scores, however low they are. The filter accepts scores above {threshold}."
    else:
        yield f"\nCuration keeps the first candidates that score above {threshold}."
    for strategy, entry in run.strategies.items():
        if below := entry.get("below_threshold"):
            text = below_threshold_warning(strategy, below, threshold)
            yield f"\n**Warning:** {text}.\n"
    for strategy, report in run.filters.items():
        accuracy = f"The {STRATEGY[strategy]} filter distinguishes real from synthetic with {accuracy_text(report)}."
        yield " ".join(filter(None, (accuracy, calibration_text(report))))
    for strategy, entry in run.strategies.items():
        donors = entry["donors"]
        yield (
            f"{STRATEGY[strategy]} composites use {donors['used']} of {donors['available']} donors. The most used "
            f"donor is in {donors['most_composites_of_one']} composites."
        )
    yield "\n## Source patches\n"
    catalog, label = run.catalog, run.pipeline.taxonomy.label
    counts = f"{len(catalog.patches)} patches of {len(catalog.groups)} slides or patients"
    yield f"{counts}; left out: {len(catalog.problems)}."
    yield f"SHA-256 of their names, bytes, labels and slides: `{run.catalog_digest}`\n"
    rows = [(escaped(label(classes)), count) for classes, count in sorted(catalog.counts().items())]
    yield from _table(("classes", "patches"), rows)


def _verdicts(run: RunSummary) -> Iterator[str]:
    entries = run.strategies
    counts = {reason: sum(entry["verdicts"].get(reason, 0) for entry in entries.values()) for reason in REASONS}
    reasons = possible_verdicts(run.pipeline.ranked, counts)
    rows = (
        (
            *(STRATEGY[strategy], entry["candidates"]),
            "no filter" if entry["acceptance"] is None else f"{entry['acceptance']:.1%}",
            *(entry["verdicts"].get(reason, 0) for reason in reasons),
        )
        for strategy, entry in entries.items()
    )
    yield from _table(
        ("strategy", "candidates", "filter accepts", *(verdict_text(each, run.pipeline.ranked) for each in reasons)),
        rows,
    )


def _origin(facts: CardFacts) -> Iterator[str]:
    yield "\n## How it was made\n"
    yield f"Pipeline fingerprint `{facts.fingerprint}`, digest of the set `{facts.digest}`."
    if not facts.synthetic:
        yield f"The network has the SHA-256 `{facts.checkpoint}`. This command predicts the same masks again:\n"
        yield "```sh\nsynthpipe pseudo-label CHECKPOINT --real PATCHES -o STORE\n```"
        return
    yield f"The layout of the patches is `{facts.layout}`. The same pipeline file and patches give the same set:\n"
    yield "```sh\nsynthpipe build PIPELINE.yaml --set patches.root=PATCHES -o RUN\n```"
    if facts.run:
        versions = ", ".join(f"{escaped(name)} {escaped(number)}" for name, number in facts.run.versions.items())
        yield f"\nThe file `run.json` of the run holds the whole pipeline. Package versions: {versions}."


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(map(str, row))} |"


def _color(color: tuple[int, int, int]) -> str:
    return f"rgb({', '.join(map(str, color))})"
