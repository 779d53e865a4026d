"""What composites are measured against: the same network trained on image labels alone, and on true masks."""

from __future__ import annotations

from collections.abc import Sequence

from synthpipe.curated import Description
from synthpipe.segment.batches import steps_per_epoch
from synthpipe.segment.masks import MaskedImage, digest_of
from synthpipe.segment.settings import TrainSettings
from synthpipe.segment.sources import MaskedCrops, Source
from synthpipe.segment.training import TrainingData


def lower_bound(
    settings: TrainSettings,
    description: Description,
    composites: Source,
    real: Source,
    validation: tuple[MaskedImage, ...],
    digest: str,
) -> tuple[TrainSettings, TrainingData]:
    """Return the training on image labels alone: masks are those of the CAM.

    It has as many steps as a training on `composites`, with as many real patches a step as that has images.
    """
    sources = {"real patches": digest, "validation images": digest_of(validation)}
    chosen = settings.model_copy(
        update={
            "real": settings.composites + settings.real,
            "steps_per_epoch": steps_per_epoch(settings, [composites]),
            "loss": settings.loss.model_copy(update={"consistency": 0.0}),
        }
    )
    return chosen, TrainingData(description, None, real, validation, sources)


def upper_bound(
    settings: TrainSettings,
    description: Description,
    composites: Source,
    masked: Sequence[MaskedImage],
    validation: tuple[MaskedImage, ...],
) -> tuple[TrainSettings, TrainingData]:
    """Return the training on true masks: random crops of images, with the steps and images of one on `composites`."""
    chosen = settings.model_copy(
        update={
            "composites": settings.composites + settings.real,
            "real": 0,
            "steps_per_epoch": steps_per_epoch(settings, [composites]),
        }
    )
    crops = MaskedCrops(masked, description)
    sources = {"masked images": digest_of(masked), "validation images": digest_of(validation)}
    return chosen, TrainingData(description, crops, None, validation, sources)
