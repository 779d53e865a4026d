"""Read single composites of a store: candidates, composites that train the filter, or a curated set.

Pixels come from the store. Those of a virtual store are rendered from the donors of the run's curated set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from synthpipe.core.errors import StoreError
from synthpipe.core.records import STRATEGIES, Image, Mask, Strategy, recipe_to_json
from synthpipe.files.locations import Location, exists
from synthpipe.storage.nodes import METADATA
from synthpipe.storage.store import Store

if TYPE_CHECKING:
    from synthpipe.curated.rendered import Renderer


class Composites(Protocol):
    """The composites of a store, by index."""

    def pixels(self, index: int) -> tuple[Image, Mask]:
        """Return the image (H, W, 3) and the mask (H, W) of a composite."""

    def recipe_text(self, index: int) -> str:
        """Return the recipe of a composite as JSON; an empty text if it is unknown."""


def composites_of(store: Store, curated: Location) -> Composites:
    """Return the composites of a store.

    Parameters
    ----------
    store : Store
        The store.
    curated : Path or UPath
        The curated set of the run, which has the donors of virtual composites.

    Raises
    ------
    StoreError
        The store is virtual, and the run has no curated set yet.
    """
    if not store.virtual:
        return _Stored(store)
    if not exists(curated / METADATA):
        raise StoreError(
            f"{store.path}: has no stored pixels, and the run has no curated set yet with donors to render them; "
            "finish the build, or use `synthpipe replay`, which reads the patches"
        )
    from synthpipe.curated.rendered import Renderer  # loads compiled kernels

    return _Rendered(store, Renderer(curated, Store.open(curated).attributes))


class _Stored:
    def __init__(self, store: Store) -> None:
        self._store, self._images, self._masks = store, store.images(), store.masks()

    def pixels(self, index: int) -> tuple[Image, Mask]:
        return self._images[index], self._masks[index]

    def recipe_text(self, index: int) -> str:
        return str(self._store.recipes([index])[0] or "") if "recipe" in self._store.written else ""


class _Rendered:
    def __init__(self, store: Store, renderer: Renderer) -> None:
        self._store, self._renderer = store, renderer

    def pixels(self, index: int) -> tuple[Image, Mask]:
        composite = self._renderer.render(*self._origin(index))
        return composite.image, composite.mask

    def recipe_text(self, index: int) -> str:
        return recipe_to_json(self._renderer.render(*self._origin(index)).recipe)

    def _origin(self, index: int) -> tuple[Strategy, int]:
        """Return the strategy of a composite, and its index among the candidates."""
        if strategy := self._store.attributes.get("strategy"):
            return strategy, index
        code, origin = (int(self._store.read(f"origin_{name}", [index])[0]) for name in ("strategy", "index"))
        if code >= len(STRATEGIES):
            raise StoreError(f"{self._store.path}: sample {index} has no strategy, so it cannot be rendered")
        return STRATEGIES[code], origin
