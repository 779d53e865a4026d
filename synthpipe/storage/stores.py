"""Define the two kinds of store: the composites of one strategy, and a curated set."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from synthpipe.config.pipeline import PatchesSection, Pipeline, StoreSection
from synthpipe.core.records import Strategy
from synthpipe.files.locations import Location
from synthpipe.storage import schema
from synthpipe.storage.chunks import Samples
from synthpipe.storage.donor_groups import bytes_of_step
from synthpipe.storage.schema import CURATED_ARRAYS, FORMAT_VERSION, SCORE_ARRAYS, VERDICT_ARRAYS
from synthpipe.storage.shard_writing import holds, write_shard
from synthpipe.storage.store import Chosen, Store


class CompositeStore(Store):
    """The composites of one strategy: its candidates, or those that train its filter."""

    @classmethod
    def create(
        cls, path: Location | None, pipeline: Pipeline, strategy: Strategy, purpose: str, count: int, donor_uses: int
    ) -> CompositeStore:
        """Create the group of a strategy's composites, or lengthen it to `count` composites.

        Parameters
        ----------
        path : Path or UPath or None
            The Zarr store, which holds composites of one purpose. None creates only metadata, in memory, for
            comparisons. Only candidates can be virtual.
        pipeline, strategy, purpose
            The pipeline, strategy and purpose of the composites.
        count : int
            The number of composites. A group that is already longer keeps its length.
        donor_uses : int
            The number of donors per composite. A donor that is used twice counts twice.
        """
        target = MemoryStore() if path is None else path
        schema.create_group(target, "", {"format_version": FORMAT_VERSION, "pipeline": pipeline.name})
        attributes = {
            "format_version": FORMAT_VERSION,
            "strategy": strategy,
            "purpose": purpose,
            "pipeline": pipeline.name,
            **_left_out(composite_settings(pipeline, purpose)),
            **schema.taxonomy_attributes(pipeline.taxonomy),
        }
        store = cls(schema.create_group(target, strategy, attributes))
        store._extend(store.written, _sizes(pipeline, count, donor_uses), pipeline.store)
        return store

    def extend_scores(self, pipeline: Pipeline, count: int, model_sha256: str) -> None:
        """Create or lengthen the array of scores. `model_sha256` is the digest of the filter that gives the scores."""
        sizes, model = _sizes(pipeline, count), {"model_sha256": model_sha256}
        self._extend(SCORE_ARRAYS, sizes, pipeline.store, p_real=model)

    def extend_verdicts(self, pipeline: Pipeline, count: int) -> None:
        """Create or lengthen the array of verdicts."""
        self._extend(VERDICT_ARRAYS, _sizes(pipeline, count), pipeline.store)

    def scored_by(self) -> str | None:
        """Return the digest of the filter that gave the scores, or None if there are no scores."""
        return str(self._array("p_real").attrs["model_sha256"]) if self.has("p_real") else None

    def write_scores(self, shard: int, scores: NDArray[np.float32]) -> None:
        """Store the scores of a shard."""
        write_shard(self._array("p_real"), shard, scores)

    def write_verdicts(self, shard: int, verdicts: NDArray[np.uint8]) -> None:
        """Store the verdicts of a shard."""
        write_shard(self._array("verdict"), shard, verdicts)

    def holds_verdicts(self, shard: int, verdicts: NDArray[np.uint8]) -> bool:
        """Return whether exactly these verdicts are stored in a shard."""
        return holds(self._array("verdict"), shard, verdicts)

    def verdicts(self, chosen: Chosen) -> NDArray[np.uint8]:
        """Return verdicts, (N,) uint8: indices in `records.REASONS`, or ``LOST``."""
        return self.read("verdict", chosen)

    def class_pixels(self, chosen: Chosen) -> NDArray[np.int32]:
        """Return the number of pixels of each class, then of the background, (N, C + 1) int32."""
        return self.read("class_pixels", chosen)

    def donors(self, chosen: Chosen) -> NDArray[np.int32]:
        """Return the donors of composites as indices in the donor bank, (N, U) int32; -1 for none."""
        return self.read("donors", chosen)


class CuratedStore(Store):
    """A curated set: composites, or real patches with predicted masks."""

    arrays = CURATED_ARRAYS

    @classmethod
    def create(
        cls, path: Location | None, attributes: Mapping[str, Any], sizes: Mapping[str, int], store: StoreSection
    ) -> CuratedStore:
        """Create a curated set, or lengthen it.

        Parameters
        ----------
        path : Path or UPath or None
            The Zarr store, which has only this set. None creates a group in memory, to compare metadata.
        attributes : mapping
            The attributes of the set besides ``format_version``.
        sizes : mapping of str to int
            The length of every dimension: ``sample``, ``y``, ``x``, ``channel``, ``class``, ``donor_use``.
        store : StoreSection
            The number of composites per shard, and the codecs.
        """
        target = MemoryStore() if path is None else path
        found = cls(schema.create_group(target, "", {"format_version": FORMAT_VERSION, **attributes}))
        found._extend(found.written, sizes, store)
        return found

    @classmethod
    def of_run(
        cls,
        path: Location | None,
        pipeline: Pipeline,
        groups: Collection[str],
        digest: str,
        count: int,
        uses: int,
        sampler_version: int,
    ) -> CuratedStore:
        """Create the curated set of a pipeline, or lengthen it to `count` composites.

        Parameters
        ----------
        path : Path or UPath or None
            As for `create`.
        pipeline : Pipeline
            The pipeline of the composites.
        groups : collection of str
            The slides or patients of the donors, sorted.
        digest : str
            SHA-256 of the patches.
        count : int
            The number of composites.
        uses : int
            The largest number of donors of one composite.
        sampler_version : int
            The version of sampling and rendering that made the composites; a virtual set records it.
        """
        virtual = {
            "sampler_version": sampler_version,
            "settings": pipeline.settings("candidates"),
            "curation": pipeline.curation.model_dump(mode="json", include=_RULES),
        }
        attributes = {
            "pipeline": pipeline.name,
            "fingerprint": pipeline.fingerprint(),
            **schema.taxonomy_attributes(pipeline.taxonomy),
            "groups": list(groups),
            "patches": _patches(pipeline.patches),
            "glass": pipeline.glass.model_dump(mode="json") if pipeline.glass else None,
            "source": {"patches": digest},
            **_left_out(pipeline.store),
            **(virtual if pipeline.virtual else {}),
        }
        sizes = {**_sizes(pipeline, count, uses), "byte": bytes_of_step(len(groups))}
        return cls.create(path, attributes, sizes, pipeline.store)

    def stored_attributes(self) -> dict[str, Any]:
        """Return the attributes that this set would have with stored pixels."""
        return {key: value for key, value in self.attributes.items() if key not in _VIRTUAL}

    def create_stored(self, path: Location, pipeline: Pipeline) -> CuratedStore:
        """Create or lengthen a copy of this virtual set that stores pixels. `pipeline` made the composites."""
        attributes = self.stored_attributes()
        _, uses = self.sizes("group_steps")
        return CuratedStore.create(path, attributes, _sizes(pipeline, self.length(), uses), pipeline.store)

    def forget_rules(self) -> None:
        """Remove the rules of curation from the attributes; earlier versions did not write them."""
        self._group.attrs.put({key: value for key, value in self.attributes.items() if key != "curation"})

    def write(self, name: str, shard: int, samples: Samples) -> None:
        """Store a shard of one array."""
        write_shard(self._array(name), shard, samples)

    def discard(self, shard: int) -> None:
        """Make a shard count as missing: remove the object that is written last."""
        self.object(self.last, shard).unlink()


_VIRTUAL = {"pixels", "sampler_version", "settings", "curation"}
"""Attributes that only virtual sets have."""

_RULES = {"rule", "threshold", "min_classes", "min_class_share"}
"""Keys of ``curation`` that judge a composite by itself; fresh composites follow them too."""


def composite_settings(pipeline: Pipeline, purpose: str) -> StoreSection:
    """Return the store settings of a purpose. Composites that train the filter are never virtual."""
    return (pipeline if purpose == "candidate" else pipeline.with_store(pixels="stored", recipes=True)).store


def _left_out(store: StoreSection) -> dict[str, Any]:
    """Return the attributes that record whether a group leaves out pixels or recipes."""
    return store.model_dump(mode="json", include={"pixels", "recipes"})


def _patches(patches: PatchesSection) -> dict[str, Any]:
    """Return the settings for reading patches, JSON-ready.

    ``min_side`` is included only if it is set, because older sets do not have it.
    """
    found = patches.model_dump(mode="json", exclude={"root", "max_pixels"})
    if patches.min_side is None:
        del found["min_side"]
    return found


def _sizes(pipeline: Pipeline, count: int, donor_uses: int = 0) -> dict[str, int]:
    """Return the length of each array dimension for `count` composites."""
    classes = len(pipeline.classes)
    height, width = pipeline.canvas
    return {
        "sample": count,
        "y": height,
        "x": width,
        "channel": 3,
        "class": classes,
        "class_or_background": classes + 1,
        "donor_use": donor_uses,
    }
