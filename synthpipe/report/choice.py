"""Which composites a report shows: some of each kind, evenly over the sorted scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.records import REASONS
from synthpipe.storage.tallies import Tally

_LEAST = 3  # of a reason of rejection, however rare it is


def chosen_kept(tallied: Tally, count: int) -> list[int]:
    """Return the indices of at most `count` kept candidates, highest score first; of unjudged ones, where none is."""
    return evenly(tallied.p_real, tallied.kept if tallied.judged else tallied.stored, count)


def chosen_rejected(tallied: Tally, count: int) -> list[int]:
    """Return the indices of about `count` rejected candidates, highest score first: some of every reason."""
    parts = [tallied.verdicts == number for number, reason in enumerate(REASONS) if reason != "kept"]
    total = sum(map(np.count_nonzero, parts))
    indices: list[int] = []
    for part in parts:
        share = count * np.count_nonzero(part) / max(1, total)
        indices += evenly(tallied.p_real, part, max(_LEAST, int(share)))
    scores = tallied.p_real
    return sorted(indices, key=lambda index: (-np.nan_to_num(scores[index], nan=-1.0), index))


def evenly(scores: NDArray[np.float32], among: NDArray[np.bool_], count: int) -> list[int]:
    """Return at most `count` indices, evenly over those `among` in the order of falling scores, both ends included.

    Equal scores come in index order, and NaN last.
    """
    indices = np.flatnonzero(among)
    ordered = indices[np.argsort(-scores[indices], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    found: list[int] = ordered[places].tolist()
    return found
