"""What a strategy's candidates are, added up: read in blocks, a few bytes a candidate are held."""

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
    """The candidates of a strategy that are stored whole. What is *counted* is kept, or not judged yet.

    Attributes
    ----------
    p_real : (N,) float32
        The filter's scores; NaN where there is none.
    verdicts : (N,) uint8
        Places in `records.REASONS`; ``LOST`` where a candidate is not judged, or not stored whole.
    stored : (N,) bool
        Whether all arrays have a candidate.
    class_pixels : (C + 1,) int64
        Pixels of every class, and of the background, in what is counted.
    all_class_pixels : (C + 1,) int64
        The same in all that is stored.
    together : (C, C) int64
        In how many of what is counted two classes occur together; on the diagonal, in how many one occurs.
    donor_uses, group_uses : (D,) and (G,) int64
        In how many of what is counted each donor patch, and each slide or patient, occurs.
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
        """Which are kept: (N,)."""
        kept: NDArray[np.bool_] = self.verdicts == _KEPT
        return kept

    @property
    def judged(self) -> bool:
        """Whether there are verdicts."""
        return bool((self.verdicts != LOST).any())

    @property
    def scored(self) -> bool:
        """Whether there are scores."""
        return not bool(np.isnan(self.p_real).all())


def tally_candidates(group: zarr.Group, classes: int, donors: Sequence[PatchRef], planned: int | None = None) -> Tally:
    """Add up the candidates that a group holds.

    Parameters
    ----------
    group : zarr.Group
        A strategy's, of ``candidates.zarr``; it may lack scores and verdicts, and be incomplete.
    classes : int
        How many tissue classes there are.
    donors : sequence of PatchRef
        The donors of the catalog, in its order.
    planned : int, optional
        Only the first so many: what lies beyond a plan was made for settings that were changed since.

    Raises
    ------
    StoreError
        What is stored is damaged.
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
    """Return how many of the kept, and of the other candidates, score in each of `bins` equal parts of 0 to 1."""
    scored = ~np.isnan(tallied.p_real)
    counts = [
        np.histogram(tallied.p_real[scored & part], bins, (0, 1))[0].astype(np.int64)
        for part in (tallied.kept, ~tallied.kept)
    ]
    return counts[0], counts[1]


def _blocks(group: zarr.Group, count: int) -> Iterator[slice]:
    """Yield the shards that are complete."""
    size = shard_size(array(group, "class_pixels"))
    for shard in sorted(complete_in_all(group, CANDIDATE_ARRAYS)):
        if shard * size < count:
            yield slice(shard * size, min((shard + 1) * size, count))
