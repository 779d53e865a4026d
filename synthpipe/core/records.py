"""The frozen records that pass between the packages of synthpipe.

A *recipe* holds all sampled numbers of a composite, and all constants that rendering needs. The same recipe and donors
always give the same pixels. Rendering needs neither a random generator nor the pipeline file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from synthpipe.core.errors import explain
from synthpipe.core.strict_json import parse_json

Image = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

Mask = NDArray[np.uint8]
"""(H, W) uint8: class indices, the background index, or ``taxonomy.LOST``."""

PackedPixels = NDArray[np.uint32]
"""(H, W) uint32: red in the lowest byte, then green, blue and the mask's value."""

Strategy = Literal["mosaic", "bezier"]
STRATEGIES: tuple[Strategy, ...] = ("mosaic", "bezier")

Flip = Literal["none", "horizontal", "vertical", "both"]

# Recipes may come from strangers, so they have limits. Recipes of all pipelines are within these limits.
_MOST_PIXELS = 1 << 26  # of a grid image
_Index = Annotated[int, Field(ge=0, lt=1 << 63)]
_Position = Annotated[int, Field(ge=0, le=1 << 20)]
_Length = Annotated[int, Field(ge=1, le=1 << 16)]
_Size = tuple[_Length, _Length]
_Share = Annotated[float, Field(ge=-1, le=1)]
_Unit = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class PatchRef:
    """One weakly-labelled patch of the catalog.

    Attributes
    ----------
    id : str
        Path below the data set's training folder, with forward slashes. It stays the same when the data set moves.
    path : str
        Current path or URL of the file, without credentials and signatures.
    sha256 : str
        Digest of the file's bytes.
    classes : tuple of int
        The classes that occur in the patch, in index order.
    height, width : int
        Size in pixels.
    group : str
        The slide or patient of the patch. Splits never separate patches of one group.
    secret_url : str, optional
        The URL of `path` with the credentials or the signature that reading needs. Never show or store this URL.
    """

    id: str
    path: str
    sha256: str
    classes: tuple[int, ...]
    height: int
    width: int
    group: str
    secret_url: str | None = field(default=None, repr=False, compare=False)

    @property
    def single_class(self) -> bool:
        """Whether the patch has one class. Then the class of each pixel is known, and the patch can be a donor."""
        return len(self.classes) == 1


@dataclass(frozen=True, slots=True, eq=False)
class Donor:
    """A decoded single-class patch whose pixels are used in composites.

    Attributes
    ----------
    id, group : str
        As in its `PatchRef`.
    label : int
        Class index of the donor.
    image : (H, W, 3) uint8
        RGB.
    mask : (H, W) uint8, or None
        `label`, or the background index where the patch shows glass. If the pipeline does not look for glass, the mask
        is None, or `label` everywhere.
    """

    id: str
    group: str
    label: int
    image: Image
    mask: Mask | None


@dataclass(frozen=True, slots=True)
class Crop:
    """The window of a donor patch that fills one tile. The recipe's `tile` is the size of the window."""

    patch: str
    y: _Position
    x: _Position


@dataclass(frozen=True, slots=True)
class ShiftScaleRotate:
    """Rotate and scale an image about its centre, then shift it.

    `angle` is in degrees, counter-clockwise. `scale` is a factor. The shifts are fractions of height and width.
    """

    angle: Annotated[float, Field(ge=-180, le=180)]
    scale: Annotated[float, Field(ge=0.2, le=2)]
    shift_y: _Share
    shift_x: _Share


@dataclass(frozen=True, slots=True)
class Quadrant:
    """One grid image of a Mosaic, and the window of this image that fills a quadrant.

    `tiles` are in row order. The grid image is flipped, then warped. ``(y, x)`` is the window's upper left corner in
    the result.
    """

    tiles: tuple[Crop, ...]
    flip: Flip
    warp: ShiftScaleRotate | None
    y: _Position
    x: _Position


@dataclass(frozen=True, slots=True)
class MosaicRecipe:
    """A Mosaic composite (method section 2): four transformed grid images around a split point.

    Sizes are (height, width) in pixels. `grid` is the number of (rows, columns) of tiles. The order of the quadrants is
    upper left, upper right, lower left, lower right.
    """

    index: _Index
    canvas: _Size
    tile: _Size
    grid: _Size
    split: tuple[_Position, _Position]
    quadrants: tuple[Quadrant, Quadrant, Quadrant, Quadrant]

    strategy: Literal["mosaic"] = "mosaic"

    def donors(self) -> Iterator[str]:
        """Yield the donor's id for each tile, so the id of a patch that is used twice comes twice."""
        for quadrant in self.quadrants:
            for tile in quadrant.tiles:
                yield tile.patch


@dataclass(frozen=True, slots=True)
class BezierRecipe:
    """A Bezier composite (method section 2): a foreground donor inside a closed curve on a background donor.

    `points` are the curve's corners (x, y) in the unit square, in drawing order. `edgy` and `radius` shape the tangents
    and control points. `samples` is the number of points of each drawn segment.
    """

    index: _Index
    canvas: _Size
    background: str
    foreground: str
    points: Annotated[tuple[tuple[_Unit, _Unit], ...], Field(min_length=3, max_length=1 << 10)]
    edgy: Annotated[float, Field(allow_inf_nan=False)]
    radius: Annotated[float, Field(gt=0, le=1)]
    samples: Annotated[int, Field(ge=2, le=1 << 13)]

    strategy: Literal["bezier"] = "bezier"

    def donors(self) -> Iterator[str]:
        """Yield the ids of the background donor and of the foreground donor."""
        yield self.background
        yield self.foreground


Recipe = MosaicRecipe | BezierRecipe
_ENCODER = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Composite:
    """A rendered recipe: `image` (H, W, 3) uint8 RGB and `mask` (H, W) uint8 class indices."""

    recipe: Recipe
    image: Image
    mask: Mask


Reason = Literal["kept", "looks_synthetic", "too_few_classes", "donor_overused", "surplus"]
REASONS: tuple[Reason, ...] = ("kept", "looks_synthetic", "too_few_classes", "donor_overused", "surplus")
"""All verdicts. A stored verdict is an index into this tuple, so new verdicts are added at its end."""


def pack(image: Image, mask: Mask | int) -> PackedPixels:
    """Return an image and its mask as packed pixels, (H, W) uint32. `mask` can be one value for all pixels."""
    packed = np.empty((*image.shape[:2], 4), np.uint8)
    packed[..., :3] = image
    packed[..., 3] = mask
    return packed.view("<u4")[..., 0]


def recipe_to_json(recipe: Recipe) -> str:
    """Return a recipe as one line of JSON, with keys in the order of the fields and exact floats."""
    if isinstance(recipe, MosaicRecipe):
        return _ENCODER.encode(_fields(recipe) | {"quadrants": [_quadrant_fields(each) for each in recipe.quadrants]})
    return _ENCODER.encode(_fields(recipe))


def recipe_from_json(text: str) -> Recipe:
    """Read a recipe that `recipe_to_json` wrote.

    Rendering does not check a recipe, so this function raises an error for recipes that sampling cannot make.

    Raises
    ------
    ValueError
        The text is not a recipe, or it has numbers out of range.
    """
    fields = parse_json(text)
    is_bezier = isinstance(fields, dict) and fields.get("strategy") == "bezier"
    reader: TypeAdapter[Any] = _BEZIER if is_bezier else _MOSAIC
    try:
        recipe: Recipe = reader.validate_python(fields)
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    if isinstance(recipe, MosaicRecipe):
        _check_mosaic(recipe)
    if recipe_to_json(recipe) != text:
        raise ValueError("the recipe is not in the form that this version writes")
    return recipe


def _fields(record: MosaicRecipe | BezierRecipe | Quadrant | Crop | ShiftScaleRotate) -> dict[str, Any]:
    """Return a record's fields without copies. `dataclasses.asdict` makes copies and takes longer than rendering."""
    return {name: getattr(record, name) for name in record.__slots__}


def _quadrant_fields(quadrant: Quadrant) -> dict[str, Any]:
    warp = quadrant.warp and _fields(quadrant.warp)
    return _fields(quadrant) | {"tiles": [_fields(tile) for tile in quadrant.tiles], "warp": warp}


def _check_mosaic(recipe: MosaicRecipe) -> None:
    grid_size = recipe.grid[0] * recipe.tile[0], recipe.grid[1] * recipe.tile[1]
    if math.prod(grid_size) > _MOST_PIXELS:
        raise ValueError(f"the grid image has {grid_size[0]} x {grid_size[1]} pixels, expected at most {_MOST_PIXELS}")
    if recipe.split[0] > recipe.canvas[0] or recipe.split[1] > recipe.canvas[1]:
        raise ValueError(f"the split point {recipe.split} is outside the canvas of {recipe.canvas}")
    for quadrant in recipe.quadrants:
        if len(quadrant.tiles) != math.prod(recipe.grid):
            raise ValueError(
                f"a quadrant has {len(quadrant.tiles)} tiles, expected {recipe.grid[0]} x {recipe.grid[1]}"
            )
        if quadrant.y > grid_size[0] or quadrant.x > grid_size[1]:
            raise ValueError(f"the window at {quadrant.y}, {quadrant.x} is outside the grid image of {grid_size}")


_MOSAIC: TypeAdapter[MosaicRecipe] = TypeAdapter(MosaicRecipe)
_BEZIER: TypeAdapter[BezierRecipe] = TypeAdapter(BezierRecipe)
