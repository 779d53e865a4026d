"""Check before a build that the pipeline can be built from the patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import CatalogError, FilterError
from synthpipe.core.records import PatchRef
from synthpipe.filtering.split import split_groups
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.remarks import catalog_remarks

_NARROW = 4


def check_patches(pipeline: Pipeline, catalog: Catalog) -> dict[str, frozenset[str]]:
    """Raise an error if the pipeline cannot be built from the patches; return the groups of the filter's split by side.

    Raises
    ------
    CatalogError
        Too few classes have single-class patches.
    FilterError
        The filter has no mixed patches to learn from, or its split leaves a side without donors.
    """
    _check_donors(pipeline, {patch.classes[0] for patch in catalog.donors})
    if not pipeline.filter.enabled:
        return {}
    train_groups, validation_groups = split_groups(catalog.patches, pipeline.filter.train_share, pipeline.seed)
    split = {"train": train_groups, "validation": validation_groups}
    for side, groups in split.items():
        if not any(patch.group in groups for patch in catalog.mixed):
            raise FilterError(
                f"the {side} side of the filter's split has no mixed-class patches; add slides that show several "
                "classes, change patches.group_pattern or filter.train_share, or set filter.enabled: false"
            )
        labels = {patch.classes[0] for patch in catalog.donors if patch.group in groups}
        if not labels or not _has_pair(pipeline, labels):
            raise FilterError(
                f"the {side} side of the filter's split has single-class patches of only "
                f"{pipeline.taxonomy.label(labels) or 'no class'}; add slides, change patches.group_pattern or "
                "filter.train_share, or set filter.enabled: false"
            )
    return split


def split_json(split: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    """Return the content of ``split.json``."""
    return {side: sorted(groups) for side, groups in split.items()}


def remarks(pipeline: Pipeline, catalog: Catalog) -> Iterator[str]:
    """Yield remarks on patches and settings that are valid but may surprise the user."""
    yield from catalog_remarks(catalog, pipeline.taxonomy, pipeline.patches.layout)
    labels = {patch.classes[0] for patch in catalog.donors}
    names = pipeline.taxonomy.names
    if pipeline.bezier:
        pairs = [pair for pair in pipeline.class_pairs if not set(pair) <= labels]
        if pairs:
            left_out = ", ".join(f"{names[back]}/{names[front]}" for back, front in pairs)
            yield f"bezier.pairs without donors, left out: {left_out}"
    if narrow := [patch for patch in catalog.donors if max(_sides(patch)) > _NARROW * min(_sides(patch))]:
        yield (
            f"{len(narrow)} donors are over {_NARROW} times as long as wide (the first: {narrow[0].id!r}): they are "
            "stretched to the canvas; cut them, or leave them out with patches.exclude"
        )
    if pipeline.filter.enabled and len(catalog.groups) == len(catalog.patches):
        yield (
            "every patch counts as a slide of its own; set patches.group_pattern, or a column group, so that the "
            "filter's split keeps slides together"
        )


def _sides(patch: PatchRef) -> tuple[int, int]:
    return patch.height, patch.width


def _check_donors(pipeline: Pipeline, labels: set[int]) -> None:
    found = pipeline.taxonomy.label(labels)
    if not labels:
        raise CatalogError("no patch has exactly one class, so no patch can donate pixels; add single-class patches")
    if pipeline.mosaic and len(labels) < pipeline.curation.min_classes:
        raise CatalogError(
            f"single-class patches show only {found}, but curation.min_classes is {pipeline.curation.min_classes}; "
            "add single-class patches of other classes or lower it"
        )
    if not _has_pair(pipeline, labels):
        raise CatalogError(
            f"no pair of bezier.pairs has single-class patches of both its classes; there are patches of: {found}; "
            "add others, change bezier.pairs, or set bezier: null"
        )


def _has_pair(pipeline: Pipeline, labels: set[int]) -> bool:
    """Return True if these classes contain a Bezier pair, or if the pipeline makes no Bezier composites."""
    return not pipeline.bezier or any(set(pair) <= labels for pair in pipeline.class_pairs)
