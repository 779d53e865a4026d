"""Read the recipe of a stored composite."""

from __future__ import annotations

from typing import Any

import zarr

from synthpipe.core.errors import StoreError
from synthpipe.core.records import Recipe, recipe_from_json
from synthpipe.storage.nodes import damaged, where
from synthpipe.storage.shards import read_range


def read_recipe(recipes: zarr.Array[Any], index: int, canvas: tuple[int, ...]) -> Recipe:
    """Return the recipe of a stored composite.

    Parameters
    ----------
    recipes : zarr.Array
        The ``recipe`` array of a group.
    index : int
        The index of the composite.
    canvas : tuple of int
        Height and width of the composite.

    Raises
    ------
    StoreError
        The recipe is missing or damaged, or has another canvas.
    """
    text = str(read_range(recipes, index, index + 1)[0])
    try:
        recipe = recipe_from_json(text)
    except ValueError as error:
        raise unreadable(recipes, index, str(error)) from error
    if recipe.canvas != canvas:
        raise unreadable(recipes, index, f"the canvas is {recipe.canvas}, expected {canvas}")
    return recipe


def unreadable(recipes: zarr.Array[Any], index: int, why: str) -> StoreError:
    """Return the error for a recipe that cannot be read; `why` is the reason."""
    return damaged(where(recipes.store_path), f"the recipe of sample {index} cannot be read: {why}")
