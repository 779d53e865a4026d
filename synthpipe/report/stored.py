"""The composites of any store, by their index: of a run, of a curated set, of one strategy's candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from synthpipe.core.display_names import VERDICT, candidate, score
from synthpipe.core.errors import StoreError
from synthpipe.core.records import REASONS, STRATEGIES, Image, Mask, Reason, Recipe
from synthpipe.core.strict_json import parse_json
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.files.locations import Location, exists
from synthpipe.report.composites import Seen, class_shares, seen
from synthpipe.storage.nodes import damaged
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.store import Store

_NEEDED = ("recipe", "mask", "image")


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A composite as a store holds it, or a real patch with its predicted mask.

    Attributes
    ----------
    index : int
        Its place in the store.
    origin : str
        Strategy and index among the candidates, or the patch: its name for people.
    image, mask : (H, W, 3) and (H, W) uint8
        Its pixels.
    recipe : Recipe or None
        None of a real patch.
    source : mapping
        What the store holds as its recipe.
    p_real : float or None
        Its score.
    verdict : Reason or None
        What became of a candidate.
    """

    index: int
    origin: str
    image: Image
    mask: Mask
    recipe: Recipe | None
    source: dict[str, Any]
    p_real: float | None
    verdict: Reason | None

    def regions(self) -> tuple[Seen, ...]:
        """Return which patch each region came from, largest first; empty of a real patch."""
        return seen(self.recipe, self.mask)[0] if self.recipe else ()

    def told(self) -> str:
        """Say in a few words what it is."""
        verdict = VERDICT[self.verdict] if self.verdict else ""
        name = candidate(self.recipe.strategy, self.recipe.index) if self.recipe else self.origin
        return ", ".join(filter(None, (name, verdict, score(self.p_real))))


class StoredComposites:
    """The composites of a group, read one at a time.

    Parameters
    ----------
    store : Store
        A curated set, or a strategy's candidates, or composites that train a filter; may be incomplete.

    Raises
    ------
    StoreError
        The group holds no composites.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._names, self._where = store, store.names(), store.path
        if not self._names >= set(_NEEDED):
            inside = ", ".join(store.groups()) or "none"
            raise StoreError(
                f"{self._where}: holds no composites itself; its groups: {inside}. Name one of them, or a curated.zarr"
            )
        self.taxonomy = store.taxonomy
        self._images, self._masks = store.images(), store.masks()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Stored:
        if not 0 <= index < len(self):
            raise StoreError(f"{self._where}: no sample {index}; there are {len(self)}, counted from 0")
        text = str(self._value("recipe", index) or "")
        if not text:
            raise StoreError(f"{self._where}: sample {index} is not made yet; see `synthpipe status`")
        try:
            source = parse_json(text)
        except ValueError as error:
            raise self._store.unreadable_recipe(index, str(error)) from error
        if not isinstance(source, dict):
            raise self._store.unreadable_recipe(index, f"it is {type(source).__name__}, expected an object")
        recipe = self._store.recipe(index, self._masks.shape[1:]) if "strategy" in source else None
        p_real, verdict = self._value("p_real", index), self._value("verdict", index)
        if verdict is not None and len(REASONS) <= verdict < LOST:
            raise damaged(
                f"{self._where}/verdict", f"sample {index} has code {verdict}; expected one of {len(REASONS)}"
            )
        return Stored(
            index,
            f"{recipe.strategy} {recipe.index}" if recipe else str(source.get("patch")),
            self._images[index],
            self._masks[index],
            recipe,
            source,
            None if p_real is None or math.isnan(p_real) else float(p_real),
            None if verdict is None or verdict == LOST else REASONS[int(verdict)],
        )

    def evenly(self, count: int) -> list[int]:
        """Return at most `count` indices, evenly over all that are made by now."""
        size, complete = self._store.shard, sorted(self._store.complete_shards(*_NEEDED))
        made = sum(max(0, min(size, len(self) - shard * size)) for shard in complete)
        count = min(count, made)
        places = [number * (made - 1) // max(1, count - 1) for number in range(count)]
        return [complete[place // size] * size + place % size for place in places]

    def _value(self, name: str, index: int) -> Any:
        """Return a value of a small array, which may be shorter than the others while a build goes on."""
        if name not in self._names or index >= self._store.length(name):
            return None
        return self._store.read(name, [index])[0]


def open_composites(path: Location) -> StoredComposites:
    """Open the composites at `path`: of a run, its curated set.

    Raises
    ------
    StoreError
        There are none.
    """
    run = RunDirectory(path)
    if not run.exists():
        return StoredComposites(Store.open(path))
    if exists(run.curated / "zarr.json"):
        return StoredComposites(Store.open(run.curated))
    names = [each for each in STRATEGIES if exists(run.candidates / each / "zarr.json")]
    there = ", ".join(str(run.candidates / each) for each in names) or "no candidates either"
    raise StoreError(f"{path}: has no curated set yet; there is {there}")


def as_json(stored: Stored, taxonomy: Taxonomy) -> dict[str, Any]:
    """Describe a composite, JSON-ready: its recipe, and the patch, class and share of each region that is seen."""
    return {
        "index": stored.index,
        "origin": stored.origin,
        "p_real": stored.p_real,
        "verdict": stored.verdict,
        "class_share": dict(class_shares(stored.mask, taxonomy)),
        "regions": list(_regions(stored, taxonomy)),
        "recipe": stored.source,
    }


def _regions(stored: Stored, taxonomy: Taxonomy) -> Iterator[dict[str, Any]]:
    for each in stored.regions():
        yield {
            "number": each.region.number,
            "patch": each.region.patch,
            "class": class_name(each, taxonomy),
            "share": each.share,
            "place": each.region.place,
            "window": each.region.window,
        }


def class_name(found: Seen, taxonomy: Taxonomy) -> str:
    """Name what most of a region's pixels are."""
    return taxonomy.names[found.label] if found.label < len(taxonomy) else "background"
