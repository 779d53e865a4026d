"""Composites as layers of the viewer napari; making them does not need napari."""

from __future__ import annotations

from typing import Any

from synthpipe.core.taxonomy import LOST, Taxonomy

LayerData = tuple[Any, dict[str, Any], str]
"""napari's layer data tuple: pixels, keyword arguments of the layer, and its type."""


def layer_data(images: Any, masks: Any, taxonomy: Taxonomy) -> list[LayerData]:
    """Return an image layer, and above it a labels layer with the classes' names and colours.

    Parameters
    ----------
    images : (N, H, W, 3) uint8
        Any kind of array that napari shows.
    masks : (N, H, W) uint8
        Class indices, or the background index.
    taxonomy : Taxonomy
        The classes.
    """
    colors: dict[int | None, Any] = {
        index: (*(part / 255 for part in tissue.color), 1.0) for index, tissue in enumerate(taxonomy.classes)
    }
    transparent = (0.0, 0.0, 0.0, 0.0)
    values = [*range(len(taxonomy) + 1), LOST]
    classes = {
        "colormap": {**colors, taxonomy.background: transparent, LOST: transparent, None: transparent},
        "features": {
            "index": values,
            "class": [*taxonomy.names, "background", "lost"],
        },  # shown under the pointer
        "opacity": 0.45,
    }
    return [
        (images, {"name": "composites", "rgb": True}, "image"),
        (masks, {"name": "classes", **classes}, "labels"),
    ]
