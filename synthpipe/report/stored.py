"""Access to single stored composites by index, in a curated set or among a strategy's candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from synthpipe.core.display_names import VERDICT, candidate, score
from synthpipe.core.errors import StoreError
from synthpipe.core.records import REASONS, STRATEGIES, Image, Mask, Reason, Recipe
from synthpipe.core.spacing import evenly_spaced
from synthpipe.core.strict_json import parse_json
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.curated.composites import composites_of
from synthpipe.files.locations import Location, exists
from synthpipe.report.composites import VisibleRegion, class_shares, visible_regions
from synthpipe.storage.nodes import METADATA, damaged
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.store import Store
from synthpipe.storage.stores import CompositeStore, CuratedStore


@dataclass(frozen=True, slots=True, eq=False)
class StoredComposite:
    """A composite, or a real patch with its predicted mask, from a store.

    Attributes
    ----------
    index : int
        Index in the store.
    origin : str
        Strategy and candidate index, such as ``mosaic 41``, or the name of the real patch.
    image, mask : (H, W, 3) and (H, W) uint8
        Pixels and class indices.
    recipe : Recipe or None
        The recipe of a composite. None stands for a real patch, or for a recipe that is not stored.
    source : mapping
        The JSON object that describes the recipe or the real patch, or an empty dict if it is not stored.
    p_real : float or None
        The filter's score; None if there is no filter.
    verdict : Reason or None
        The verdict on a candidate, or None if the composite is not judged.
    """

    index: int
    origin: str
    image: Image
    mask: Mask
    recipe: Recipe | None
    source: dict[str, Any]
    p_real: float | None
    verdict: Reason | None

    def regions(self) -> tuple[VisibleRegion, ...]:
        """Return the visible regions, largest first. A real patch has no regions."""
        return visible_regions(self.recipe, self.mask)[0] if self.recipe else ()

    def caption(self) -> str:
        """Return name, verdict and score in one line, such as ``Mosaic 41, kept, score 0.812``."""
        verdict = VERDICT[self.verdict] if self.verdict else ""
        name = candidate(self.recipe.strategy, self.recipe.index) if self.recipe else self.origin
        return ", ".join(filter(None, (name, verdict, score(self.p_real))))


class StoredComposites:
    """A sequence of the composites in a Zarr group. A composite is read when it is accessed.

    Parameters
    ----------
    store : Store
        A curated set, a strategy's candidates, or a strategy's filter composites. The store may be incomplete.
    curated : Path or UPath
        The curated set of the run, which has the donors of virtual composites.

    Raises
    ------
    StoreError
        The group holds no composites.
    """

    def __init__(self, store: Store, curated: Location) -> None:
        self._store, self._names, self._where = store, store.names(), store.path
        if not self._names >= store.written.keys():
            inside = ", ".join(store.groups()) or "none"
            raise StoreError(
                f"{self._where}: has no composites of its own; give one of its groups ({inside}), or a curated.zarr"
            )
        self.taxonomy = store.taxonomy
        self._composites = composites_of(store, curated)

    def __len__(self) -> int:
        return self._store.length()

    def __getitem__(self, index: int) -> StoredComposite:
        if not 0 <= index < len(self):
            raise StoreError(f"{self._where}: no sample {index}; there are {len(self)}, counted from 0")
        first, shard = next(iter(self._store.written)), index // self._store.shard
        if not exists(self._store.object(first, shard)):
            raise StoreError(f"{self._where}: sample {index} is not stored yet; see `synthpipe status`")
        image, mask = self._composites.pixels(index)
        try:
            source = parse_json(self._composites.recipe_text(index) or "{}")
        except ValueError as error:
            raise self._store.unreadable_recipe(index, str(error)) from error
        if not isinstance(source, dict):
            raise self._store.unreadable_recipe(index, f"it is {type(source).__name__}, expected an object")
        recipe = self._recipe(index, mask.shape) if "strategy" in source else None
        p_real, verdict = self._value("p_real", index), self._value("verdict", index)
        if verdict is not None and len(REASONS) <= verdict < LOST:
            raise damaged(
                f"{self._where}/verdict",
                f"sample {index} has the verdict code {verdict}; expected one of {len(REASONS)} codes",
            )
        return StoredComposite(
            index,
            f"{recipe.strategy} {recipe.index}" if recipe else str(source.get("patch", f"sample {index}")),
            image,
            mask,
            recipe,
            source,
            None if p_real is None or math.isnan(p_real) else float(p_real),
            None if verdict is None or verdict == LOST else REASONS[int(verdict)],
        )

    def evenly_spaced(self, count: int) -> list[int]:
        """Return at most `count` indices, evenly spaced over the samples that are stored completely."""
        size, complete = self._store.shard, sorted(self._store.complete_shards())
        made = sum(max(0, min(size, len(self) - shard * size)) for shard in complete)
        return [complete[each // size] * size + each % size for each in evenly_spaced(made, count).tolist()]

    def _recipe(self, index: int, canvas: tuple[int, ...]) -> Recipe:
        return self._store.checked_recipe(self._composites.recipe_text(index), index, canvas)

    def _value(self, name: str, index: int) -> Any:
        """Return a value of a small array, or None if the array lacks the value, for example during a build."""
        if name not in self._names or index >= self._store.length(name):
            return None
        return self._store.read(name, [index])[0]


def open_composites(path: Location) -> StoredComposites:
    """Open the composites at `path`: a run with a curated set, or a Zarr group with composites.

    Raises
    ------
    StoreError
        The run has no curated set yet, or the group has no composites.
    """
    run = RunDirectory(path)
    if not run.exists():
        return _open_store(path)
    if exists(run.curated / METADATA):
        return StoredComposites(CuratedStore.open(run.curated), run.curated)
    names = [each for each in STRATEGIES if exists(run.candidates / each / "zarr.json")]
    stored = ", ".join(str(run.candidates / each) for each in names)
    advice = f"give a store of candidates instead: {stored}" if names else "it has no candidates either"
    raise StoreError(f"{path}: has no curated set yet; {advice}")


def _open_store(path: Location) -> StoredComposites:
    """Open the composites of a Zarr group of a run, or of a curated set outside a run."""
    store = Store.open(path)
    if "strategy" in store.attributes:
        return StoredComposites(CompositeStore.open(path), RunDirectory(path.absolute().parent.parent).curated)
    return StoredComposites(CuratedStore.open(path) if store.has("origin_index") else store, path)


def as_json(stored: StoredComposite, taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the recipe, the verdict and the visible regions of a composite as values that JSON can store."""
    return {
        "index": stored.index,
        "origin": stored.origin,
        "p_real": stored.p_real,
        "verdict": stored.verdict,
        "class_share": dict(class_shares(stored.mask, taxonomy)),
        "regions": list(_regions(stored, taxonomy)),
        "recipe": stored.source,
    }


def _regions(stored: StoredComposite, taxonomy: Taxonomy) -> Iterator[dict[str, Any]]:
    for each in stored.regions():
        yield {
            "number": each.region.number,
            "patch": each.region.patch,
            "class": class_name(each, taxonomy),
            "share": each.share,
            "place": each.region.position,
            "window": each.region.window,
        }


def class_name(region: VisibleRegion, taxonomy: Taxonomy) -> str:
    """Return the name of the most frequent class in a region."""
    return taxonomy.names[region.label] if region.label < len(taxonomy) else "background"
