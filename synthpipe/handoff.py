"""The curated set as a contract: what training, reports and exports open, and all they need to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthpipe.errors import StoreError
from synthpipe.records import STRATEGIES, Image, Mask, Strategy
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import array, is_complete, open_group
from synthpipe.storage.shards import read_range
from synthpipe.taxonomy import Taxonomy, TissueClass


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


class CuratedSet:
    """A curated set of composites, to be read in any order.

    Opens files when samples are first read, and can be pickled: give it to as many processes as you like.

    Parameters
    ----------
    path : path
        ``curated.zarr`` of a finished run.

    Attributes
    ----------
    path : Path
        Where it lies.
    taxonomy : Taxonomy
        Class names and colours, in the order of mask values; `taxonomy.background` is to be ignored by losses.
    fingerprint : str
        Of the pipeline that made it.
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

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        group = open_group(self.path)
        if "donor_groups" not in group or "fingerprint" not in group.attrs:
            raise StoreError(f"{self.path}: is no curated set; expected curated.zarr of a run")
        if not is_complete(group):
            raise StoreError(f"{self.path}: is not complete; finish it with the `synthpipe build` that began it")
        attributes = dict(group.attrs)
        classes: list[dict[str, list[int]]] = attributes["classes"]  # type: ignore[assignment]
        self.taxonomy = Taxonomy(
            tuple(TissueClass(str(each["name"]), _rgb(each["color"])) for each in classes),
            _rgb(attributes["background_color"]),  # type: ignore[arg-type]
        )
        self.fingerprint = str(attributes["fingerprint"])
        self.groups: tuple[str, ...] = tuple(attributes["groups"])  # type: ignore[arg-type]
        count = array(group, "image").shape[0]
        self.labels: NDArray[np.uint8] = read_range(array(group, "labels"), 0, count)
        self.p_real: NDArray[np.float32] = read_range(array(group, "p_real"), 0, count)
        self.donor_groups: NDArray[np.int32] = read_range(array(group, "donor_groups"), 0, count)
        self._strategies: NDArray[np.uint8] = read_range(array(group, "origin_strategy"), 0, count)
        self._origins: NDArray[np.int64] = read_range(array(group, "origin_index"), 0, count)
        self._images = SampleReader(array(group, "image"))
        self._masks = SampleReader(array(group, "mask"))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the composites."""
        return self._images.shape[1], self._images.shape[2]

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

    def origin(self, index: int) -> tuple[Strategy, int]:
        """Return the strategy of a composite, and its index among the strategy's candidates."""
        return STRATEGIES[self._strategies[index]], int(self._origins[index])


def _rgb(values: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue
