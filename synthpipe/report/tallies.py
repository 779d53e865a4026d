"""Counts over a strategy's candidates: scores, verdicts, class pixels, class pairs and uses of donors.

The arrays are read in blocks, so memory holds only a few bytes for each candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray

from synthpipe.core.records import REASONS, PatchRef
from synthpipe.core.taxonomy import LOST
from synthpipe.storage.contents import composites_of_each
from synthpipe.storage.schema import CANDIDATE_ARRAYS, array, complete_in_all, has_array
from synthpipe.storage.shards import read_range, shard_size

Counts = NDArray[np.int64]

_KEPT = REASONS.index("kept")


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Counts over the candidates of a strategy.

    The *counted* candidates are the kept ones, or all stored ones before they are judged.

    Attributes
    ----------
    p_real : (N,) float32
        The filter's scores; NaN for candidates without one.
    verdicts : (N,) uint8
        Codes, which are indices of `records.REASONS`; ``LOST`` for candidates that are not judged or not stored.
    stored : (N,) bool
        Whether a candidate is stored completely.
    class_pixels : (C + 1,) int64
        Pixels of every class, and of the background, in the counted candidates.
    all_class_pixels : (C + 1,) int64
        The same pixels in all stored candidates.
    together : (C, C) int64
        The number of counted candidates in which two classes occur together; on the diagonal, in which one occurs.
    donor_uses, group_uses : (D,) and (G,) int64
        The number of counted candidates in which each donor patch, and each slide or patient, occurs.
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


def tally_candidates(group: zarr.Group, classes: int, donors: Sequence[PatchRef], planned: int | None = None) -> Tally:
    """Count over the candidates of a strategy.

    Parameters
    ----------
    group : zarr.Group
        The strategy's group in ``candidates.zarr``. It may be incomplete, and may have no scores and verdicts.
    classes : int
        The number of tissue classes.
    donors : sequence of PatchRef
        The donors of the catalog, in its order.
    planned : int, optional
        The number of candidates in the plan. Candidates beyond it, made for settings that have changed since, are
        left out.

    Raises
    ------
    StoreError
        A stored array is damaged.
    """
    count = array(group, "class_pixels").shape[0] if planned is None else planned
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
    blocks = list(_blocks(group, count))
    for name, target in (("p_real", found.p_real), ("verdict", found.verdicts)):
        if has_array(group, name):
            source = array(group, name)
            for block in blocks:
                values = read_range(source, block.start, block.stop)
                target[block.start : block.start + len(values)] = values
    class_pixels, donors_of, judged = array(group, "class_pixels"), array(group, "donors"), found.judged
    for block in blocks:
        found.stored[block] = True
        pixels = read_range(class_pixels, block.start, block.stop)
        drawn = read_range(donors_of, block.start, block.stop)
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
    """Return histograms of the scores from 0 to 1 with `bins` bins: of the kept and of the other candidates."""
    scored = ~np.isnan(tallied.p_real)
    counts = [
        np.histogram(tallied.p_real[scored & part], bins, (0, 1))[0].astype(np.int64)
        for part in (tallied.kept, ~tallied.kept)
    ]
    return counts[0], counts[1]


def _blocks(group: zarr.Group, count: int) -> Iterator[slice]:
    """Yield the range of candidates in each complete shard."""
    size = shard_size(array(group, "class_pixels"))
    for shard in sorted(complete_in_all(group, CANDIDATE_ARRAYS)):
        if shard * size < count:
            yield slice(shard * size, min((shard + 1) * size, count))
