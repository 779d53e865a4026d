"""``README.md``: the card that tells people what a curated set is, what it is for, and what not."""

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

NO_LICENSE = "not given: that of the source patches applies"
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
    "The images are synthetic: pieces of real patches put together. No composite shows tissue as it lies in a body, "
    "and borders between tissues are where a recipe put them.",
    "A pixel's class is the label of the patch that it comes from. Where that label is wrong or incomplete, so is the "
    "mask; small structures of other tissue within a patch have its class too.",
    "Composites of one set share patches and slides, so they are no independent samples. Split by slide or patient, "
    "and evaluate on real images with masks drawn by people.",
)
_OF_REAL_PATCHES = (
    "The images are patches of real patients: what their data set allows and forbids holds for them.",
    "A pixel's class is what a network predicts among the classes of the patch's label, and a patch of one class has "
    "it everywhere. Nobody has looked at the masks; they repeat the network's errors, and prove nothing about it.",
    "Patches of one slide are no independent samples. Split by slide or patient, and evaluate on real images with "
    "masks drawn by people.",
)
_OF_ALL = (
    "Stain, scanner and patients are those of the source patches, with all their biases.",
    "Not for diagnosis, nor for any decision about a patient.",
)
USE = (
    "Training of networks that segment tissue in H&E images, together with the real patches and their labels, and "
    "research on weak supervision and synthetic data."
)


def title(facts: CardFacts) -> str:
    """Return what a set is called."""
    return f"{facts.name}: {'curated composites' if facts.synthetic else 'patches with predicted masks'}"


def about(facts: CardFacts) -> str:
    """Return a sentence on what a set holds and how it came to be."""
    height, width = facts.size
    images = f"{facts.composites} images of {height} x {width} pixels with"
    if facts.synthetic:
        return (
            f"{images} masks, made by synthpipe from weakly-labelled histopathology patches by the method of HisynSeg "
            "(arXiv:2412.20924)."
        )
    return (
        f"{images} predicted masks: weakly-labelled histopathology patches, of which a network trained on composites "
        "says within their labels what each pixel is (stage 2 of HisynSeg, arXiv:2412.20924)."
    )


def limits(facts: CardFacts) -> tuple[str, ...]:
    """Return what a set cannot do, a sentence or two each."""
    return (*(_OF_COMPOSITES if facts.synthetic else _OF_REAL_PATCHES), *_OF_ALL)


def keywords(facts: CardFacts) -> list[str]:
    """Return what a set is found by."""
    return ["histopathology", "synthetic" if facts.synthetic else "pseudo-labels"]


def readme(facts: CardFacts, files: Sequence[str], extra: Mapping[str, Any] | None = None) -> str:
    """Return a card as Markdown with a YAML header as the Hugging Face hub reads it.

    Parameters
    ----------
    facts : CardFacts
        What to tell.
    files : sequence of str
        Lines of Markdown about the files beside it.
    extra : mapping, optional
        More keys of the header.
    """
    return "\n".join([*_header(facts, extra or {}), *_body(facts, files)]) + "\n"


def escaped(text: str) -> str:
    """Return text that a user or a disk gave so that Markdown, HTML and a terminal show it as it is, in one line."""
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
    """Return the hub's keys: a name that it knows, or another license by its name."""
    if text is None:
        return {"license": "unknown"}
    known = text.strip().lower()
    return {"license": known} if known in _KNOWN_LICENSES else {"license": "other", "license_name": text.strip()}


def _size(count: int) -> str:
    """Return the hub's name for so many samples."""
    bounds = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return next((name for power, name in enumerate(bounds, 3) if count < 10**power), "100M<n<1B")


def _body(facts: CardFacts, files: Sequence[str]) -> Iterator[str]:
    yield f"\n# {escaped(title(facts))}\n"
    yield about(facts)
    if facts.synthetic:
        yield "Every pixel of a composite has the class of the single-class patch that it was taken from, or is glass."
    yield f"\nLicense: {escaped(facts.license or NO_LICENSE)}\n"
    yield "## Files\n"
    yield from files
    yield "\n## Classes\n"
    yield "A mask's values are the indices; the background (glass) is to be ignored by losses and metrics.\n"
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
    if not run.filters:
        yield "\nThere is no filter, so there are no scores."
    elif run.ranked:
        yield f"\nKept: the highest scores, whatever they are. The filter accepts scores above {run.threshold}."
    else:
        yield f"\nKept: the first that score above {run.threshold}."
    for strategy, entry in run.strategies.items():
        if below := entry.get("below_threshold"):
            text = below_threshold_warning(strategy, below, run.threshold)
            yield f"\n**Warning:** {text}.\n"
    for strategy, report in run.filters.items():
        told_of = f"The {STRATEGY[strategy]} filter tells real from synthetic with {accuracy_text(report)}."
        yield " ".join(filter(None, (told_of, calibration_text(report))))
    for strategy, entry in run.strategies.items():
        donors = entry["donors"]
        yield (
            f"{STRATEGY[strategy]} composites use {donors['used']} of {donors['available']} donors, one of them "
            f"in {donors['most_composites_of_one']} composites."
        )
    yield "\n## Source patches\n"
    yield f"{sum(run.label_sets.values())} patches of {run.slides} slides or patients; left out: {run.left_out}."
    yield f"SHA-256 of their names, bytes, labels and slides: `{run.catalog_digest}`\n"
    yield from _table(("shows", "patches"), [(escaped(name), count) for name, count in run.label_sets.items()])


def _verdicts(run: RunSummary) -> Iterator[str]:
    entries = run.strategies
    counts = {reason: sum(entry["verdicts"].get(reason, 0) for entry in entries.values()) for reason in REASONS}
    reasons = possible_verdicts(run.ranked, counts)
    rows = (
        (
            *(STRATEGY[strategy], entry["candidates"]),
            "no filter" if entry["acceptance"] is None else f"{entry['acceptance']:.1%}",
            *(entry["verdicts"].get(reason, 0) for reason in reasons),
        )
        for strategy, entry in entries.items()
    )
    yield from _table(
        ("strategy", "candidates", "filter accepts", *(verdict_text(each, run.ranked) for each in reasons)), rows
    )


def _origin(facts: CardFacts) -> Iterator[str]:
    yield "\n## How it was made\n"
    yield f"Pipeline fingerprint `{facts.fingerprint}`, digest of the set `{facts.digest}`."
    if not facts.synthetic:
        yield f"The network has the SHA-256 `{facts.checkpoint}`. It gives the same masks again:\n"
        yield "```sh\nsynthpipe pseudo-label CHECKPOINT --real PATCHES -o STORE\n```"
        return
    yield f"Patches are laid out as `{facts.layout}`. The same pipeline file and patches give the same set again:\n"
    yield "```sh\nsynthpipe build PIPELINE.yaml --set patches.root=PATCHES -o RUN\n```"
    if facts.run:
        versions = ", ".join(f"{escaped(name)} {escaped(number)}" for name, number in facts.run.versions.items())
        yield f"\nThe run's own `run.json` holds the whole pipeline. Made with {versions}."


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(map(str, row))} |"


def _color(color: tuple[int, int, int]) -> str:
    return f"rgb({', '.join(map(str, color))})"
