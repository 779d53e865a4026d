"""Records of a training: its data and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from synthpipe.curated import Description
from synthpipe.segment.masks import MaskedImage
from synthpipe.segment.sources import Source


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The data of a training.

    Attributes
    ----------
    description : Description
        Classes, canvas and layout.
    composites, real : Source or None
        Images with masks, and patches with labels. At least one of the two must be given.
    validation : tuple of MaskedImage
        Images with masks; their mIoU selects the best weights.
    sources : mapping
        Digests of the data, by name.
    """

    description: Description
    composites: Source | None
    real: Source | None
    validation: tuple[MaskedImage, ...]
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a training.

    Attributes
    ----------
    finished : bool
        False if the training was stopped before its last step.
    step, steps : int
        Number of finished steps, and number of all steps.
    best_miou : float
        Highest validation mIoU; NaN before the end of the first epoch.
    best_epoch : int
        Epoch of the highest validation mIoU, counted from 0; -1 before the end of the first epoch.
    first_process : bool
        True only in the process of the first device, which reports the outcome.
    """

    finished: bool
    step: int
    steps: int
    best_miou: float
    best_epoch: int
    first_process: bool
