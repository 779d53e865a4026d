"""Read the facts that a report shows from a run into plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import Strategy
from synthpipe.files.locations import Location
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.report.composites import GalleryComposite, read_gallery
from synthpipe.report.galleries import choose_kept, choose_rejected
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CompositeStore
from synthpipe.storage.summary import summarise
from synthpipe.storage.tallies import Tally, tally_candidates

GALLERY = 24
"""The report of a strategy shows at most this number of kept composites, and about as many rejected ones."""


@dataclass(frozen=True, slots=True, eq=False)
class StrategyFacts:
    """The candidates of a strategy, with their verdicts and filter.

    Attributes
    ----------
    strategy : str
        The strategy's code name.
    tally : Tally
        Counts of the candidates. After the candidates are judged, only the candidates of the plan count.
    kept, rejected : tuple of GalleryComposite
        Examples, highest score first. Candidates without a verdict are shown as kept.
    filter : mapping or None
        The content of ``filter/STRATEGY.json``, or None if there is no trained filter.
    journal : mapping
        The strategy's entry in ``build.json``.
    beyond : int
        The number of stored candidates beyond the plan. They are from a longer plan with earlier settings.
    """

    strategy: Strategy
    tally: Tally
    kept: tuple[GalleryComposite, ...]
    rejected: tuple[GalleryComposite, ...]
    filter: Mapping[str, Any] | None
    journal: Mapping[str, Any]
    beyond: int


@dataclass(frozen=True, slots=True, eq=False)
class RunFacts:
    """All facts that the report of a run shows.

    Attributes
    ----------
    path : Path or UPath
        The run directory, absolute.
    finished : bool
        Whether the build is complete.
    pipeline : Pipeline
        The pipeline that the run was built from.
    catalog : Catalog
        The source patches.
    summary : mapping
        The result of `storage.summary.summarise`: fingerprint, versions, seconds of each stage, stores.
    strategies : tuple of StrategyFacts
        The strategies that have stored candidates.
    """

    path: Location
    finished: bool
    pipeline: Pipeline
    catalog: Catalog
    summary: Mapping[str, Any]
    strategies: tuple[StrategyFacts, ...]


def gather_facts(path: Location) -> RunFacts:
    """Read the facts of a run, finished or not.

    Raises
    ------
    StoreError
        There is no run at `path`, or a file of the run is damaged.
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
    if store is None or not store.has(store.last):  # a build is creating the arrays right now
        return None
    journal = summary["strategies"].get(strategy, {})
    planned = journal.get("candidates") if store.has("verdict") else None
    tallied = tally_candidates(store, len(pipeline.classes), catalog.donors, planned)
    galleries = [
        tuple(read_gallery(store, run.curated, strategy, indices, tallied.verdicts, tallied.p_real))
        for indices in (choose_kept(tallied, GALLERY), choose_rejected(tallied, GALLERY))
    ]
    return StrategyFacts(
        strategy,
        tallied,
        galleries[0],
        galleries[1],
        summary["filters"].get(strategy),
        journal,
        store.length() - len(tallied.stored),
    )
