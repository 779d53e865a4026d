"""A curated set, opened: its samples in any order, their classes, splits and weights, and forms for other packages."""

from __future__ import annotations

import copy
import hashlib
import json
import operator
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import zarr
from numpy.typing import NDArray

from synthpipe.core.display import printable, without_secrets
from synthpipe.core.errors import StoreError, explain
from synthpipe.core.packages import require
from synthpipe.core.records import STRATEGIES, Image, Mask, Strategy
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.curated.description import Description, Sample
from synthpipe.curated.napari import LayerData, layer_data
from synthpipe.curated.splits import By, Split, split_places
from synthpipe.curated.weights import WeightKind, class_weights, sample_weights
from synthpipe.files.locations import Location, exists, parse_location
from synthpipe.storage.nodes import METADATA, damaged
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import CURATED_ARRAYS, arrays_of, open_group
from synthpipe.storage.stores import CuratedStore

if TYPE_CHECKING:
    import xarray

    from synthpipe.curated.torch_data import CuratedDataset

_BLOCK = 256
_COUNTED = 100_000  # missing objects
_ATTRIBUTES = {"classes", "background_color", "fingerprint", "patches", "glass", "groups", "source"}


def open_curated(path: str | Location) -> CuratedSet:
    """Open a curated set, or that of a run, at a path or URL; `CuratedSet` says what it offers.

    Raises
    ------
    StoreError
        There is no curated set at `path`, or it is not complete.
    """
    return CuratedSet(path)


class CuratedSet:
    """A curated set of composites, or of real patches with predicted masks, to be read in any order.

    Opens files when samples are first read, and can be pickled: give it to as many processes as you like.

    Parameters
    ----------
    path : path or URL
        A finished run, its ``curated.zarr``, or the store of `synthpipe pseudo-label`.

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
    source : mapping of str to str
        Digests of what it was made from: of the ``patches``, and of the ``checkpoint`` where that predicted the masks.
    strategies : (N,) uint8
        Places in `records.STRATEGIES`; `taxonomy.LOST` for real patches.
    indices : (N,) int64
        Where the samples lie in the store: all of them in order, but for a part of a set.

    Raises
    ------
    StoreError
        There is no curated set at `path`, or it is not complete.
    """

    def __init__(self, path: str | Location) -> None:
        self.path = _store(parse_location(path))
        store = CuratedStore.open(self.path)
        attributes = store.attributes
        if not store.names(CURATED_ARRAYS) >= CURATED_ARRAYS.keys() or not attributes.keys() >= _ATTRIBUTES:
            raise StoreError(f"{self.path}: is no curated set; expected curated.zarr of a run")
        if missing := list(islice(store.missing_objects(), _COUNTED + 1)):
            count = f"more than {_COUNTED}" if len(missing) > _COUNTED else len(missing)
            raise StoreError(
                f"{self.path}: is not complete: {count} objects are missing, {missing[0]} the first; give "
                "the command that began it again, or copy the whole of it"
            )
        self._images, self._masks = store.images(), store.masks()
        count = len(self._images)
        for name in CURATED_ARRAYS:
            if store.length(name) != count:
                found = f"{name} has {store.length(name)} samples, image has {count}"
                raise damaged(self.path / METADATA, f"{found}; expected one length in all arrays")
        try:
            self.description = Description.from_json({**attributes, "size": self._images.shape[1:3]})
        except ValueError as error:
            raise damaged(self.path / METADATA, f"attributes.{explain(error)}") from error
        self.groups: tuple[str, ...] = tuple(attributes["groups"])
        self.source: Mapping[str, str] = attributes["source"]
        self.labels: NDArray[np.uint8] = _values(store, "labels", 0, 1)
        self.p_real: NDArray[np.float32] = store.scores(slice(0, count))
        self.donor_groups: NDArray[np.int32] = _values(store, "donor_groups", -1, len(self.groups) - 1)
        self.strategies: NDArray[np.uint8] = _values(store, "origin_strategy", 0, len(STRATEGIES) - 1, LOST)
        self._origins: NDArray[np.int64] = store.read("origin_index", slice(0, count))
        self.indices: NDArray[np.int64] = np.arange(count)

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

        Of a part of a set, also where it lies. Pixels are not read.
        """
        known = hashlib.sha256(json.dumps([self.fingerprint, self.source, self.groups], sort_keys=True).encode())
        for values in (self.strategies, self._origins, self.p_real, self.labels, self.donor_groups):
            known.update(np.ascontiguousarray(values).data)
        if not self._whole:
            known.update(np.ascontiguousarray(self.indices).data)
        return known.hexdigest()

    @property
    def arrays(self) -> dict[str, zarr.Array[Any]]:
        """All arrays of the set, by name; a part of it lies there at `indices`.

        zarr-python reads their values, and trusts a store more than the other methods do.
        """
        return arrays_of(open_group(self.path), CURATED_ARRAYS)

    @cached_property
    def class_pixels(self) -> NDArray[np.int64]:
        """(N, C + 1) int64: pixels of each class, then of the background; reads all masks when first asked for."""
        values = len(self.taxonomy) + 1
        counts = np.empty((len(self), values), np.int64)
        for start in range(0, len(self), _BLOCK):
            places = range(start, min(start + _BLOCK, len(self)))
            masks = self._masks.read_many(self.indices[places.start : places.stop].tolist())
            for place, mask in zip(places, masks, strict=True):
                counts[place] = np.bincount(mask.ravel(), minlength=values)[:values]
        return counts

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> CuratedSet: ...

    def __getitem__(self, index: int | slice) -> Sample | CuratedSet:
        """Return a sample, counted from the end where `index` is negative; of a slice, the part of the set.

        Raises
        ------
        IndexError
            There is no such sample.
        TypeError
            `index` is neither an integer nor a slice; `subset` takes several indices.
        """
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        try:
            chosen = operator.index(index)
        except TypeError:
            found = type(index).__name__
            raise TypeError(f"index is a {found}, expected an integer or a slice; subset takes several") from None
        if not -len(self) <= chosen < len(self):
            raise self._outside(chosen)
        place = int(self.indices[chosen])
        return Sample(self._images[place], self._masks[place], self.labels[chosen], self.taxonomy)

    def __contains__(self, sample: object) -> bool:
        """Return whether a sample is equal to one of the set; only those of the same classes are read."""
        if not isinstance(sample, Sample) or sample.taxonomy != self.taxonomy:
            return False
        alike = np.flatnonzero((self.labels == sample.labels).all(1)).tolist()
        return any(self[place] == sample for place in alike)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        """Say how many samples there are, of which classes, strategies and slides, and where they lie."""
        height, width = self.size
        counts = ", ".join(f"{count} {strategy}" for strategy, count in self.counts().items()) or "none"
        classes = zip(self.taxonomy.names, np.count_nonzero(self.labels, axis=0), strict=True)
        slides = len(np.unique(self.donor_groups[self.donor_groups >= 0]))
        part = "" if self._whole else f", a part of {self._images.shape[0]}"
        lines = [
            f"CuratedSet of {len(self)} samples ({counts}), {height} x {width} pixels{part}",
            f"  classes  {', '.join(f'{name} (in {count})' for name, count in classes)}",
            f"  slides   {slides} slides or patients, which split() keeps apart",
            f"  path     {without_secrets(self.path)}",
        ]
        return "\n".join(map(printable, lines))

    def read(
        self, indices: Sequence[int], images: Image | None = None, masks: Mask | None = None
    ) -> tuple[Image, Mask]:
        """Return images (n, H, W, 3) and masks (n, H, W) of several composites, in the order asked for.

        They are read into `images` and `masks` where these are given: C-contiguous, and nothing is copied.
        `indices` are those of `subset`.
        """
        places = self.indices[self._chosen(indices)].tolist()
        return self._images.read_many(places, images), self._masks.read_many(places, masks)

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any] | np.bool_]) -> CuratedSet:
        """Return the samples at `indices`, in that order, as a set of their own; nothing is copied on the disk.

        Negative indices count from the end. An (N,) array of bool chooses the samples where it is true.

        Raises
        ------
        IndexError
            There is no such sample, a mask has another length, or `indices` are neither integers nor bool.
        """
        chosen = self._chosen(indices)
        part = copy.copy(self)
        part.__dict__.pop("class_pixels", None)
        part.indices = self.indices[chosen]
        part.labels, part.p_real, part.donor_groups = (
            self.labels[chosen],
            self.p_real[chosen],
            self.donor_groups[chosen],
        )
        part.strategies, part._origins = self.strategies[chosen], self._origins[chosen]
        return part

    def _chosen(self, indices: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
        chosen = np.asarray(indices)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise IndexError(f"a mask has shape {chosen.shape}, expected ({len(self)},): one value a sample")
            return np.flatnonzero(chosen)
        if chosen.size and chosen.dtype.kind not in "iu":
            raise IndexError(f"indices are {chosen.dtype}, expected integers, or a mask of bool")
        if (outside := (chosen < -len(self)) | (chosen >= len(self))).any():
            raise self._outside(chosen[outside][0])
        return chosen.astype(np.int64)

    def _outside(self, index: int) -> IndexError:
        return IndexError(f"no sample {index}; there are {len(self)}, counted from 0")

    def split(self, fractions: Mapping[str, float], by: By = "group", seed: int = 0) -> Split:
        """Cut the set into parts.

        By ``group``, slides or patients are shared out, and a composite goes where all its donors' are: no slide is on
        two sides. Composites with donors of two sides belong to neither and are dropped; a composite of many donors is
        seldom on a small side. By ``sample``, nothing is dropped, and slides are on all sides.

        Parameters
        ----------
        fractions : mapping of str to float
            How many of the groups (or samples) each part gets; together 1.
        by : {"group", "sample"}
            What is shared out.
        seed : int
            The same one gives the same parts.

        Returns
        -------
        Split
            The parts by name, the groups of each, and how many composites are dropped.

        Warns
        -----
        UserWarning
            More than a tenth of the set is dropped, or a part has no sample of a strategy because of that.

        Raises
        ------
        ConfigError
            The fractions are none, or a part would be empty.
        """
        used, numbers = np.unique(self.donor_groups, return_inverse=True)
        used, numbers = used[used >= 0], numbers.reshape(self.donor_groups.shape) - np.count_nonzero(used < 0)
        found = split_places(numbers.astype(np.int32), len(used), fractions, by, seed)
        groups = {name: tuple(self.groups[used[place]] for place in places) for name, places in found.groups.items()}
        split = Split({name: self.subset(places) for name, places in found.parts.items()}, groups, found.dropped)
        if loss := split.loss(self.counts()):
            warnings.warn(loss, stacklevel=2)
        return split

    def class_weights(self, kind: WeightKind = "median") -> NDArray[np.float32]:
        """Return (C,) float32, mean 1: weights for a loss that give rare classes a say.

        ``inverse``: of a class's share of all pixels. ``median``: the median of the classes' frequencies by the class's
        own, a frequency being the share of pixels in the images where a class occurs (Eigen and Fergus, ICCV 2015,
        section 6.3.2). A class without a pixel gets 0.
        """
        return class_weights(self.class_pixels, kind)

    def sample_weights(self) -> NDArray[np.float64]:
        """Return (N,) float64, sum 1: probabilities to draw samples with, so that rare classes are seen more often.

        A sample's is the mean over its classes of one by the number of samples that have the class.
        """
        return sample_weights(self.labels)

    def to_torch(self, transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> CuratedDataset:
        """Return a map-style torch data set; see `segment.data.CuratedDataset`.

        Parameters
        ----------
        transform : callable, optional
            Gets a dict of ``image`` (H, W, 3) uint8, ``mask`` (H, W) uint8 and ``labels`` (C,) uint8, arrays of its own
            that it may change, and returns a dict of what the loader is to put together: MONAI's dictionary transforms
            as they are, albumentations' by ``lambda sample: augment(**sample)``.

        Raises
        ------
        MissingPackageError
            torch is not installed.
        """
        require("to_torch", "torch")
        from synthpipe.curated.torch_data import CuratedDataset

        return CuratedDataset(self, transform=transform)

    def to_xarray(self, **options: Any) -> xarray.Dataset:
        """Return the set as an `xarray.Dataset` whose values are read when they are used.

        Class names are the coordinate ``class``; codes have CF's ``flag_values`` and ``flag_meanings``. `options` are
        those of `xarray.open_zarr`, such as ``chunks={"sample": 256}`` for arrays of Dask.

        Raises
        ------
        MissingPackageError
            xarray is not installed.
        """
        require("to_xarray", "xarray")
        import xarray

        options = {"chunks": None, "consolidated": False} | options
        dataset: xarray.Dataset = xarray.open_zarr(open_group(self.path).store, **options)
        dataset = dataset.assign_coords({"class": list(self.taxonomy.names)})
        return dataset if self._whole else dataset.isel(sample=self.indices)

    @property
    def _whole(self) -> bool:
        """Whether this is all of the store, in its order."""
        return np.array_equal(self.indices, np.arange(self._images.shape[0]))

    def to_napari(self, indices: Sequence[int] | None = None) -> list[LayerData]:
        """Return an image layer and a layer of labels with the classes' colours, as napari's layer data tuples.

        ``viewer.add_layer(napari.layers.Layer.create(*each))`` shows them; so does a plugin's reader that returns them.

        Parameters
        ----------
        indices : sequence of int, optional
            The composites, to be held in memory; all those of a part of a set by default. Of a whole set each is read
            when it is looked at.
        """
        if indices is None and self._whole:
            return layer_data(self.arrays["image"], self.arrays["mask"], self.taxonomy)
        return layer_data(*self.read(range(len(self)) if indices is None else indices), self.taxonomy)

    def counts(self) -> dict[str, int]:
        """Return how many samples come from each strategy, and how many are real patches (``real``), where any do."""
        codes = {LOST: "real", **dict(enumerate(STRATEGIES))}
        found = zip(*np.unique(self.strategies, return_counts=True), strict=True)
        return {codes[int(code)]: int(count) for code, count in found}

    def _repr_html_(self) -> str:
        from synthpipe.curated.notebook import curated_html  # loads OpenCV and Pillow

        return curated_html(self)

    def origin(self, index: int) -> tuple[Strategy, int] | None:
        """Return the strategy of a composite, and its index among the strategy's candidates; None for a real patch."""
        code = int(self.strategies[index])
        return None if code == LOST else (STRATEGIES[code], int(self._origins[index]))


def _store(path: Location) -> Location:
    """Return the store of a curated set; of a finished run, its curated set.

    Raises
    ------
    StoreError
        It is a run that is not finished.
    """
    run = RunDirectory(path)
    if exists(path / METADATA) or not run.exists():
        return path
    if not run.journal().get("finished"):
        raise StoreError(
            f"{path}: is a run that is not finished, so its curated set is not ready; give its `synthpipe build` "
            f"command again (`synthpipe status {shlex.quote(str(path))}` says how far it is)"
        )
    return run.curated


def _values(store: CuratedStore, name: str, least: int, most: int, other: int | None = None) -> NDArray[Any]:
    """Read a small array of indices or flags.

    Raises
    ------
    StoreError
        A value is neither from `least` to `most` nor `other`.
    """
    values = store.read(name, slice(0, store.length(name)))
    wrong = ((values < least) | (values > most)) & (values != other)
    for index in np.argwhere(wrong)[:1]:
        found = f"sample {index[0]} has the value {values[tuple(index)]}"
        raise damaged(f"{store.path}/{name}", f"{found}; expected {least} to {most}")
    return values
