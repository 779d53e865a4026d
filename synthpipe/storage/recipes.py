"""Read the recipe of a stored composite."""

from __future__ import annotations

from zarr.storage import StorePath

from synthpipe.core.errors import StoreError
from synthpipe.core.records import Recipe, recipe_from_json
from synthpipe.storage.nodes import damaged, where


def checked_recipe(path: StorePath, text: str, index: int, canvas: tuple[int, ...]) -> Recipe:
    """Return the recipe of a stored composite from its JSON text.

    Parameters
    ----------
    path : StorePath
        The array ``recipe``, for messages.
    text : str
        The recipe as JSON.
    index : int
        The index of the composite.
    canvas : tuple of int
        Height and width of the composite.

    Raises
    ------
    StoreError
        The recipe is damaged, or has another canvas.
    """
    try:
        recipe = recipe_from_json(text)
    except ValueError as error:
        raise unreadable(path, index, str(error)) from error
    if recipe.canvas != canvas:
        raise unreadable(path, index, f"its canvas is {recipe.canvas}, expected {canvas}")
    return recipe


def unreadable(path: StorePath, index: int, why: str) -> StoreError:
    """Return the error to raise for a recipe that cannot be read."""
    return damaged(where(path), f"the recipe of sample {index} cannot be read: {why}")
