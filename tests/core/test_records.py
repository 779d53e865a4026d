from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from synthpipe.compose import render, sample
from synthpipe.core.records import MosaicRecipe, Recipe, Strategy, recipe_from_json, recipe_to_json
from tests.conftest import pipeline, textured_donors

DONORS = textured_donors()


def sampled(strategy: Strategy) -> Recipe:
    return sample(pipeline("canvas=64", "mosaic.tile=32"), strategy, 3, DONORS)


Change = Callable[[dict[str, Any]], Any]


def put(*path: Any) -> Change:
    """Return what puts a value, the last of `path`, where the keys before it lead."""

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        target: Any = fields
        *parents, key, value = path
        for parent in parents:
            target = target[parent]
        target[key] = value
        return fields

    return change


MOSAIC: dict[str, Change] = {
    "tiles": put("quadrants", 0, "tiles", []),
    "quadrants": put("quadrants", []),
    "negative": put("quadrants", 1, "tiles", 0, "y", -5),
    "far": put("quadrants", 1, "tiles", 0, "x", 1 << 40),
    "text": put("quadrants", 1, "tiles", 0, "x", "3"),
    "window": put("quadrants", 2, "y", 1 << 19),
    "flip": put("quadrants", 3, "flip", "sideways"),
    "scale": put("quadrants", 0, "warp", {"angle": 0.0, "scale": 0.0, "shift_y": 0.0, "shift_x": 0.0}),
    "nan": put("quadrants", 0, "warp", {"angle": float("nan"), "scale": 1.0, "shift_y": 0.0, "shift_x": 0.0}),
    "shift": put("quadrants", 0, "warp", {"angle": 0.0, "scale": 1.0, "shift_y": 1e9, "shift_x": 0.0}),
    "split": put("split", [65, 3]),
    "canvas": put("canvas", [64]),
    "grid": put("grid", [0, 4]),
    "huge": put("tile", [1 << 15, 1 << 15]),
    "index": put("index", -1),
    "list": lambda fields: [fields],
    "null": lambda fields: None,
    "more": put("more", 1),
}
BEZIER: dict[str, Change] = {
    "points": put("points", []),
    "corner": put("points", 0, [0.5]),
    "outside": put("points", 0, [0.5, 7.0]),
    "nan": put("points", 0, [0.5, float("nan")]),
    "edgy": put("edgy", float("inf")),
    "radius": put("radius", -1.0),
    "samples": put("samples", 10**12),
    "canvas": put("canvas", [10**9, 10**9]),
    "patch": put("background", None),
}


@pytest.mark.parametrize(
    "strategy, change",
    [*(("mosaic", each) for each in MOSAIC.values()), *(("bezier", each) for each in BEZIER.values())],
    ids=[*MOSAIC, *BEZIER],
)
def test_a_recipe_that_cannot_have_been_sampled_is_refused(strategy: Strategy, change: Change) -> None:
    text = recipe_to_json(sampled(strategy))
    assert recipe_from_json(text) == sampled(strategy)
    with pytest.raises(ValueError):
        recipe_from_json(json.dumps(change(json.loads(text)), separators=(",", ":")))


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{", "{}", '{"strategy":"bezier"}', '{"strategy":["mosaic"]}'])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        recipe_from_json(text)


def test_no_crop_leaves_its_donor() -> None:
    recipe = sampled("mosaic")
    assert isinstance(recipe, MosaicRecipe)
    first, *others = recipe.quadrants
    for y, x in ((1 << 20, 0), (0, 1 << 20), (80, 0)):
        tiles = (replace(first.tiles[0], y=y, x=x), *first.tiles[1:])
        forged = replace(recipe, quadrants=(replace(first, tiles=tiles), *others))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="the recipe of mosaic 3 has a crop that is not inside its donor"):
            render(forged, DONORS)
