"""Single composites as a report shows them: pixels, layers to lay over them, and which patch each region came from."""

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
from synthpipe.core.pictures import data_uri, edges
from synthpipe.core.records import REASONS, Image, Mask, Reason, Recipe, Strategy
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.storage.stores import CompositeStore

Number = TypeVar("Number", bound=np.generic)

_LARGEST = 256  # pixels of a picture's longer side
_QUALITY = 85
_LEAST = 0.004  # of the pixels: smaller regions get no number in the picture


@dataclass(frozen=True, slots=True)
class Seen:
    """A region that is seen in a composite.

    Attributes
    ----------
    region : Region
        Its place in the recipe, and its donor.
    label : int
        The mask's value that most of its pixels have: the donor's class, if not all of it is glass.
    share : float
        Of the composite's pixels.
    y, x : float
        A point well inside it, in pixels.
    """

    region: Region
    label: int
    share: float
    y: float
    x: float


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A composite that is shown.

    Attributes
    ----------
    strategy, index : str and int
        Which candidate it is.
    verdict : Reason or None
        What became of it; None before it is judged.
    p_real : float or None
        Its score; None where there is none.
    recipe : Recipe
        What it was made from.
    image, mask : (H, W, 3) and (H, W) uint8
        Its pixels.
    """

    strategy: Strategy
    index: int
    verdict: Reason | None
    p_real: float | None
    recipe: Recipe
    image: Image
    mask: Mask


def read_shown(
    store: CompositeStore,
    strategy: Strategy,
    indices: Sequence[int],
    verdicts: NDArray[np.uint8],
    p_real: NDArray[np.float32],
) -> Iterator[Shown]:
    """Yield some candidates of a strategy's group, by their verdicts and scores, (N,) each.

    Raises
    ------
    StoreError
        What is stored of one is damaged.
    """
    images, masks = store.images(), store.masks()
    for index in indices:
        code, score = int(verdicts[index]), float(p_real[index])
        yield Shown(
            strategy,
            index,
            None if code == LOST else REASONS[code],
            None if math.isnan(score) else score,
            store.recipe(index, masks.shape[1:]),
            images[index],
            masks[index],
        )


def seen(recipe: Recipe, mask: Mask) -> tuple[tuple[Seen, ...], NDArray[np.uint16]]:
    """Return the regions of a composite that are seen, largest first, and the map of all their numbers, (H, W)."""
    numbers = region_map(recipe)
    found = []
    for region in regions(recipe):
        inside = numbers == region.number
        if count := int(np.count_nonzero(inside)):
            values = np.bincount(mask[inside])
            depth = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
            y, x = divmod(int(depth.argmax()), mask.shape[1])
            place = (_inward(y, mask.shape[0]), _inward(x, mask.shape[1]))
            found.append(Seen(region, int(values.argmax()), count / mask.size, *place))
    return tuple(sorted(found, key=lambda each: (-each.share, each.region.number))), numbers


def numbered(found: Sequence[Seen]) -> list[Seen]:
    """Return the regions that are large enough for a number in the picture."""
    return [each for each in found if each.share >= _LEAST]


def class_shares(mask: Mask, taxonomy: Taxonomy) -> list[tuple[str, float]]:
    """Return the names of the classes in a mask with their shares of its pixels, largest first; background last."""
    counts = np.bincount(mask.ravel(), minlength=256) / mask.size
    shares = [(name, float(counts[index])) for index, name in enumerate(taxonomy.names) if counts[index]]
    shares.sort(key=lambda each: -each[1])
    background = float(counts[taxonomy.background])
    return [*shares, ("background", background)] if background else shares


def photo(image: Image) -> str:
    """Return an image as a JPEG's data URI, no larger than a gallery needs."""
    picture = Pillow.fromarray(image)
    picture.thumbnail((_LARGEST, _LARGEST), Pillow.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY)
    return data_uri("image/jpeg", buffer.getvalue())


def mask_layer(mask: Mask, taxonomy: Taxonomy) -> str:
    """Return a mask as a PNG's data URI: classes in their colours, all else clear."""
    return _layer(_small(mask), taxonomy.palette(), range(len(taxonomy)))


def edge_layer(mask: Mask, taxonomy: Taxonomy) -> str:
    """Return the contours of a mask's classes as a PNG's data URI, in their colours."""
    small = _small(mask)
    lines = np.where(edges(small) & (small < len(taxonomy)), small, LOST).astype(np.uint8)
    return _layer(lines, taxonomy.palette(), range(len(taxonomy)))


def region_layer(numbers: NDArray[np.uint16]) -> str:
    """Return the borders between regions, (H, W) numbers, as a PNG's data URI: white on black, and thin."""
    factor = max(1, _LARGEST // max(numbers.shape))
    small = _small(numbers.repeat(factor, axis=0).repeat(factor, axis=1))
    inner = (np.diff(small, axis=0, append=small[-1:]) != 0) | (np.diff(small, axis=1, append=small[:, -1:]) != 0)
    around = cv2.dilate(inner.astype(np.uint8), np.ones((3, 3), np.uint8))
    lines = np.where(inner, 1, np.where(around, 0, 2)).astype(np.uint8)
    return _layer(lines, bytes((0, 0, 0, 255, 255, 255, 0, 0, 0)), range(2))


def _inward(place: int, size: int) -> float:
    """Return a pixel's centre, far enough from the picture's ends for a number to be read."""
    return float(min(max(place + 0.5, 0.045 * size), 0.955 * size))


def _layer(values: NDArray[np.uint8], palette: bytes, opaque: range) -> str:
    """Return a palette PNG in which only some values are seen."""
    picture = Pillow.fromarray(values)
    picture.putpalette(palette)
    buffer = io.BytesIO()
    clear = bytes(255 if value in opaque else 0 for value in range(256))
    picture.save(buffer, format="PNG", transparency=clear, optimize=True)
    return data_uri("image/png", buffer.getvalue())


def _small(values: NDArray[Number]) -> NDArray[Number]:
    """Return a mask as large as `photo` makes its image, each pixel the nearest."""
    height, width = values.shape
    factor = max(height, width) / _LARGEST
    if factor <= 1:
        return values
    rows, columns = (
        ((np.arange(max(1, round(size / factor))) + 0.5) * factor).astype(int).clip(max=size - 1)
        for size in (height, width)
    )
    return values[np.ix_(rows, columns)]
