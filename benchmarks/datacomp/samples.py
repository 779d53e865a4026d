"""What the rows of the table return and need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.datacomp.sets import DataSet
from synthpipe.core.records import Image, Mask


class Samples(NamedTuple):
    """The samples of a row: (N, H, W, 3) uint8 images and (N, H, W) uint8 masks of class indices or background."""

    images: Image
    masks: Mask

    def part(self, indices: slice | NDArray[np.intp]) -> Samples:
        """Return some of the samples."""
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
