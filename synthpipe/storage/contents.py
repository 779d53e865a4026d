"""What the composites of a group are, added up from its small arrays: block by block, whatever is there by now."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from synthpipe.records import REASONS, STRATEGIES
from synthpipe.storage.schema import arrays_of
from synthpipe.storage.shards import complete_shards, read_range, shard_size
from synthpipe.taxonomy import Taxonomy

_SHARDS_AT_ONCE = 16  # that are read together


def contents(group: zarr.Group) -> dict[str, Any]:
    """Describe the composites of a group; empty for a group without any. JSON-ready.

    Returns
    -------
    dict
        Of what is there: ``class_share`` (of pixels) or ``class_occurrence`` (of composites), ``p_real`` (least, mean,
        greatest, how many there are), ``verdicts`` and ``strategies``.

    Raises
    ------
    StoreError
        A shard is damaged.
    """
    arrays = arrays_of(group)
    if "image" not in arrays:
        return {}
    names = Taxonomy.from_json(dict(group.attrs)).names
    found: dict[str, Any] = {}
    if "class_pixels" in arrays:
        pixels = sum((block.sum(axis=0, dtype=np.int64) for block in _blocks(arrays["class_pixels"])), np.int64(0))
        shares = pixels / max(1, int(np.sum(pixels)))
        found["class_share"] = _named((*names, "background"), np.atleast_1d(shares).tolist())
    if "labels" in arrays:
        shown, count = np.zeros(len(names), np.int64), 0
        for block in _blocks(arrays["labels"]):
            shown, count = shown + (block == 1).sum(axis=0), count + len(block)
        found["class_occurrence"] = _named(names, (shown / max(1, count)).tolist())
    if "p_real" in arrays:
        found["p_real"] = _scores(arrays["p_real"])
    if "verdict" in arrays:
        found["verdicts"] = _counted(arrays["verdict"], REASONS)
    if "origin_strategy" in arrays:
        found["strategies"] = _counted(arrays["origin_strategy"], STRATEGIES)
    return found


def composites_of_each(numbers: NDArray[np.integer], length: int) -> NDArray[np.int64]:
    """Return in how many composites each of `length` donors, or slides, occurs: once, however often it is used.

    Parameters
    ----------
    numbers : (N, U) integer
        Of what each composite uses; negative ones are none.
    """
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


def _counted(array: zarr.Array[Any], names: tuple[str, ...]) -> dict[str, int]:
    counts = np.zeros(256, np.int64)
    for block in _blocks(array):
        counts += np.bincount(block, minlength=256)
    return {name: int(counts[code]) for code, name in enumerate(names)}


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
