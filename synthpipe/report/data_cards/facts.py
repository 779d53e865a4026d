"""What a data card tells of a curated set, gathered from the set and from the run that it lies in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthpipe.core.records import STRATEGIES
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.curated import CuratedSet
from synthpipe.patches.catalog import load_catalog
from synthpipe.storage.filter_report import load_report
from synthpipe.storage.run import RunDirectory


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What only the run of a set knows.

    Attributes
    ----------
    name : str
        The pipeline's.
    license : str or None
        As the pipeline file gives it.
    catalog_digest : str
        SHA-256 of the source patches' ids, bytes, classes and groups.
    label_sets : mapping of str to int
        Patches by what they show, as ``tumour+stroma``.
    slides : int
        Slides or patients of the patches.
    left_out : int
        Patches with problems.
    strategies : mapping
        What ``build.json`` says of every strategy.
    filters : mapping
        The reports of the filters, by strategy.
    ranked : bool
        Whether the candidates with the highest scores are kept.
    threshold : float
        The filter accepts scores above it.
    versions : mapping of str to str
        Of the packages that the first composites were made with.
    """

    name: str
    license: str | None
    catalog_digest: str
    label_sets: Mapping[str, int]
    slides: int
    left_out: int
    strategies: Mapping[str, Any]
    filters: Mapping[str, Any]
    ranked: bool
    threshold: float
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells of a set.

    Attributes
    ----------
    taxonomy : Taxonomy
        Class names and colours.
    size : tuple of int
        Height and width of the samples.
    fingerprint, digest : str
        Of the pipeline, and of the set.
    layout : str
        Of the source patches.
    counts : mapping of str to (int, mapping of str to int)
        By strategy (``real`` is patches with predicted masks), the samples and how many of them show each class.
    checkpoint : str or None
        SHA-256 of the network that predicted masks; None for composites.
    run : RunSummary or None
        None where the set lies in no run of its own.
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
        """Whether these are composites, not real patches with predicted masks."""
        return set(self.counts) != {"real"}

    @property
    def name(self) -> str:
        return self.run.name if self.run else "synthpipe"

    @property
    def license(self) -> str | None:
        return self.run.license if self.run else None

    @property
    def composites(self) -> int:
        """The number of samples."""
        return sum(count for count, _ in self.counts.values())


def card_facts(curated: CuratedSet, run: RunDirectory | None, journal: Mapping[str, Any] | None = None) -> CardFacts:
    """Gather what is known of a curated set.

    Parameters
    ----------
    curated : CuratedSet
        The set.
    run : RunDirectory or None
        The run that made it.
    journal : mapping, optional
        What ``build.json`` will hold, where it is not written yet.

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
        run=run_summary(run, journal) if run else None,
    )


def finished_run_of(curated: CuratedSet) -> RunDirectory | None:
    """Return the finished run that a set is the curated set of, if it lies in one."""
    run = RunDirectory(curated.path.parent)
    if run.curated != curated.path or not run.exists() or not run.journal().get("finished"):
        return None
    return run if run.read()["fingerprint"] == curated.fingerprint else None


def run_summary(run: RunDirectory, journal: Mapping[str, Any] | None) -> RunSummary:
    data, pipeline = run.read(), run.pipeline()
    catalog = load_catalog(run.path, pipeline.taxonomy)
    label_sets = {pipeline.taxonomy.label(classes): count for classes, count in sorted(catalog.counts().items())}
    reports = {each: run.report(each) for each in pipeline.strategies if pipeline.filter.enabled}
    return RunSummary(
        name=pipeline.name,
        license=pipeline.license,
        catalog_digest=data["catalog_digest"],
        label_sets=label_sets,
        slides=len(catalog.groups),
        left_out=len(catalog.problems),
        strategies=(journal or run.journal())["strategies"],
        filters={strategy: load_report(path).fields() for strategy, path in reports.items()},
        ranked=pipeline.ranked,
        threshold=pipeline.curation.threshold,
        versions=data["versions"],
    )
