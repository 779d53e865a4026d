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
from synthpipe.storage.schema import (
    CURATED_ARRAYS,
    FORMAT_VERSION,
    array,
    complete_in_all,
    create_group,
    ensure_arrays,
    open_group,
    taxonomy_attributes,
)
from synthpipe.storage.shards import shard_size, shards_of, write_shard

PSEUDO_LABELLED = Kind("Zarr store", ("zarr.json",))
"""Kind of the folder of such a set."""


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
    if is_marked(path, PSEUDO_LABELLED) and (changes := list(differences(dict(open_group(path).attrs), attributes))):
        raise StaleRunError(
            "\n  ".join(
                [
                    f"{path}: was begun with something else; write to another store, or undo:",
                    *changes,
                ]
            )
        )
    group = create_group(path, "", attributes)
    height, width = description.size
    classes = len(description.taxonomy)
    sizes = {"sample": len(patches), "y": height, "x": width, "channel": 3, "class": classes, "donor_use": 1}
    ensure_arrays(group, CURATED_ARRAYS, sizes, store)
    written = complete_in_all(group, CURATED_ARRAYS)
    return {
        shard: range(shard * store.shard, min((shard + 1) * store.shard, len(patches)))
        for shard in shards_of(len(patches), store.shard)
        if shard not in written
    }


def write_pseudo_labelled(path: Location, shard: int, patches: Sequence[PatchRef], images: Image, masks: Mask) -> None:
    """Write one shard of a set that `begin_pseudo_labelled` began.

    `patches` are those of the shard, `images` (n, H, W, 3) their pixels, and `masks` (n, H, W) the predicted masks.
    """
    group = open_group(path, writable=True)
    groups: list[str] = group.attrs["groups"]  # type: ignore[assignment]
    numbers = {name: number for number, name in enumerate(groups)}
    classes = array(group, "labels").shape[1]
    values: dict[str, Sequence[Any] | NDArray[Any]] = {
        "recipe": [json.dumps({"patch": patch.id, "sha256": patch.sha256}) for patch in patches],
        "labels": np.array([[label in patch.classes for label in range(classes)] for patch in patches], np.uint8),
        "donor_groups": np.array([[numbers[patch.group]] for patch in patches], np.int32),
        "mask": masks,
        "image": images,
    }
    for name, spec in CURATED_ARRAYS.items():
        target = array(group, name)
        dtype = "O" if spec.dtype == "str" else spec.dtype
        whole = np.full((shard_size(target), *target.shape[1:]), spec.fill_value, dtype)
        if name in values:
            whole[: len(patches)] = values[name]
        write_shard(target, shard, whole)
