"""A curated set in the forms of other packages: torch, xarray and napari."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from synthpipe.core.packages import require
from synthpipe.curated.napari import LayerData, layer_data
from synthpipe.storage.schema import open_group

if TYPE_CHECKING:
    import xarray

    from synthpipe.curated.curated_set import CuratedSet
    from synthpipe.curated.fresh import FreshComposites, FreshKind
    from synthpipe.curated.torch_data import CuratedDataset


def to_torch(
    curated: CuratedSet,
    transform: Callable[[dict[str, Any]], dict[str, Any]] | None,
    fresh: bool | FreshKind | FreshComposites,
) -> CuratedDataset:
    """Return a map-style torch data set; see `CuratedSet.to_torch`."""
    require("to_torch", "torch")
    if fresh:
        from synthpipe.curated.fresh_torch import FreshDataset

        if isinstance(fresh, bool | str):
            fresh = curated.fresh(kind="unfiltered" if isinstance(fresh, bool) else fresh)
        return FreshDataset(curated, fresh, transform=transform)
    from synthpipe.curated.torch_data import CuratedDataset

    return CuratedDataset(curated, transform=transform)


def to_xarray(curated: CuratedSet, options: dict[str, Any]) -> xarray.Dataset:
    """Return an `xarray.Dataset`; see `CuratedSet.to_xarray`."""
    require("to_xarray", "xarray")
    import xarray

    options = {"chunks": None, "consolidated": False} | options
    dataset: xarray.Dataset = xarray.open_zarr(open_group(curated.path).store, **options)
    dataset = dataset.assign_coords({"class": list(curated.taxonomy.names)})
    return dataset if curated.is_whole else dataset.isel(sample=curated.indices)


def to_napari(curated: CuratedSet, indices: Sequence[int] | None) -> list[LayerData]:
    """Return napari's layer data tuples; see `CuratedSet.to_napari`."""
    arrays = curated.arrays
    if indices is None and curated.is_whole and {"image", "mask"} <= arrays.keys():
        return layer_data(arrays["image"], arrays["mask"], curated.taxonomy)
    pixels = curated.read(range(len(curated)) if indices is None else indices)
    return layer_data(*pixels, curated.taxonomy)
