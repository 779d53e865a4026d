"""Add up the small arrays of a store, block by block: the classes, donors, scores and verdicts of its composites.

`contents` describes any store in a few numbers. `tally_candidates` adds up a strategy's candidates for a report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import StoreError
from synthpipe.core.records import REASONS, STRATEGIES, PatchRef
from synthpipe.core.spacing import evenly_spaced
from synthpipe.core.taxonomy import LOST
from synthpipe.storage.donor_groups import read_donor_groups
from synthpipe.storage.nodes import HOW_TO_MEND
from synthpipe.storage.store import Store
from synthpipe.storage.stores import CompositeStore

Counts = NDArray[np.int64]

_KEPT = REASONS.index("kept")
_MASKS = 1024  # masks whose pixels are counted


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The sums over a strategy's complete candidates.

    The *counted* candidates are the kept candidates, or all candidates if no candidate has a verdict.

    Attributes
    ----------
    p_real : (N,) float32
        The filter's scores; NaN for candidates without a score.
    verdicts : (N,) uint8
        Indices in `records.REASONS`; ``LOST`` if a candidate is not judged or not complete.
    stored : (N,) bool
        Whether a candidate is stored in all arrays.
    class_pixels : (C + 1,) int64
        The number of pixels of each class, then of the background, in the counted candidates.
    all_class_pixels : (C + 1,) int64
        The same numbers for all stored candidates.
    together : (C, C) int64
        The number of counted candidates that show both classes. The diagonal has the number for each single class.
    donor_uses, group_uses : (D,) and (G,) int64
        The number of counted candidates that use each donor patch, and each slide or patient.
    """

    p_real: NDArray[np.float32]
    verdicts: NDArray[np.uint8]
    stored: NDArray[np.bool_]
    class_pixels: Counts
    all_class_pixels: Counts
    together: Counts
    donor_uses: Counts
    group_uses: Counts

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Whether each candidate is kept, (N,)."""
        kept: NDArray[np.bool_] = self.verdicts == _KEPT
        return kept

    @property
    def judged(self) -> bool:
        """Whether any candidate has a verdict."""
        return bool((self.verdicts != LOST).any())

    @property
    def scored(self) -> bool:
        """Whether any candidate has a score."""
        return not bool(np.isnan(self.p_real).all())


def tally_candidates(
    store: CompositeStore, classes: int, donors: Sequence[PatchRef], planned: int | None = None
) -> Tally:
    """Add up the candidates of a strategy.

    Parameters
    ----------
    store : CompositeStore
        The candidates. Scores, verdicts and some shards can be missing.
    classes : int
        The number of tissue classes.
    donors : sequence of PatchRef
        The donors of the catalog, in its order.
    planned : int, optional
        The number of candidates in the plan (default: all). Candidates beyond the plan are not counted, because they
        were made for earlier settings.

    Raises
    ------
    StoreError
        A stored array is damaged.
    """
    count = store.length("class_pixels") if planned is None else planned
    groups, group_of = np.unique([donor.group for donor in donors], return_inverse=True)
    found = Tally(
        np.full(count, np.nan, np.float32),
        np.full(count, LOST, np.uint8),
        np.zeros(count, bool),
        np.zeros(classes + 1, np.int64),
        np.zeros(classes + 1, np.int64),
        np.zeros((classes, classes), np.int64),
        np.zeros(len(donors), np.int64),
        np.zeros(len(groups), np.int64),
    )
    blocks = list(store.blocks(stop=count))
    for name, target in (("p_real", found.p_real), ("verdict", found.verdicts)):
        if store.has(name):
            for block in blocks:
                values = store.read(name, block)
                target[block.start : block.start + len(values)] = values
    judged = found.judged
    for block in blocks:
        found.stored[block] = True
        pixels, drawn = store.class_pixels(block), store.donors(block)
        found.all_class_pixels[:] += pixels.sum(axis=0)
        if judged:
            kept = found.verdicts[block] == _KEPT
            pixels, drawn = pixels[kept], drawn[kept]
        found.class_pixels[:] += pixels.sum(axis=0)
        shown = (pixels[:, :-1] > 0).astype(np.int64)
        found.together[:] += shown.T @ shown
        found.donor_uses[:] += composites_of_each(drawn, len(donors))
        found.group_uses[:] += composites_of_each(np.where(drawn < 0, -1, group_of[drawn]), len(groups))
    return found


def score_counts(tallied: Tally, bins: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two histograms of scores: of the kept candidates, and of the others. They have `bins` bins from 0 to 1."""
    scored = ~np.isnan(tallied.p_real)
    counts = [
        np.histogram(tallied.p_real[scored & part], bins, (0, 1))[0].astype(np.int64)
        for part in (tallied.kept, ~tallied.kept)
    ]
    return counts[0], counts[1]


def contents(store: Store) -> dict[str, Any]:
    """Describe the stored composites of a store, JSON-ready. The description of an empty store is empty.

    Returns
    -------
    dict
        For the arrays that exist: ``class_share`` (of pixels), ``class_occurrence`` (of composites), ``p_real`` (count,
        least, mean, greatest), ``verdicts``, ``strategies`` and ``slides`` (used, known). In a store without pixel
        counts, ``class_share`` is measured on ``masks_counted`` masks, evenly spread over the stored masks.

    Raises
    ------
    StoreError
        A shard is damaged.
    """
    arrays = store.names()
    if not arrays & {store.last, "group_steps"}:
        return {}
    names = store.taxonomy.names
    found: dict[str, Any] = {}
    if "class_pixels" in arrays:
        pixels = sum((block.sum(axis=0, dtype=np.int64) for block in _values(store, "class_pixels")), np.int64(0))
        shares = pixels / max(1, int(np.sum(pixels)))
        found["class_share"] = _named((*names, "background"), np.atleast_1d(shares).tolist())
    elif "mask" in arrays:
        found["class_share"], found["masks_counted"] = _shares_of_masks(store, (*names, "background"))
    if "labels" in arrays:
        shown, count = np.zeros(len(names), np.int64), 0
        for block in _values(store, "labels"):
            shown, count = shown + (block == 1).sum(axis=0), count + len(block)
        found["class_occurrence"] = _named(names, (shown / max(1, count)).tolist())
    if "p_real" in arrays:
        found["p_real"] = _scores(store)
    if "verdict" in arrays:
        found["verdicts"] = _counted(store, "verdict", dict(enumerate(REASONS)))
    if "origin_strategy" in arrays:
        found["strategies"] = _counted(store, "origin_strategy", {**dict(enumerate(STRATEGIES)), LOST: "real patches"})
    for name in arrays & {"donor_groups", "group_steps"}:
        known = len(store.attributes.get("groups", ()))
        blocks = (read_donor_groups(store, block) for block in store.blocks(name))
        uses = sum((composites_of_each(block, known) for block in blocks), np.int64(0))
        found["slides"] = {"used": int(np.count_nonzero(uses)), "known": known}
    return found


def composites_of_each(numbers: NDArray[np.integer], length: int) -> NDArray[np.int64]:
    """Count the composites that use each donor (or slide). A composite counts once, even if it uses a donor twice.

    Parameters
    ----------
    numbers : (N, U) integer
        The indices of the donors (or slides) of each composite. Negative values are ignored.
    length : int
        The number of donors (or slides).

    Returns
    -------
    (length,) int64
        The number of composites for each donor (or slide).

    Raises
    ------
    StoreError
        An index is not less than `length`.
    """
    if (most := int(numbers.max(initial=-1))) >= length:
        raise StoreError(f"a composite uses donor or slide {most}, but there are only {length}; {HOW_TO_MEND}")
    ordered = np.sort(numbers, axis=1)
    first = np.diff(ordered, axis=1, prepend=-1) != 0
    return np.bincount(ordered[first & (ordered >= 0)], minlength=length)


def _named(names: tuple[str, ...], values: list[float]) -> dict[str, float]:
    return dict(zip(names, values, strict=False))


def _scores(store: Store) -> dict[str, Any]:
    count, total, least, greatest = 0, 0.0, math.inf, -math.inf
    for block in _values(store, "p_real"):
        scores = block[~np.isnan(block)]
        if len(scores):
            count, total = count + len(scores), total + float(scores.sum(dtype=np.float64))
            least, greatest = min(least, float(scores.min())), max(greatest, float(scores.max()))
    if not count:
        return {"count": 0}
    return {"count": count, "least": least, "mean": total / count, "greatest": greatest}


def _shares_of_masks(store: Store, names: tuple[str, ...]) -> tuple[dict[str, float], int]:
    """Return the share of each class in the pixels of some stored masks, and the number of these masks."""
    size, length = store.shard, store.length("mask")
    stored = [
        np.arange(shard * size, min((shard + 1) * size, length)) for shard in sorted(store.complete_shards("mask"))
    ]
    indices = np.concatenate([*stored, np.arange(0)])
    chosen = indices[evenly_spaced(len(indices), _MASKS)].tolist()
    pixels, reader = np.zeros(256, np.int64), store.masks()
    for index in chosen:
        pixels += np.bincount(reader[index].ravel(), minlength=256)
    shares = pixels[: len(names)] / max(1, int(pixels.sum()))
    return _named(names, shares.tolist()), len(chosen)


def _counted(store: Store, array: str, names: Mapping[int, str]) -> dict[str, int]:
    counts = np.zeros(256, np.int64)
    for block in _values(store, array):
        counts += np.bincount(block, minlength=256)
    return {name: int(counts[code]) for code, name in names.items() if code != LOST or counts[code]}


def _values(store: Store, name: str) -> Iterator[NDArray[Any]]:
    """Yield the stored samples of a small array, block by block."""
    return (store.read(name, block) for block in store.blocks(name))
