"""What the rows of the table return and need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.datacomp.sets import DataSet
from synthpipe.core.records import Image, Mask
from synthpipe.segment.settings import ConsistencySection
from synthpipe.segment.sources import Labels


class Unmasked(NamedTuple):
    """Real patches without masks, on which a mean teacher trains the network.

    ``images`` is (M, H, W, 3) uint8, ``glass`` is (M, H, W) uint8 with the background index on glass and 0 elsewhere,
    ``labels`` is (M, C) uint8, and ``teacher`` has the settings of `synthpipe.segment.mean_teacher`.
    """

    images: Image
    glass: Mask
    labels: Labels
    teacher: ConsistencySection


class Samples(NamedTuple):
    """The samples of a row: (N, H, W, 3) uint8 images and (N, H, W) uint8 masks of class indices or background.

    If a row has ``real`` patches, its trainer is changed: half of the images of a step are real patches.
    """

    images: Image
    masks: Mask
    real: Unmasked | None = None

    def part(self, indices: slice | NDArray[np.intp]) -> Samples:
        """Return some of the samples, without real patches."""
        return Samples(self.images[indices], self.masks[indices])


Predict = Callable[[Image], NDArray[np.float32]]
"""Takes (N, H, W, 3) uint8 images and returns (N, C, H, W) probabilities, the mean over flips and rotations."""

Train = Callable[[Samples], Predict]
"""Trains the row's network on samples and returns its prediction."""


class Recipe(Protocol):
    """Makes the samples of a row; its ``repr`` identifies it in stored results."""

    def __call__(self, data: DataSet, size: int, seed: int, run: Path, train: Train) -> Samples:
        """Return at most `size` samples.

        Parameters
        ----------
        data : DataSet
            The data set.
        size, seed : int
            The number of samples, and the seed.
        run : Path
            A folder for a build, which is removed afterwards.
        train : callable
            Trains a network on samples.
        """
        ...
