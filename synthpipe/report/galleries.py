"""Choose composites for the galleries: some with each verdict, evenly spaced over the sorted scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.records import REASONS
from synthpipe.core.spacing import evenly_spaced
from synthpipe.storage.tallies import Tally

_LEAST = 3  # smallest number of examples of each reason of rejection


def choose_kept(tallied: Tally, count: int) -> list[int]:
    """Return the indices of at most `count` kept candidates, highest score first.

    Before the candidates are judged, all stored candidates are eligible.
    """
    return spaced_by_score(tallied.p_real, tallied.kept if tallied.judged else tallied.stored, count)


def choose_rejected(tallied: Tally, count: int) -> list[int]:
    """Return the indices of about `count` rejected candidates, highest score first. Each reason has examples."""
    parts = [tallied.verdicts == number for number, reason in enumerate(REASONS) if reason != "kept"]
    total = sum(map(np.count_nonzero, parts))
    indices: list[int] = []
    for part in parts:
        share = count * np.count_nonzero(part) / max(1, total)
        indices += spaced_by_score(tallied.p_real, part, max(_LEAST, int(share)))
    scores = tallied.p_real
    return sorted(indices, key=lambda index: (-np.nan_to_num(scores[index], nan=-1.0), index))


def spaced_by_score(scores: NDArray[np.float32], among: NDArray[np.bool_], count: int) -> list[int]:
    """Return at most `count` indices, evenly spaced over the candidates in order of falling scores.

    The first and the last candidate are always included. Equal scores come in index order, and NaN comes last.

    Parameters
    ----------
    scores : (N,) float32
        Scores of all candidates; NaN for candidates without a score.
    among : (N,) bool
        The candidates to choose from.
    count : int
        The largest number of indices to return.
    """
    indices = np.flatnonzero(among)
    ordered = indices[np.argsort(-scores[indices], kind="stable")]
    spaced: list[int] = ordered[evenly_spaced(len(ordered), count)].tolist()
    return spaced
