"""Check that fresh composites can be made like those of a curated set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from synthpipe.config.pipeline import CurationSection
from synthpipe.core.errors import ConfigError, explain
from synthpipe.core.spacing import evenly_spaced
from synthpipe.core.taxonomy import LOST
from synthpipe.curated.pixels import Pixels
from synthpipe.curated.rendered import RenderedPixels, Renderer
from synthpipe.storage.nodes import METADATA, damaged
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CuratedStore

if TYPE_CHECKING:
    from synthpipe.curated.curated_set import CuratedSet

_CHECKED = 8  # samples that are rendered to check their labels


def renderer_of(curated: CuratedSet, pixels: Pixels) -> Renderer:
    """Return the renderer of a virtual set; `pixels` are those of the whole set.

    Raises
    ------
    ConfigError
        The set is not virtual, is empty, or was edited.
    StoreError
        The donors of the set are damaged.
    """
    if (curated.strategies == LOST).any():
        raise _refused(
            curated,
            "its samples are real patches with predicted masks, expected composites; use the set without fresh "
            "composites",
        )
    if not isinstance(pixels, RenderedPixels):
        raise _refused(
            curated,
            "its pixels are stored, so it has no donors to render others from; build with store.pixels: virtual, and "
            "use the curated set of that run instead of a copy by `synthpipe materialize`",
        )
    if not len(curated):
        raise _refused(curated, "it has no samples, expected at least one; choose a larger part of the set")
    renderer = pixels.renderer
    if renderer.pipeline.taxonomy.names != curated.taxonomy.names:
        expected = ", ".join(renderer.pipeline.taxonomy.names)
        raise _edited(curated, f"its classes are {', '.join(curated.taxonomy.names)}, but its settings have {expected}")
    for number in evenly_spaced(len(curated), _CHECKED).tolist():
        shown = np.isin(np.arange(len(curated.taxonomy)), curated[number].mask)
        if not np.array_equal(shown, curated.labels[number] > 0):
            stored, found = (_names(curated, row) for row in (curated.labels[number] > 0, shown))
            raise _edited(curated, f"the labels of sample {number} name {stored}, but its mask shows {found}")
    return renderer


def rules_of(curated: CuratedSet) -> CurationSection:
    """Return the rules by which the build of a virtual set kept composites.

    Sets of earlier versions do not have them, so they are read from the run that the set is in.

    Raises
    ------
    ConfigError
        Neither the set nor its run has the rules.
    StoreError
        The rules are damaged.
    """
    stored = CuratedStore.open(curated.path).attributes.get("curation")
    if stored is not None:
        try:
            return CurationSection.model_validate(stored)
        except ValidationError as error:
            raise damaged(curated.path / METADATA, f"attributes.curation.{explain(error)}") from error
    run = RunDirectory(curated.path.parent)
    if run.exists() and run.read()["fingerprint"] == curated.fingerprint:
        return run.pipeline().curation
    raise _refused(
        curated,
        "an earlier version wrote it without the rules of curation, and it is not in its run, which has them; use the "
        "curated set in its run, or build the run again",
    )


def _edited(curated: CuratedSet, found: str) -> ConfigError:
    return _refused(curated, f"it was edited: {found}; use the set as the build wrote it")


def _refused(curated: CuratedSet, why: str) -> ConfigError:
    return ConfigError(f"{curated.path}: fresh composites cannot be made like those of this set: {why}")


def _names(curated: CuratedSet, present: np.ndarray) -> str:
    names = [name for name, occurs in zip(curated.taxonomy.names, present, strict=True) if occurs]
    return ", ".join(names) or "no class"
