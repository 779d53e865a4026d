"""Layers for napari; tests.curated.test_documents shows them in napari."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr

import synthpipe
from synthpipe.core.taxonomy import LOST


def test_layers_have_the_pixels_and_the_colours(home: Path) -> None:
    curated = synthpipe.open_curated(home / "runs" / "demo" / "curated.zarr")
    (images, first, image), (masks, second, labels) = curated.to_napari([7, 2])
    assert (image, labels) == ("image", "labels") and first["rgb"]
    assert np.array_equal(images[1], curated[2].image) and np.array_equal(masks[0], curated[7].mask)
    for index, tissue in enumerate(curated.taxonomy.classes):
        assert np.allclose(second["colormap"][index], (*(part / 255 for part in tissue.color), 1))
    assert all(second["colormap"][value][3] == 0 for value in (curated.taxonomy.background, LOST, None))
    assert dict(zip(*second["features"].values(), strict=True))[1] == curated.taxonomy.names[1]


def test_a_whole_set_is_not_read_and_a_part_is_in_its_order(home: Path) -> None:
    curated = synthpipe.open_curated(home / "runs" / "demo" / "curated.zarr")
    images, masks = (layer[0] for layer in curated.to_napari())
    assert isinstance(images, zarr.Array) and isinstance(masks, zarr.Array)
    turned = curated.subset(range(79, -1, -1))
    images, masks = (layer[0] for layer in turned.to_napari())
    assert np.array_equal(images[0], curated[79].image) and np.array_equal(masks[79], curated[0].mask)
    assert np.array_equal(turned.to_xarray().mask[0], curated[79].mask)
