"""Make reports anonymous: remove the names of patches, slides, patients, folders, hosts and users."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import BezierRecipe, Recipe
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.claims import Problem
from synthpipe.report.composites import GalleryComposite
from synthpipe.report.facts import RunFacts


def without_names(facts: RunFacts) -> RunFacts:
    """Return the facts of a run with numbers instead of names.

    Patches become ``patch 12``, and slides or patients become ``slide 3``. The numbers follow the order of the names.
    Paths and patterns become placeholders such as ``PATCHES``. Remarks that contain a name are left out. Classes,
    pixels, digests and versions stay.
    """
    catalog = facts.catalog
    patches = _numbered("patch", (patch.id for patch in catalog.patches))
    slides = _numbered("slide", catalog.groups)
    renamed = tuple(
        replace(each, id=patches[each.id], path=patches[each.id], group=slides[each.group], secret_url=None)
        for each in catalog.patches
    )

    def name(patch: str) -> str:
        return patches[catalog.by_id(patch).id]

    problems = tuple(
        replace(each, id=f"left-out patch {number}", message=f"left-out patch {number}{_quality_text(each)}")
        for number, each in enumerate(catalog.problems, 1)
    )
    names = {form for name in _names(facts) for form in (name, repr(name)[1:-1])}  # remarks quote names by repr
    remarks = [each for each in facts.summary["remarks"] if not any(part in each for part in names)]
    return replace(
        facts,
        path=Path("RUN"),
        pipeline=_pipeline(facts.pipeline),
        catalog=Catalog(renamed, problems),
        summary={**facts.summary, "remarks": remarks},
        strategies=tuple(
            replace(
                each,
                kept=_gallery(each.kept, name),
                rejected=_gallery(each.rejected, name),
                filter=each.filter and {**each.filter, "network": _network(str(each.filter["network"]))},
            )
            for each in facts.strategies
        ),
    )


def _quality_text(problem: Problem) -> str:
    """Return the part of a message about a dropped donor that has no names. It gives the class and the reasons."""
    return problem.message.removeprefix(f"patch {problem.id!r}") if problem.kind == "poor_donor" else ""


def _numbered(what: str, names: Iterable[str]) -> dict[str, str]:
    """Give names numbers in alphabetical order, such as ``patch 012``. Leading zeros keep this order."""
    ordered = sorted(names)
    digits = len(str(len(ordered)))
    return {name: f"{what} {number:0{digits}}" for number, name in enumerate(ordered, 1)}


def _names(facts: RunFacts) -> Iterator[str]:
    """Yield all paths and their parts, all slides, and the pipeline's name, but no class names."""
    pipeline, catalog = facts.pipeline, facts.catalog
    paths = {str(facts.path), pipeline.patches.root, *(problem.id for problem in catalog.problems)}
    for patch in catalog.patches:
        paths |= {patch.id, patch.path}
    classes = {name for each in pipeline.classes for name in (each.name, *each.aliases)}
    for path in paths:
        yield from {path, *re.split(r"[/\\]", path)} - classes - {""}
    yield from {pipeline.name, *catalog.groups} - classes


def _pipeline(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with placeholders for the names that a user chose."""
    patches = pipeline.patches
    placeholders = {
        "root": "PATCHES",
        "label_pattern": patches.label_pattern and "LABEL_PATTERN",
        "group_pattern": patches.group_pattern and "GROUP_PATTERN",
        "exclude": tuple("EXCLUDED" for _ in patches.exclude),
    }
    filtering = {
        "weights": pipeline.filter.weights and "WEIGHTS",
        "network": _network(pipeline.filter.network),
    }
    return pipeline.model_copy(
        update={
            "name": "anonymous run",
            "license": None,
            "classes": tuple(each.model_copy(update={"aliases": ()}) for each in pipeline.classes),
            "patches": patches.model_copy(update=placeholders),
            "donors": pipeline.donors.model_copy(update={"quality": pipeline.donors.quality and "QUALITY"}),
            "filter": pipeline.filter.model_copy(update=filtering),
        }
    )


def _network(name: str) -> str:
    """Return the name of a network, or a placeholder if the name may contain a folder or a user."""
    return "NETWORK" if re.search(r"[:/\\]", name) else name


def _gallery(gallery: tuple[GalleryComposite, ...], name: Callable[[str], str]) -> tuple[GalleryComposite, ...]:
    return tuple(replace(each, recipe=_recipe(each.recipe, name)) for each in gallery)


def _recipe(recipe: Recipe, name: Callable[[str], str]) -> Recipe:
    if isinstance(recipe, BezierRecipe):
        return replace(recipe, background=name(recipe.background), foreground=name(recipe.foreground))
    first, second, third, fourth = (
        replace(quadrant, tiles=tuple(replace(tile, patch=name(tile.patch)) for tile in quadrant.tiles))
        for quadrant in recipe.quadrants
    )
    return replace(recipe, quadrants=(first, second, third, fourth))
