"""The facts of a data card, read from a curated set and from its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import STRATEGIES
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.curated import CuratedSet
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.storage.filter_report import load_report
from synthpipe.storage.run import RunDirectory


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The part of a data card that comes from the run of a set.

    Attributes
    ----------
    pipeline : Pipeline
        The pipeline that made the set.
    catalog : Catalog
        The source patches.
    catalog_digest : str
        SHA-256 of the source patches' ids, bytes, classes and groups.
    strategies : mapping
        The entry of each strategy in ``build.json``.
    filters : mapping
        The report of each strategy's filter.
    versions : mapping of str to str
        Versions of the packages that made the first composites.
    """

    pipeline: Pipeline
    catalog: Catalog
    catalog_digest: str
    strategies: Mapping[str, Any]
    filters: Mapping[str, Any]
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The facts that a data card states about a set.

    Attributes
    ----------
    taxonomy : Taxonomy
        Class names and colours.
    size : tuple of int
        Height and width of the samples, in pixels.
    fingerprint : str
        The fingerprint of the pipeline.
    digest : str
        The digest of the set.
    layout : str
        The layout of the source patches, as in ``patches.layout``.
    counts : mapping of str to (int, mapping of str to int)
        For each strategy, the number of samples, and the number of samples that show each class. ``real`` stands for
        patches with predicted masks.
    checkpoint : str or None
        SHA-256 of the network that predicted the masks, or None for composites.
    run : RunSummary or None
        The run of the set, or None if the set is not the curated set of a finished run.
    """

    taxonomy: Taxonomy
    size: tuple[int, int]
    fingerprint: str
    digest: str
    layout: str
    counts: Mapping[str, tuple[int, Mapping[str, int]]]
    checkpoint: str | None
    run: RunSummary | None

    @property
    def synthetic(self) -> bool:
        """Whether the samples are composites, not real patches with predicted masks."""
        return set(self.counts) != {"real"}

    @property
    def name(self) -> str:
        return self.run.pipeline.name if self.run else "synthpipe"

    @property
    def license(self) -> str | None:
        return self.run.pipeline.license if self.run else None

    @property
    def composites(self) -> int:
        """The number of samples."""
        return sum(count for count, _ in self.counts.values())


def card_facts(curated: CuratedSet, run: RunDirectory | None, journal: Mapping[str, Any] | None = None) -> CardFacts:
    """Read the facts of a curated set's data card.

    Parameters
    ----------
    curated : CuratedSet
        The set.
    run : RunDirectory or None
        The run that made the set, if there is one.
    journal : mapping, optional
        The content of ``build.json`` if the file is not written yet.

    Raises
    ------
    StoreError
        A file of the run is missing or damaged.
    """
    description = curated.description
    counts = {}
    for code, strategy in (*enumerate(STRATEGIES), (LOST, "real")):
        labels = curated.labels[curated.strategies == code]
        if len(labels):
            shown = dict(zip(description.taxonomy.names, labels.sum(axis=0, dtype=int).tolist(), strict=True))
            counts[strategy] = (len(labels), shown)
    return CardFacts(
        taxonomy=description.taxonomy,
        size=description.size,
        fingerprint=description.fingerprint,
        digest=curated.digest,
        layout=description.patches.layout,
        counts=counts,
        checkpoint=curated.source.get("checkpoint"),
        run=_run_summary(run, journal) if run else None,
    )


def finished_run_of(curated: CuratedSet) -> RunDirectory | None:
    """Return the finished run that made this curated set, or None if there is no such run."""
    run = RunDirectory(curated.path.parent)
    if run.curated != curated.path or not run.exists() or not run.journal().get("finished"):
        return None
    return run if run.read()["fingerprint"] == curated.fingerprint else None


def _run_summary(run: RunDirectory, journal: Mapping[str, Any] | None) -> RunSummary:
    data, pipeline = run.read(), run.pipeline()
    reports = {each: run.report(each) for each in pipeline.strategies if pipeline.filter.enabled}
    return RunSummary(
        pipeline=pipeline,
        catalog=load_catalog(run.path, pipeline.taxonomy),
        catalog_digest=data["catalog_digest"],
        strategies=(journal or run.journal())["strategies"],
        filters={strategy: load_report(path).fields() for strategy, path in reports.items()},
        versions=data["versions"],
    )
