"""Composites for galleries: their pixels, picture layers as data URIs, and the donor patch of each visible region."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from synthpipe.compose.regions import Region, region_map, regions
from synthpipe.core.errors import MissingDonorError
from synthpipe.core.pictures import data_uri, edges
from synthpipe.core.records import REASONS, Image, Mask, Reason, Recipe, Strategy
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.curated.composites import composites_of
from synthpipe.files.locations import Location, exists
from synthpipe.storage.nodes import METADATA
from synthpipe.storage.stores import CompositeStore

Number = TypeVar("Number", bound=np.generic)

_LARGEST = 256  # longest side of a picture, in pixels
_QUALITY = 85
_LEAST = 0.004  # share of the pixels below which a region gets no number in the picture


@dataclass(frozen=True, slots=True)
class VisibleRegion:
    """A region that is visible in a composite.

    Attributes
    ----------
    region : Region
        The region's part of the recipe, with its donor.
    label : int
        The most frequent mask value in the region: the donor's class, unless most of the region is glass.
    share : float
        The region's share of the composite's pixels, 0 to 1.
    y, x : float
        A point well inside the region, in pixels, where its number is drawn.
    """

    region: Region
    label: int
    share: float
    y: float
    x: float


@dataclass(frozen=True, slots=True, eq=False)
class GalleryComposite:
    """A candidate that a gallery shows.

    Attributes
    ----------
    strategy, index : str and int
        The strategy and the candidate's index.
    verdict : Reason or None
        The verdict. None stands for a candidate that is not judged yet.
    p_real : float or None
        The filter's score; None if there is no filter.
    recipe : Recipe
        The recipe of the composite.
    image, mask : (H, W, 3) and (H, W) uint8
        Pixels and class indices.
    """

    strategy: Strategy
    index: int
    verdict: Reason | None
    p_real: float | None
    recipe: Recipe
    image: Image
    mask: Mask


def read_gallery(
    store: CompositeStore,
    curated: Location,
    strategy: Strategy,
    indices: Sequence[int],
    verdicts: NDArray[np.uint8],
    p_real: NDArray[np.float32],
) -> Iterator[GalleryComposite]:
    """Yield the candidates with these indices that can be shown without the patches.

    A candidate is left out if its recipe is not stored. A virtual candidate is also left out if the curated set lacks
    one of its donors.

    Parameters
    ----------
    store : CompositeStore
        The strategy's candidates.
    curated : Path or UPath
        The curated set of the run.
    strategy : str
        The strategy.
    indices : sequence of int
        The candidates to read.
    verdicts, p_real : (N,) uint8 and (N,) float32
        Verdict codes and scores of all candidates.

    Raises
    ------
    StoreError
        A stored candidate is damaged.
    """
    if (store.virtual and not exists(curated / METADATA)) or not (store.virtual or "recipe" in store.written):
        return
    composites = composites_of(store, curated)
    for index in indices:
        try:
            image, mask = composites.pixels(index)
        except MissingDonorError:
            continue
        code, score = int(verdicts[index]), float(p_real[index])
        yield GalleryComposite(
            strategy,
            index,
            None if code == LOST else REASONS[code],
            None if math.isnan(score) else score,
            store.checked_recipe(composites.recipe_text(index), index, mask.shape),
            image,
            mask,
        )


def visible_regions(recipe: Recipe, mask: Mask) -> tuple[tuple[VisibleRegion, ...], NDArray[np.uint16]]:
    """Return the visible regions of a composite, largest first, and the (H, W) map of region numbers."""
    numbers = region_map(recipe)
    visible = []
    for region in regions(recipe):
        inside = numbers == region.number
        if count := int(np.count_nonzero(inside)):
            values = np.bincount(mask[inside])
            depth = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
            y, x = divmod(int(depth.argmax()), mask.shape[1])
            point = (_inward(y, mask.shape[0]), _inward(x, mask.shape[1]))
            visible.append(VisibleRegion(region, int(values.argmax()), count / mask.size, *point))
    return tuple(sorted(visible, key=lambda each: (-each.share, each.region.number))), numbers


def numbered_regions(visible: Sequence[VisibleRegion]) -> list[VisibleRegion]:
    """Return the regions that are large enough for a number in the picture."""
    return [each for each in visible if each.share >= _LEAST]


def class_shares(mask: Mask, taxonomy: Taxonomy) -> list[tuple[str, float]]:
    """Return the name and the share of pixels of each class in a mask, largest share first, background last."""
    counts = np.bincount(mask.ravel(), minlength=256) / mask.size
    shares = [(name, float(counts[index])) for index, name in enumerate(taxonomy.names) if counts[index]]
    shares.sort(key=lambda each: -each[1])
    background = float(counts[taxonomy.background])
    return [*shares, ("background", background)] if background else shares


def photo(image: Image) -> str:
    """Return an image as the data URI of a JPEG, reduced to the size of a gallery picture."""
    picture = Pillow.fromarray(image)
    picture.thumbnail((_LARGEST, _LARGEST), Pillow.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY)
    return data_uri("image/jpeg", buffer.getvalue())


def mask_layer(mask: Mask, taxonomy: Taxonomy) -> str:
    """Return a mask as the data URI of a PNG: classes in their colours, all other pixels transparent."""
    return _layer(_small(mask), taxonomy.palette(), range(len(taxonomy)))


def edge_layer(mask: Mask, taxonomy: Taxonomy) -> str:
    """Return the contours of a mask's classes, in their colours, as the data URI of a PNG."""
    small = _small(mask)
    lines = np.where(edges(small) & (small < len(taxonomy)), small, LOST).astype(np.uint8)
    return _layer(lines, taxonomy.palette(), range(len(taxonomy)))


def region_layer(numbers: NDArray[np.uint16]) -> str:
    """Return the borders between regions as the data URI of a PNG: thin white lines with black edges.

    Parameters
    ----------
    numbers : (H, W) uint16
        The region number of each pixel.
    """
    factor = max(1, _LARGEST // max(numbers.shape))
    small = _small(numbers.repeat(factor, axis=0).repeat(factor, axis=1))
    inner = (np.diff(small, axis=0, append=small[-1:]) != 0) | (np.diff(small, axis=1, append=small[:, -1:]) != 0)
    around = cv2.dilate(inner.astype(np.uint8), np.ones((3, 3), np.uint8))
    lines = np.where(inner, 1, np.where(around, 0, 2)).astype(np.uint8)
    return _layer(lines, bytes((0, 0, 0, 255, 255, 255, 0, 0, 0)), range(2))


def _inward(pixel: int, size: int) -> float:
    """Return a pixel's centre, moved inward if it is near the border. A number at this point is readable."""
    return float(min(max(pixel + 0.5, 0.045 * size), 0.955 * size))


def _layer(values: NDArray[np.uint8], palette: bytes, opaque: range) -> str:
    """Return the data URI of a palette PNG in which only the values of `opaque` are visible."""
    picture = Pillow.fromarray(values)
    picture.putpalette(palette)
    buffer = io.BytesIO()
    clear = bytes(255 if value in opaque else 0 for value in range(256))
    picture.save(buffer, format="PNG", transparency=clear, optimize=True)
    return data_uri("image/png", buffer.getvalue())


def _small(values: NDArray[Number]) -> NDArray[Number]:
    """Reduce a mask to the size of the picture from `photo`, by nearest neighbour."""
    height, width = values.shape
    factor = max(height, width) / _LARGEST
    if factor <= 1:
        return values
    rows, columns = (
        ((np.arange(max(1, round(size / factor))) + 0.5) * factor).astype(int).clip(max=size - 1)
        for size in (height, width)
    )
    return values[np.ix_(rows, columns)]
