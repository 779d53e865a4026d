"""Write real patches with predicted masks as a curated set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.config.fields import differences
from synthpipe.config.pipeline import StoreSection
from synthpipe.core.errors import StaleRunError
from synthpipe.core.records import Image, Mask, PatchRef
from synthpipe.curated.description import Description
from synthpipe.files.folders import Kind, claim, is_marked
from synthpipe.files.locations import Location
from synthpipe.storage.schema import FORMAT_VERSION, taxonomy_attributes
from synthpipe.storage.stores import CuratedStore

PSEUDO_LABELLED = Kind("Zarr store", ("zarr.json",))
"""Kind of a folder that holds such a set."""


def begin_pseudo_labelled(
    path: Location, description: Description, source: Mapping[str, Any], patches: Sequence[PatchRef]
) -> dict[int, range]:
    """Begin or resume a curated set of real patches with predicted masks.

    Parameters
    ----------
    path : path
        The store: new, or begun with the same arguments.
    description : Description
        Description of the samples.
    source : mapping
        Everything else that decides the bytes of the set, JSON-ready.
    patches : sequence of PatchRef
        The patches, in the order of the set.

    Returns
    -------
    dict of int to range
        The shards that are not written yet, with the indices of their patches.

    Raises
    ------
    StaleRunError
        The store was begun with other arguments; the message lists the differences.
    StoreError
        `path` holds something else.
    """
    store = StoreSection()
    attributes = {
        "format_version": FORMAT_VERSION,
        **description.to_json(),
        **taxonomy_attributes(description.taxonomy),
        "groups": sorted({patch.group for patch in patches}),
        "source": dict(source),
    }
    path = claim(path, PSEUDO_LABELLED)
    if is_marked(path, PSEUDO_LABELLED) and (
        changes := list(differences(CuratedStore.open(path).attributes, attributes))
    ):
        raise StaleRunError(
            "\n  ".join(
                [
                    f"{path}: was begun with other arguments; write to another store, or undo these changes:",
                    *changes,
                ]
            )
        )
    height, width = description.size
    classes = len(description.taxonomy)
    sizes = {"sample": len(patches), "y": height, "x": width, "channel": 3, "class": classes, "donor_use": 1}
    missing = CuratedStore.create(path, attributes, sizes, store).missing_shards(len(patches))
    return {shard: range(shard * store.shard, min((shard + 1) * store.shard, len(patches))) for shard in missing}


def write_pseudo_labelled(path: Location, shard: int, patches: Sequence[PatchRef], images: Image, masks: Mask) -> None:
    """Write one shard of a set that `begin_pseudo_labelled` began.

    `patches` are those of the shard, `images` (n, H, W, 3) their pixels, and `masks` (n, H, W) the predicted masks.
    """
    store = CuratedStore.open(path, writable=True)
    numbers = {name: number for number, name in enumerate(store.attributes["groups"])}
    classes = len(store.taxonomy)
    values: dict[str, Sequence[Any] | NDArray[Any]] = {
        "recipe": [json.dumps({"patch": patch.id, "sha256": patch.sha256}) for patch in patches],
        "labels": np.array([[label in patch.classes for label in range(classes)] for patch in patches], np.uint8),
        "donor_groups": np.array([[numbers[patch.group]] for patch in patches], np.int32),
        "mask": masks,
        "image": images,
    }
    for name in store.written:
        whole = store.blank(name, store.shard)
        if name in values:
            whole[: len(patches)] = values[name]
        store.write(name, shard, whole)
