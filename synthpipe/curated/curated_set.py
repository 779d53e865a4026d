"""Open a curated set and read its samples in any order, with their classes, scores and origins."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import zarr
from numpy.typing import NDArray

from synthpipe.core.records import STRATEGIES, Image, Mask, Strategy
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.curated import facts, forms
from synthpipe.curated.description import Sample
from synthpipe.curated.indexing import many_indices, one_index
from synthpipe.curated.napari import LayerData
from synthpipe.curated.opening import open_store, store_at
from synthpipe.curated.pixels import Pixels
from synthpipe.curated.splits import By, Split, split_set
from synthpipe.curated.weights import WeightKind, class_weights, sample_weights
from synthpipe.files.locations import Location, parse_location
from synthpipe.storage.schema import CURATED_ARRAYS, arrays_of, open_group

if TYPE_CHECKING:
    import xarray

    from synthpipe.curated.fresh import FreshComposites, FreshKind
    from synthpipe.curated.torch_data import CuratedDataset


def open_curated(path: str | Location) -> CuratedSet:
    """Open a curated set, or the curated set of a run, at a path or URL; see `CuratedSet`.

    Raises
    ------
    StoreError
        There is no curated set at `path`, or it is incomplete.
    """
    return CuratedSet(path)


class CuratedSet:
    """A curated set of composites, or of real patches with predicted masks, which is read in any order.

    Files are opened when samples are first read. A set can be pickled, and used by any number of processes.

    Parameters
    ----------
    path : path or URL
        A finished run, its ``curated.zarr``, or the store of `synthpipe pseudo-label`.

    Attributes
    ----------
    path : Path or UPath
        Path of the store.
    description : Description
        Classes, size and origin of the samples; `taxonomy`, `size` and `fingerprint` are attributes of the set too.
    labels : (N, C) uint8
        1 for each class that occurs in a sample.
    p_real : (N,) float32
        The filter's probability that a composite is a real patch; NaN if there is no filter.
    donor_groups : (N, D) int32
        Indices in `groups` of the slides or patients of each composite's donors, then -1.
    groups : tuple of str
        Names of the slides or patients.
    source : mapping of str to str
        Digests of the ``patches``, and of the ``checkpoint`` if it predicted the masks.
    strategies : (N,) uint8
        Indices in `records.STRATEGIES`; `taxonomy.LOST` for real patches.
    indices : (N,) int64
        Indices of the samples in the store: all in order, or those of a part of the set.

    Raises
    ------
    StoreError
        There is no curated set at `path`, or it is incomplete.
    """

    def __init__(self, path: str | Location) -> None:
        self.path = store_at(parse_location(path))
        store = open_store(self.path)
        self.description, self.groups, self.source = store.description, store.groups, store.source
        self.taxonomy: Taxonomy = store.description.taxonomy
        self.size: tuple[int, int] = store.description.size
        self.fingerprint: str = store.description.fingerprint
        self.labels, self.p_real, self.donor_groups = store.labels, store.p_real, store.donor_groups
        self.strategies, self._origins = store.strategies, store.origins
        self._pixels = store.pixels
        self.indices: NDArray[np.int64] = np.arange(len(self.labels))

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the samples: fingerprint, digests of `source`, origins and scores.

        For a part of a set, it also covers `indices`. Pixels are not read.
        """
        return facts.digest(self, self._origins)

    @property
    def is_whole(self) -> bool:
        """Whether the set has all samples of the store, in their order."""
        return np.array_equal(self.indices, np.arange(len(self._pixels)))

    @property
    def pixels(self) -> Pixels:
        """The pixels of all samples of the store; those of this set are at `indices`."""
        return self._pixels

    @property
    def arrays(self) -> dict[str, zarr.Array[Any]]:
        """All arrays of the store by name; a part of a set is at `indices` in them.

        A virtual set has no ``image`` and no ``mask``: `read` renders them.

        zarr-python reads their values, with fewer checks than the other methods.
        """
        return arrays_of(open_group(self.path), CURATED_ARRAYS)

    @cached_property
    def class_pixels(self) -> NDArray[np.int64]:
        """(N, C + 1) int64: pixels of each class, then of the background; the first access reads all masks."""
        return facts.count_pixels(self._pixels, self.indices, len(self.taxonomy) + 1)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> CuratedSet: ...

    def __getitem__(self, index: int | slice) -> Sample | CuratedSet:
        """Return a sample, or for a slice the part of the set; negative indices count from the end.

        Raises `IndexError` if there is no such sample, and `TypeError` if `index` is neither an integer nor a slice.
        """
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        chosen = one_index(index, len(self))
        stored = int(self.indices[chosen])
        (image,), (mask,) = self._pixels.read([stored])
        return Sample(image, mask, self.labels[chosen], self.taxonomy)

    def __contains__(self, sample: object) -> bool:
        """Return whether the set has an equal sample; only samples of the same classes are read."""
        if not isinstance(sample, Sample) or sample.taxonomy != self.taxonomy:
            return False
        alike = np.flatnonzero((self.labels == sample.labels).all(1)).tolist()
        return any(self[index] == sample for index in alike)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return facts.summary(self, len(self._pixels))

    def _repr_html_(self) -> str:
        from synthpipe.curated.notebook import curated_html  # loads OpenCV and Pillow

        return curated_html(self)

    def read(
        self, indices: Sequence[int], images: Image | None = None, masks: Mask | None = None
    ) -> tuple[Image, Mask]:
        """Return images (n, H, W, 3) and masks (n, H, W) of the samples at `indices`, in this order.

        `indices` are as for `subset`. Given C-contiguous arrays `images` and `masks`, samples are read into them
        without a copy.
        """
        stored = self.indices[many_indices(indices, len(self))].tolist()
        return self._pixels.read(stored, images, masks)

    def load(self) -> None:
        """Load the donors of a virtual set, so that forked processes share them; do nothing for a stored set."""
        self._pixels.load()

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any] | np.bool_]) -> CuratedSet:
        """Return the samples at `indices`, in this order, as a set of their own; nothing is copied on the disk.

        Negative indices count from the end. An (N,) array of bool chooses the samples where it is true. Raises
        `IndexError` if there is no such sample, a mask has another length, or `indices` are neither integers nor bool.
        """
        chosen = many_indices(indices, len(self))
        part = copy.copy(self)
        part.__dict__.pop("class_pixels", None)
        for name in ("indices", "labels", "p_real", "donor_groups", "strategies", "_origins"):
            setattr(part, name, getattr(self, name)[chosen])
        return part

    def origin(self, index: int) -> tuple[Strategy, int] | None:
        """Return the strategy of a composite and its index among the strategy's candidates; None for a real patch."""
        code = int(self.strategies[index])
        return None if code == LOST else (STRATEGIES[code], int(self._origins[index]))

    def counts(self) -> dict[str, int]:
        """Return the number of samples of each strategy, and of real patches (``real``), if there are any."""
        return facts.count_strategies(self.strategies)

    def split(self, fractions: Mapping[str, float], by: By = "group", seed: int = 0) -> Split:
        """Split the set into named parts with the given fractions of its slides (``group``) or samples (``sample``).

        By group, no slide is in two parts, and composites with donors of several parts are dropped, with a warning if
        they are many. `splits.split_set` describes parameters, result, warnings and errors.
        """
        return split_set(self, fractions, by, seed)

    def class_weights(self, kind: WeightKind = "median") -> NDArray[np.float32]:
        """Return (C,) float32, mean 1: weights of a loss that favour rare classes; see `weights.class_weights`."""
        return class_weights(self.class_pixels, kind)

    def sample_weights(self) -> NDArray[np.float64]:
        """Return (N,) float64, sum 1: probabilities that draw rare classes more often; see `weights.sample_weights`."""
        return sample_weights(self.labels)

    def fresh(self, seed: int = 0, kind: FreshKind = "unfiltered", device: str = "cpu") -> FreshComposites:
        """Return an endless stream of composites like those of this virtual set, which neither it nor its run has.

        Kind ``filtered`` keeps only composites that the filter of the build accepts on `device`.
        `fresh.FreshComposites` describes the stream. Raises `ConfigError` if the set is not virtual, is empty, was
        edited, or has no rules of curation, or its filter is not there.
        """
        from synthpipe.curated.fresh import FreshComposites  # loads compiled kernels

        return FreshComposites(self, self._pixels, seed, kind, device)

    def to_torch(
        self,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        fresh: bool | FreshKind | FreshComposites = False,
    ) -> CuratedDataset:
        """Return a map-style torch data set; `torch_data.CuratedDataset` describes `transform`.

        With `fresh` (True, a kind, or the result of `fresh`), every epoch of its loader shows composites that no other
        epoch shows. MONAI's dictionary transforms fit as they are, albumentations' by
        ``lambda sample: augment(**sample)``. Raises `MissingPackageError` if torch is not installed, and `ConfigError`
        if the set has no fresh composites.
        """
        return forms.to_torch(self, transform, fresh)

    def to_xarray(self, **options: Any) -> xarray.Dataset:
        """Return the set as an `xarray.Dataset`, which reads values when they are used.

        Class names are the coordinate ``class``; codes have CF's ``flag_values`` and ``flag_meanings``. `options` are
        those of `xarray.open_zarr`, such as ``chunks={"sample": 256}`` for Dask arrays. Raises `MissingPackageError` if
        xarray is not installed.
        """
        return forms.to_xarray(self, options)

    def to_napari(self, indices: Sequence[int] | None = None) -> list[LayerData]:
        """Return an image layer, and a labels layer with the classes' colours, as napari's layer data tuples.

        ``viewer.add_layer(napari.layers.Layer.create(*each))`` shows them, as does a plugin's reader that returns them.
        The samples at `indices` are read into memory; without `indices`, all of a part of a set. A whole set is read
        sample by sample as napari shows it.
        """
        return forms.to_napari(self, indices)
