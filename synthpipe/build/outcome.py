"""Remarks on a finished curated set: its rare classes, and why they are rare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.display_names import STRATEGY
from synthpipe.core.verdict_text import verdict_text
from synthpipe.patches.catalog import Catalog

_RARE = 0.01  # share of the kept pixels


def rare_classes(pipeline: Pipeline, catalog: Catalog, entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a remark for each class that has under 1 % of the kept pixels.

    The remark counts the donors of the class, and the verdicts of the candidates that show it.

    Parameters
    ----------
    pipeline, catalog
        The pipeline and the catalog of the run.
    entries : mapping
        The entry of ``build.json`` for each strategy whose candidates were judged.
    """
    can_balance = pipeline.mosaic and not pipeline.donors.balance_classes
    balance = "set donors.balance_classes: true, or " if can_balance else ""
    kept = {strategy: entry["verdicts"]["kept"] for strategy, entry in entries.items()}
    for index, name in enumerate(pipeline.taxonomy.names):
        pixels = sum(entry["class_share"][name] * kept[strategy] for strategy, entry in entries.items())
        share = pixels / max(1, sum(kept.values()))
        donors = sum(patch.classes == (index,) for patch in catalog.donors)
        if share >= _RARE:
            continue
        reasons = [f"{donors} of {len(catalog.donors)} donors show it"]
        for strategy, entry in entries.items():
            verdicts = entry["class_verdicts"][name]
            counts = ", ".join(
                f"{count} {verdict_text(reason, pipeline.ranked)}" for reason, count in verdicts.items() if count
            )
            shown = sum(verdicts.values())
            reasons.append(
                f"{shown} of {entry['candidates']} {STRATEGY[strategy]} candidates show it{counts and f' ({counts})'}"
            )
        cure = f"{balance}add donors" if donors else "add single-class patches of it"
        yield f"{name} has {share:.1%} of the kept pixels: {'; '.join(reasons)}; {cure}"
