"""What a training takes, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from synthpipe.curated import Description
from synthpipe.segment.masks import MaskedImage
from synthpipe.segment.sources import Source


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a network is trained on, and chosen by.

    Attributes
    ----------
    description : Description
        Classes, canvas and layout.
    composites, real : Source or None
        Images with masks; patches with labels. One of them must be there.
    validation : tuple of MaskedImage
        By whose mIoU the best weights are chosen.
    sources : mapping
        Digests of all of it, by name.
    """

    description: Description
    composites: Source | None
    real: Source | None
    validation: tuple[MaskedImage, ...]
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended.

    Attributes
    ----------
    finished : bool
        False where it was asked to stop before the last step.
    step, steps : int
        Steps done, of how many.
    best_miou : float
        Of validation; NaN before the first epoch's end.
    best_epoch : int
        Counted from 0; -1 before the first epoch's end.
    first_process : bool
        False in the processes of all devices but the first: they have nothing to tell.
    """

    finished: bool
    step: int
    steps: int
    best_miou: float
    best_epoch: int
    first_process: bool
