"""The curated set as a contract: what training, reports and exports open, and all they need to know of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.config import GlassSection, PatchesSection, StoreSection, differences
from synthpipe.errors import StaleRunError, StoreError
from synthpipe.files import Location, located
from synthpipe.records import STRATEGIES, Image, Mask, PatchRef, Strategy
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import (
    CURATED_ARRAYS,
    FORMAT_VERSION,
    array,
    complete_in_all,
    create_group,
    ensure_arrays,
    is_complete,
    open_group,
    taxonomy_attributes,
)
from synthpipe.storage.shards import read_range, shard_size, shards_of, write_shard
from synthpipe.taxonomy import LOST, Taxonomy

_ATTRIBUTES = {"classes", "background_color", "fingerprint", "patches", "glass", "groups", "source"}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One composite of a curated set.

    Attributes
    ----------
    image : (H, W, 3) uint8
        RGB.
    mask : (H, W) uint8
        Class indices, or the background index.
    labels : (C,) uint8
        1 where a class occurs.
    """

    image: Image
    mask: Mask
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Description:
    """What a set's samples are: what training, and whoever uses the trained network, must know besides pixels.

    Attributes
    ----------
    taxonomy : Taxonomy
        Class names and colours, in the order of mask values; `taxonomy.background` is to be ignored by losses.
    size : tuple of int
        Height and width of the samples.
    fingerprint : str
        Of the pipeline that made the composites.
    patches : PatchesSection
        How the patches of the data set are laid out; `root` is ``.``, since a data set may move.
    glass : GlassSection or None
        What counts as white background in the data set.
    """

    taxonomy: Taxonomy
    size: tuple[int, int]
    fingerprint: str
    patches: PatchesSection
    glass: GlassSection | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it, JSON-ready."""
        return {
            **self.taxonomy.to_json(),
            "size": list(self.size),
            "fingerprint": self.fingerprint,
            "patches": self.patches.model_dump(mode="json", exclude={"root"}),
            "glass": self.glass.model_dump(mode="json") if self.glass else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Description:
        """Read back what `to_json` returned, whatever keys there are besides."""
        height, width = data["size"]
        glass = None if data["glass"] is None else GlassSection(**data["glass"])
        patches = PatchesSection(root=".", **data["patches"])
        return cls(Taxonomy.from_json(data), (height, width), str(data["fingerprint"]), patches, glass)


class CuratedSet:
    """A curated set of composites, or of real patches with predicted masks, to be read in any order.

    Opens files when samples are first read, and can be pickled: give it to as many processes as you like.

    Parameters
    ----------
    path : path or URL
        ``curated.zarr`` of a finished run, or the store of `synthpipe pseudo-label`.

    Attributes
    ----------
    path : Path or UPath
        Where it lies.
    description : Description
        What its samples are; `taxonomy`, `size` and `fingerprint` are found here too.
    labels : (N, C) uint8
        1 where a class occurs.
    p_real : (N,) float32
        The filter's probability that a composite is a real patch; NaN where no filter was asked.
    donor_groups : (N, D) int32
        Places in `groups` of the slides or patients that each composite's donors come from, then -1.
    groups : tuple of str
        The slides or patients.

    Raises
    ------
    StoreError
        There is no curated set at `path`, or it is not complete.
    """

    def __init__(self, path: str | Location) -> None:
        self.path = located(path)
        group = open_group(self.path)
        attributes: dict[str, Any] = dict(group.attrs)
        if "donor_groups" not in group or not attributes.keys() >= _ATTRIBUTES:
            raise StoreError(f"{self.path}: is no curated set; expected curated.zarr of a run")
        if not is_complete(group):
            raise StoreError(f"{self.path}: is not complete; give the command that began it again, to finish it")
        shape = array(group, "image").shape
        self.description = Description.from_json({**attributes, "size": shape[1:3]})
        self.groups: tuple[str, ...] = tuple(attributes["groups"])
        self._source: dict[str, str] = attributes["source"]
        count = shape[0]
        self.labels: NDArray[np.uint8] = read_range(array(group, "labels"), 0, count)
        self.p_real: NDArray[np.float32] = read_range(array(group, "p_real"), 0, count)
        self.donor_groups: NDArray[np.int32] = read_range(array(group, "donor_groups"), 0, count)
        self._strategies: NDArray[np.uint8] = read_range(array(group, "origin_strategy"), 0, count)
        self._origins: NDArray[np.int64] = read_range(array(group, "origin_index"), 0, count)
        self._images = SampleReader(array(group, "image"))
        self._masks = SampleReader(array(group, "mask"))

    @property
    def taxonomy(self) -> Taxonomy:
        return self.description.taxonomy

    @property
    def size(self) -> tuple[int, int]:
        return self.description.size

    @property
    def fingerprint(self) -> str:
        return self.description.fingerprint

    @property
    def digest(self) -> str:
        """SHA-256 of what the samples follow from: fingerprint, digests of patches and checkpoint, origins, scores.

        Pixels are not read.
        """
        known = hashlib.sha256(json.dumps([self.fingerprint, self._source, self.groups], sort_keys=True).encode())
        for values in (self._strategies, self._origins, self.p_real, self.labels, self.donor_groups):
            known.update(np.ascontiguousarray(values).tobytes())
        return known.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self._images[index], self._masks[index], self.labels[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def read(
        self, indices: Sequence[int], images: Image | None = None, masks: Mask | None = None
    ) -> tuple[Image, Mask]:
        """Return images (n, H, W, 3) and masks (n, H, W) of several composites, in the order asked for.

        They are read into `images` and `masks` where these are given: C-contiguous, and nothing is copied.
        """
        return self._images.read_many(indices, images), self._masks.read_many(indices, masks)

    def origin(self, index: int) -> tuple[Strategy, int] | None:
        """Return the strategy of a composite, and its index among the strategy's candidates; None for a real patch."""
        code = int(self._strategies[index])
        return None if code == LOST else (STRATEGIES[code], int(self._origins[index]))


def begin_pseudo_labelled(
    path: Location, description: Description, source: Mapping[str, Any], patches: Sequence[PatchRef]
) -> dict[int, range]:
    """Begin a set of real patches with predicted masks in the form of a curated set, or go on with one.

    Parameters
    ----------
    path : path
        The store: new, or begun with the same arguments.
    description : Description
        What its samples will be.
    source : mapping
        What else decides its bytes, JSON-ready.
    patches : sequence of PatchRef
        The patches, in the set's order.

    Returns
    -------
    dict of int to range
        The shards that are not written yet, with the places of their patches.

    Raises
    ------
    StaleRunError
        The store was begun with other arguments; the message says which.
    """
    store = StoreSection()
    attributes = {
        "format_version": FORMAT_VERSION,
        **description.to_json(),
        **taxonomy_attributes(description.taxonomy),
        "groups": sorted({patch.group for patch in patches}),
        "source": dict(source),
    }
    if path.exists() and (changes := list(differences(dict(open_group(path).attrs), attributes))):
        raise StaleRunError(
            "\n  ".join([f"{path}: was begun with something else; write to another store, or undo:", *changes])
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
    """Write one shard of a set that `begin_pseudo_labelled` began: its patches, (n, H, W, 3) and (n, H, W) pixels."""
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
