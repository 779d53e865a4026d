"""Facts about a curated set: its digest, its counts, and its text for people."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.display import printable, without_secrets
from synthpipe.core.records import STRATEGIES
from synthpipe.core.taxonomy import LOST

if TYPE_CHECKING:
    from synthpipe.curated.curated_set import CuratedSet
    from synthpipe.curated.pixels import Pixels

_BLOCK = 256  # masks that are read together


def digest(curated: CuratedSet, origins: NDArray[np.int64]) -> str:
    """Return the SHA-256 of everything that decides the samples; `origins` are their indices among candidates."""
    made_of = [curated.fingerprint, curated.source, curated.groups]
    sha256 = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    for values in (curated.strategies, origins, curated.p_real, curated.labels, curated.donor_groups):
        sha256.update(np.ascontiguousarray(values).data)
    if not curated.is_whole:
        sha256.update(np.ascontiguousarray(curated.indices).data)
    return sha256.hexdigest()


def count_pixels(pixels: Pixels, indices: NDArray[np.int64], values: int) -> NDArray[np.int64]:
    """Return (N, values) int64: how often each value below `values` occurs in the masks of the samples at `indices`."""
    counts = np.empty((len(indices), values), np.int64)
    for start in range(0, len(indices), _BLOCK):
        for number, mask in enumerate(pixels.read_masks(indices[start : start + _BLOCK].tolist()), start):
            counts[number] = np.bincount(mask.ravel(), minlength=values)[:values]
    return counts


def count_strategies(strategies: NDArray[np.uint8]) -> dict[str, int]:
    """Return the number of samples of each strategy that occurs; the key of real patches is ``real``."""
    names = {LOST: "real", **dict(enumerate(STRATEGIES))}
    found = zip(*np.unique(strategies, return_counts=True), strict=True)
    return {names[int(code)]: int(count) for code, count in found}


def summary(curated: CuratedSet, stored: int) -> str:
    """Return the text of a set for people: counts, classes, slides and path; its store has `stored` samples."""
    height, width = curated.size
    counts = ", ".join(f"{count} {strategy}" for strategy, count in curated.counts().items()) or "none"
    classes = zip(curated.taxonomy.names, np.count_nonzero(curated.labels, axis=0), strict=True)
    slides = len(np.unique(curated.donor_groups[curated.donor_groups >= 0]))
    part = "" if curated.is_whole else f", a part of {stored}"
    lines = [
        f"CuratedSet of {len(curated)} samples ({counts}), {height} x {width} pixels{part}",
        f"  classes  {', '.join(f'{name} (in {count})' for name, count in classes)}",
        f"  slides   {slides} slides or patients, which split() keeps apart",
        f"  path     {without_secrets(curated.path)}",
    ]
    return "\n".join(map(printable, lines))
