"""Compute the report's section on a strategy, with its tables, charts, galleries and notes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from synthpipe.core.display_names import STRATEGY
from synthpipe.core.records import REASONS, Reason
from synthpipe.core.spacing import evenly_spaced
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.core.verdict_text import (
    below_threshold,
    below_threshold_warning,
    possible_verdicts,
    rejection_reason,
    verdict_text,
)
from synthpipe.report.charts import bar, class_label, histogram, line_chart, rank_chart
from synthpipe.report.composite_cards import CompositeCard, composite_card
from synthpipe.report.facts import RunFacts, StrategyFacts
from synthpipe.report.rounds import RoundsTable, rounds_table
from synthpipe.storage.filter_report import accuracy_text, calibration_text
from synthpipe.storage.tallies import Tally, score_counts

_BINS = 40
_MOST = 15  # rows of a table of the most used donors or slides
_CLASSES = 16  # classes in the matrix of pairs
_EXAMPLES = 4
_SHOWN = {  # keys of a filter's report that have rows of their own on the page
    *("format_version", "strategy", "network", "epochs", "best_epoch", "accuracy", "auroc", "synthetic_train"),
    *("synthetic_val", "real_train", "real_val", "model_sha256", "seconds", "device"),
}

_EPOCH = {
    **{"train_loss": "training loss", "val_loss": "validation loss", "val_accuracy": "validation accuracy"},
    **{"val_auroc": "validation AUROC", "val_best_accuracy": "accuracy at the best threshold"},
    "val_best_threshold": "best threshold",
}


@dataclass(frozen=True, slots=True)
class StrategySection:
    """The data of a strategy's section. The template uses these names."""

    name: str
    title: str
    summary: str
    warning: str
    verdicts: Sequence[Sequence[Any]]
    verdicts_note: str
    share_heads: Sequence[str]
    shares: Sequence[Sequence[Any]]
    examples: Sequence[CompositeCard]
    kept_title: str
    kept_note: str
    kept: Sequence[CompositeCard]
    rejected_note: str
    rejected: Sequence[CompositeCard]
    scores: Markup | None
    score_rows: Sequence[Sequence[Any]]
    rounds: RoundsTable | None
    pairs_caption: str
    pair_names: Sequence[str]
    pairs: Sequence[Mapping[str, Any]]
    reuse_note: str
    reuse: Sequence[Mapping[str, Any]]
    filter: Mapping[str, Any] | None


def strategy_section(facts: RunFacts, found: StrategyFacts) -> StrategySection:
    """Return the section of a strategy."""
    taxonomy, tallied = facts.pipeline.taxonomy, found.tally
    kept, rejected = (
        [composite_card(shown, facts.pipeline, facts.catalog, facts.path) for shown in gallery]
        for gallery in (found.kept, found.rejected)
    )
    spread = evenly_spaced(len(kept), _EXAMPLES).tolist()
    gallery_title = "Kept" if tallied.judged else "Candidates, none chosen yet"
    chart, score_rows = _scores(facts, found)
    names, pairs = _pairs(tallied, taxonomy)
    verdicts, ranked = _verdicts(found), facts.pipeline.ranked
    what = "kept composites" if tallied.judged else "candidates"
    return StrategySection(
        found.strategy,
        STRATEGY[found.strategy],
        _summary(facts, found),
        _warning(facts, found),
        _verdict_rows(verdicts, ranked),
        _verdicts_note(verdicts, ranked),
        ["class", "kept" if tallied.judged else "so far", "", "all candidates"],
        list(_share_rows(tallied, taxonomy)),
        [kept[index] for index in spread],
        gallery_title,
        _gallery_note(len(kept), int(np.count_nonzero(tallied.kept if tallied.judged else tallied.stored)), tallied),
        kept,
        _gallery_note(len(rejected), int(np.count_nonzero(_rejected(tallied))), tallied),
        rejected,
        chart,
        score_rows,
        rounds_table(found.strategy, facts.summary["rounds"], ranked),
        f"number of {what} in which two classes occur together; on the diagonal, in which a class occurs",
        names,
        pairs,
        _reuse_note(tallied, what),
        _reuse(facts, tallied),
        _filter(found.filter) if found.filter else None,
    )


def _rejected(tallied: Tally) -> Any:
    return (tallied.verdicts != LOST) & ~tallied.kept


def _summary(facts: RunFacts, found: StrategyFacts) -> str:
    tallied, rules = found.tally, facts.pipeline.curation
    stored, kept = int(np.count_nonzero(tallied.stored)), int(np.count_nonzero(tallied.kept))
    if not tallied.judged:
        return f"{stored:,} of {len(tallied.stored):,} planned candidates are stored; {_judged_so_far(facts, found)}."
    beyond = f" {found.beyond:,} more were made for settings that have changed since." if found.beyond else ""
    text = f"{kept:,} of {stored:,} candidates were kept; {rules.wanted[found.strategy]:,} were wanted.{beyond}"
    scored = tallied.p_real[~np.isnan(tallied.p_real)]
    if not len(scored):
        return f"{text} No filter scored them."
    rate = np.count_nonzero(scored > rules.threshold) / len(scored)
    rule = (
        "the candidates with the highest scores were kept, however low the scores are"
        if rules.rule == "top_k"
        else "the first candidates that score above it were kept"
    )
    return f"{text} The filter accepts {rate:.1%} of them at the threshold {rules.threshold:g}; {rule}."


def _warning(facts: RunFacts, found: StrategyFacts) -> str:
    """Return a warning if the filter rejects kept composites, else an empty text.

    The warning is derived from the scores, because runs of earlier versions do not store warnings.
    """
    scores, threshold = found.tally.p_real[found.tally.kept], facts.pipeline.curation.threshold
    below = below_threshold(scores, threshold)
    return f"Warning: {below_threshold_warning(found.strategy, below, threshold)}." if below else ""


def _judged_so_far(facts: RunFacts, found: StrategyFacts) -> str:
    """Return the result of the build's last judgement in words.

    A build stores verdicts only after enough candidates pass.
    """
    verdicts = found.journal.get("verdicts")
    if not verdicts:
        return "no candidate is judged yet"
    wanted = facts.pipeline.curation.wanted[found.strategy]
    text = f"of the first {found.journal['candidates']:,}, {verdicts['kept']:,} may be kept; {wanted:,} are wanted"
    rate = found.journal["acceptance"]
    if rate is None:
        return text
    threshold = facts.pipeline.curation.threshold
    return f"{text}; the filter accepts {rate:.1%} of the judged ones at the threshold {threshold:g}"


def _verdicts(found: StrategyFacts) -> Mapping[Reason, int]:
    """Return the number of candidates with each verdict.

    If no verdicts are stored, return the counts of the build's last judgement. Before the first judgement, return an
    empty mapping.
    """
    if not found.tally.judged:
        last: Mapping[Reason, int] = found.journal.get("verdicts", {})
        return last
    return {reason: int(np.count_nonzero(found.tally.verdicts == code)) for code, reason in enumerate(REASONS)}


def _gallery_note(shown: int, count: int, tallied: Tally) -> str:
    order = "evenly over the scores, highest first" if tallied.scored else "evenly over the indices"
    return f"{shown:,} of {count:,}, {order}. Click one to see its recipe and donors."


def _verdict_rows(verdicts: Mapping[Reason, int], ranked: bool) -> list[tuple[Any, ...]]:
    total = max(1, sum(verdicts.values()))
    counts = [(reason, verdicts.get(reason, 0)) for reason in possible_verdicts(ranked, verdicts)] if verdicts else []
    return [
        (
            verdict_text(reason, ranked),
            f"{count:,}",
            f"{count / total:.1%}",
            bar(count / total, "other" if code else "kept"),
        )
        for code, (reason, count) in enumerate(counts)
    ]


def _verdicts_note(verdicts: Mapping[Reason, int], ranked: bool) -> str:
    """Return an explanation of the reasons of rejection that occur."""
    found = [reason for reason in REASONS if reason != "kept" and verdicts.get(reason)]
    return "; ".join(f"{verdict_text(reason, ranked)}: {rejection_reason(reason, ranked)}" for reason in found)


def _share_rows(tallied: Tally, taxonomy: Taxonomy) -> Iterator[tuple[Any, ...]]:
    shares, of_all = (pixels / max(1, pixels.sum()) for pixels in (tallied.class_pixels, tallied.all_class_pixels))
    colors = [*(each.color for each in taxonomy.classes), taxonomy.background_color]
    names = [*taxonomy.names, "background"]
    for name, color, share, whole in zip(names, colors, shares.tolist(), of_all.tolist(), strict=True):
        yield class_label(name, color), f"{share:.1%}", bar(share), f"{whole:.1%}"


def _scores(facts: RunFacts, found: StrategyFacts) -> tuple[Markup | None, list[tuple[Any, ...]]]:
    tallied, rules = found.tally, facts.pipeline.curation
    if not tallied.scored:
        return None, []
    kept, others = (counts.tolist() for counts in score_counts(tallied, _BINS))
    line, label = rules.threshold, f"threshold {rules.threshold:g}"
    if rules.rule == "top_k" and tallied.kept.any():
        line = float(tallied.p_real[tallied.kept].min())
        label = f"lowest kept {line:.3f}"
    names = ("kept", "not kept") if tallied.judged else ("kept", "not chosen yet")
    chart = histogram(f"Scores of the {STRATEGY[found.strategy]} candidates", kept, others, line, label, names)
    rows = [
        (f"{number / _BINS:.3f} to {(number + 1) / _BINS:.3f}", below, above)
        for number, (below, above) in enumerate(zip(kept, others, strict=True))
        if below or above
    ]
    return chart, rows


def _pairs(tallied: Tally, taxonomy: Taxonomy) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the most frequent classes, and the matrix of their pairs."""
    order = np.sort(np.argsort(-np.diag(tallied.together), kind="stable")[:_CLASSES]).tolist()
    top = max(1, int(tallied.together.max(initial=0)))
    rows = []
    for first in order:
        counts = tallied.together[first, order].tolist()
        cells = [{"count": f"{count:,}", "heat": math.ceil(5 * count / top)} for count in counts]
        rows.append({"name": taxonomy.names[first], "cells": cells})
    return [taxonomy.names[each] for each in order], rows


def _reuse_note(tallied: Tally, what: str) -> str:
    parts = []
    for name, uses in (("donor patches", tallied.donor_uses), ("slides or patients", tallied.group_uses)):
        used = uses[uses > 0]
        if len(used):
            median = float(np.median(used))
            parts.append(
                f"{len(used):,} of {len(uses):,} {name} occur in the {what}. The median of them occurs in {median:g}, "
                f"and the most used one in {int(used.max()):,}"
            )
    return ". ".join(parts) + "."


def _reuse(facts: RunFacts, tallied: Tally) -> list[dict[str, Any]]:
    donors = [donor.id for donor in facts.catalog.donors]
    groups = sorted({donor.group for donor in facts.catalog.donors})
    count = int(np.count_nonzero(tallied.kept if tallied.judged else tallied.stored))
    found = []
    for what, names, uses in (("donor patch", donors, tallied.donor_uses), ("slide", groups, tallied.group_uses)):
        if not len(uses):
            continue
        order = np.argsort(-uses, kind="stable")[:_MOST].tolist()
        rows = [
            (names[each], f"{uses[each]:,}", f"{uses[each] / max(1, count):.1%}", bar(uses[each] / max(1, count)))
            for each in order
        ]
        title = f"Number of composites in which each {what} occurs, most used first"
        caption = f"the {len(rows)} most used of {len(names):,}"
        plural = {"donor patch": "donor patches", "slide": "slides or patients"}[what]
        found.append(
            {
                "what": what,
                "caption": caption,
                "rows": rows,
                "chart": rank_chart(title, uses.tolist(), f"{plural}, ranked"),
            }
        )
    return found


def _filter(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data that the page shows from a filter's report.

    Values that have no row of their own are listed under their keys.
    """
    epochs: Sequence[Mapping[str, Any]] = report["epochs"]
    best = int(report["best_epoch"])
    properties = [
        ("network", report["network"]),
        ("validation", f"{accuracy_text(report)}, on slides that are not in its training set"),
        ("accuracy", "real patches and composites have equal weight, so that guessing gives 0.5"),
        ("trained on", f"{report['synthetic_train']:,} composites, {report['real_train']:,} real patches"),
        ("validated on", f"{report['synthetic_val']:,} composites, {report['real_val']:,} real patches"),
        ("best epoch", f"{best + 1} of {len(epochs)}; its weights are used"),
        ("training", f"{report['seconds']:.0f} s on {report['device']}"),
        ("weights", f"sha256 {report['model_sha256']}"),
    ]
    heads = list(dict.fromkeys(key for epoch in epochs for key, value in epoch.items() if value is not None))
    rows = [[_number(epoch.get(key), key) for key in heads] for epoch in epochs]
    losses = _series(epochs, ("train_loss", "val_loss"))
    shares = _series(epochs, ("val_accuracy", "val_auroc"))
    charts = (
        [line_chart("Loss of the filter after each epoch, with a mark at the best epoch", losses, best)]
        if losses
        else []
    )
    if shares:
        charts.append(
            line_chart(
                "Accuracy and AUROC of the filter after each epoch, with a mark at the best epoch", shares, best, 1.0
            )
        )
    further = list(_flat({key: value for key, value in report.items() if key not in _SHOWN}))
    return {
        "properties": properties,
        "calibration": calibration_text(report),
        "charts": charts,
        "heads": [_EPOCH.get(head, head.replace("_", " ")) for head in heads],
        "epochs": rows,
        "further": further,
    }


def _series(epochs: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, list[float]]:
    return {_EPOCH[key]: [float(epoch[key]) for epoch in epochs] for key in keys if epochs and key in epochs[0]}


def _number(value: Any, key: str) -> str:
    if key == "epoch" and isinstance(value, int):
        return str(value + 1)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of a nested mapping as pairs of a name and a short text."""
    for key, value in data.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}, ")
        elif isinstance(value, list):
            first = ", ".join(_number(each, "") for each in value[:12])
            yield name, f"{first}, ... ({len(value)} in all)" if len(value) > 12 else first
        else:
            yield name, _number(value, "")
