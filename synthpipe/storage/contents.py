"""What the composites of a group are, added up from its small arrays: block by block, whatever is there by now."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from synthpipe.core.errors import StoreError
from synthpipe.core.records import REASONS, STRATEGIES
from synthpipe.core.taxonomy import LOST
from synthpipe.storage.nodes import HOW_TO_MEND, taxonomy_of
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import arrays_of
from synthpipe.storage.shards import complete_shards, read_range, shard_size

_SHARDS_AT_ONCE = 16  # that are read together
_MASKS = 1024  # whose pixels are counted


def contents(group: zarr.Group) -> dict[str, Any]:
    """Describe the composites of a group; empty for a group without any. JSON-ready.

    Returns
    -------
    dict
        Of what is there: ``class_share`` (of pixels), ``class_occurrence`` (of composites), ``p_real`` (least, mean,
        greatest, how many there are), ``verdicts``, ``strategies`` and ``slides`` (used, known). In a store without
        pixel counts ``class_share`` is that of ``masks_counted`` masks, evenly over those that are stored.

    Raises
    ------
    StoreError
        A shard is damaged.
    """
    arrays = arrays_of(group)
    if "image" not in arrays:
        return {}
    names = taxonomy_of(group).names
    found: dict[str, Any] = {}
    if "class_pixels" in arrays:
        pixels = sum((block.sum(axis=0, dtype=np.int64) for block in _blocks(arrays["class_pixels"])), np.int64(0))
        shares = pixels / max(1, int(np.sum(pixels)))
        found["class_share"] = _named((*names, "background"), np.atleast_1d(shares).tolist())
    elif "mask" in arrays:
        found["class_share"], found["masks_counted"] = _shares_of_masks(arrays["mask"], (*names, "background"))
    if "labels" in arrays:
        shown, count = np.zeros(len(names), np.int64), 0
        for block in _blocks(arrays["labels"]):
            shown, count = shown + (block == 1).sum(axis=0), count + len(block)
        found["class_occurrence"] = _named(names, (shown / max(1, count)).tolist())
    if "p_real" in arrays:
        found["p_real"] = _scores(arrays["p_real"])
    if "verdict" in arrays:
        found["verdicts"] = _counted(arrays["verdict"], dict(enumerate(REASONS)))
    if "origin_strategy" in arrays:
        found["strategies"] = _counted(arrays["origin_strategy"], {**dict(enumerate(STRATEGIES)), LOST: "real patches"})
    if "donor_groups" in arrays:
        known = len(group.attrs.get("groups", ()))  # type: ignore[arg-type]
        uses = sum((composites_of_each(block, known) for block in _blocks(arrays["donor_groups"])), np.int64(0))
        found["slides"] = {"used": int(np.count_nonzero(uses)), "known": known}
    return found


def composites_of_each(numbers: NDArray[np.integer], length: int) -> NDArray[np.int64]:
    """Return in how many composites each of `length` donors, or slides, occurs: once, however often it is used.

    Parameters
    ----------
    numbers : (N, U) integer
        Of what each composite uses; negative ones are none.

    Raises
    ------
    StoreError
        A number is not less than `length`.
    """
    if (most := int(numbers.max(initial=-1))) >= length:
        raise StoreError(f"a composite uses number {most} of {length} donors or slides; {HOW_TO_MEND}")
    ordered = np.sort(numbers, axis=1)
    first = np.diff(ordered, axis=1, prepend=-1) != 0
    return np.bincount(ordered[first & (ordered >= 0)], minlength=length)


def _named(names: tuple[str, ...], values: list[float]) -> dict[str, float]:
    return dict(zip(names, values, strict=False))


def _scores(array: zarr.Array[Any]) -> dict[str, Any]:
    count, total, least, greatest = 0, 0.0, math.inf, -math.inf
    for block in _blocks(array):
        scores = block[~np.isnan(block)]
        if len(scores):
            count, total = count + len(scores), total + float(scores.sum(dtype=np.float64))
            least, greatest = min(least, float(scores.min())), max(greatest, float(scores.max()))
    if not count:
        return {"count": 0}
    return {"count": count, "least": least, "mean": total / count, "greatest": greatest}


def _shares_of_masks(array: zarr.Array[Any], names: tuple[str, ...]) -> tuple[dict[str, float], int]:
    """Return the classes' shares of the pixels of some masks, and of how many."""
    size, length = shard_size(array), array.shape[0]
    stored = [np.arange(shard * size, min((shard + 1) * size, length)) for shard in sorted(complete_shards(array))]
    places = np.concatenate([*stored, np.arange(0)])
    chosen = places[np.linspace(0, len(places) - 1, min(_MASKS, len(places))).round().astype(int)].tolist()
    pixels, reader = np.zeros(256, np.int64), SampleReader(array)
    for place in chosen:
        pixels += np.bincount(reader[place].ravel(), minlength=256)
    shares = pixels[: len(names)] / max(1, int(pixels.sum()))
    return _named(names, shares.tolist()), len(chosen)


def _counted(array: zarr.Array[Any], names: Mapping[int, str]) -> dict[str, int]:
    counts = np.zeros(256, np.int64)
    for block in _blocks(array):
        counts += np.bincount(block, minlength=256)
    return {name: int(counts[code]) for code, name in names.items() if code != LOST or counts[code]}


def _blocks(array: zarr.Array[Any]) -> Iterator[NDArray[Any]]:
    """Yield the samples of the shards that are stored, some shards at a time where they follow each other."""
    size, length = shard_size(array), array.shape[0]
    run: list[int] = []
    for shard in sorted(complete_shards(array)):
        if shard * size >= length:
            break
        if run and (shard != run[-1] + 1 or len(run) == _SHARDS_AT_ONCE):
            yield read_range(array, run[0] * size, min((run[-1] + 1) * size, length))
            run = []
        run.append(shard)
    if run:
        yield read_range(array, run[0] * size, min((run[-1] + 1) * size, length))
