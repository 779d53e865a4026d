"""What a report tells of a run, gathered as plain records: nothing here knows how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import Strategy
from synthpipe.files.locations import Location, exists
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.report.choice import chosen_kept, chosen_rejected
from synthpipe.report.composites import Shown, read_shown
from synthpipe.storage.filter_report import load_report
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CompositeStore
from synthpipe.storage.summary import summarise
from synthpipe.storage.tallies import Tally, tally

GALLERY = 24
"""Composites of a strategy that are shown of what is kept, and of what is rejected."""


@dataclass(frozen=True, slots=True, eq=False)
class StrategyFacts:
    """What became of a strategy's candidates.

    Attributes
    ----------
    strategy : str
        Which.
    tally : Tally
        Its candidates, added up: those of the plan, once they are judged.
    kept, rejected : tuple of Shown
        Some of them, highest score first; candidates that are not judged yet count as kept.
    filter : mapping or None
        What ``filter/STRATEGY.json`` holds.
    journal : mapping
        What ``build.json`` tells of the strategy.
    beyond : int
        Further candidates, made for settings that were changed since.
    """

    strategy: Strategy
    tally: Tally
    kept: tuple[Shown, ...]
    rejected: tuple[Shown, ...]
    filter: Mapping[str, Any] | None
    journal: Mapping[str, Any]
    beyond: int


@dataclass(frozen=True, slots=True, eq=False)
class RunFacts:
    """A run.

    Attributes
    ----------
    path : Path or UPath
        Where it lies.
    finished : bool
        Whether its build came to an end.
    pipeline : Pipeline
        What it was built from, with `catalog`, the patches.
    summary : mapping
        As of `storage.summary.summarise`: fingerprint, versions, seconds a stage, stores.
    strategies : tuple of StrategyFacts
        Those that have candidates by now.
    """

    path: Location
    finished: bool
    pipeline: Pipeline
    catalog: Catalog
    summary: Mapping[str, Any]
    strategies: tuple[StrategyFacts, ...]


def gather(path: Location) -> RunFacts:
    """Gather what there is of a run, finished or not.

    Raises
    ------
    StoreError
        There is no run at `path`, or what it holds is damaged.
    """
    run = RunDirectory(path)
    pipeline = run.pipeline()
    summary = summarise(path)
    catalog = load_catalog(path, pipeline.taxonomy)
    strategies = (_strategy(run, pipeline, catalog, each, summary) for each in pipeline.strategies)
    found = tuple(each for each in strategies if each)
    return RunFacts(path.absolute(), summary["finished"], pipeline, catalog, summary, found)


def _strategy(
    run: RunDirectory, pipeline: Pipeline, catalog: Catalog, strategy: Strategy, summary: Mapping[str, Any]
) -> StrategyFacts | None:
    store = CompositeStore.find(run.candidates, strategy)
    if store is None or not store.has("image"):  # the arrays are just being made
        return None
    journal = summary["strategies"].get(strategy, {})
    planned = journal.get("candidates") if store.has("verdict") else None
    tallied = tally(store, len(pipeline.classes), catalog.donors, planned)
    galleries = [
        tuple(read_shown(store, strategy, indices, tallied.verdicts, tallied.p_real))
        for indices in (chosen_kept(tallied, GALLERY), chosen_rejected(tallied, GALLERY))
    ]
    report = run.report(strategy)
    return StrategyFacts(
        strategy,
        tallied,
        galleries[0],
        galleries[1],
        load_report(report).fields() if exists(report) else None,
        journal,
        store.length() - len(tallied.stored),
    )
