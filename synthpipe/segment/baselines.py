"""Baselines for training on composites: the same network trained on image labels alone, and on true masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from synthpipe.core.progress import Reporter
from synthpipe.curated import Description
from synthpipe.files.writing import write_atomically
from synthpipe.segment.batches import steps_per_epoch
from synthpipe.segment.evaluation import Predictor, evaluate
from synthpipe.segment.masks import MaskedImage, digest_of
from synthpipe.segment.references import BASELINES
from synthpipe.segment.settings import TrainSettings
from synthpipe.segment.sources import MaskedCrops, Source
from synthpipe.segment.training_records import TrainingData


def lower_bound(
    settings: TrainSettings,
    description: Description,
    composites: Source,
    real: Source,
    validation: tuple[MaskedImage, ...],
    digest: str,
) -> tuple[TrainSettings, TrainingData]:
    """Return the settings and data of the lower bound, a training on real patches with image labels alone.

    The class activation map (CAM) gives the masks of this network. The training has the same number of steps, and of
    images per step, as a training on `composites`.
    """
    sources = {"real patches": digest, "validation images": digest_of(validation)}
    chosen = settings.model_copy(
        update={
            "real": settings.composites + settings.real,
            "steps_per_epoch": steps_per_epoch(settings, [composites]),
            "loss": settings.loss.model_copy(update={"consistency": 0.0}),
            "fresh": None,
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
    """Return the settings and data of the upper bound, a training on random crops of images with true masks.

    The training has the same number of steps, and of images per step, as a training on `composites`.
    """
    chosen = settings.model_copy(
        update={
            "composites": settings.composites + settings.real,
            "real": 0,
            "steps_per_epoch": steps_per_epoch(settings, [composites]),
            "fresh": None,
        }
    )
    crops = MaskedCrops(masked, description)
    sources = {"masked images": digest_of(masked), "validation images": digest_of(validation)}
    return chosen, TrainingData(description, crops, None, validation, sources)


def bounds(
    settings: TrainSettings,
    description: Description,
    composites: Source,
    real: Source,
    masked: Sequence[MaskedImage] | None,
    validation: tuple[MaskedImage, ...],
    digest: str,
) -> dict[str, tuple[TrainSettings, TrainingData]]:
    """Return the settings and data of the baselines ``labels`` (lower bound) and ``masks`` (upper bound).

    The result has the key ``masks`` only if `masked` is given.

    Parameters
    ----------
    settings, description, composites, validation
        Settings and data of the training on composites.
    real : Source
        Real patches with labels.
    masked : sequence of MaskedImage, optional
        Images with true masks.
    digest : str
        Digest of the real patches.
    """
    found = {"labels": lower_bound(settings, description, composites, real, validation, digest)}
    if masked is not None:
        found["masks"] = upper_bound(settings, description, composites, masked, validation)
    return found


def compare_networks(
    output: Path,
    others: Sequence[Path],
    with_masks: bool,
    load: Callable[[Path], Predictor],
    images: Sequence[MaskedImage],
    reporter: Reporter,
) -> dict[str, dict[str, Any]]:
    """Evaluate the baselines and other checkpoints on the same images, and write ``baseline.json``.

    Parameters
    ----------
    output : Path
        The folder with the finished trainings of `bounds`. Evaluations are written to ``test-*/`` in it.
    others : sequence of Path
        Checkpoints to compare.
    with_masks : bool
        Whether `output` has a training on true masks.
    load : callable
        Loads a checkpoint from its path.
    images : sequence of MaskedImage
        Images to measure on.
    reporter : Reporter
        Reports the progress.

    Returns
    -------
    dict
        Results of `evaluate` by name: first the lower bound, then the paths of `others`, then the upper bound.
    """
    paths = {BASELINES["test-labels"]: (output / "labels" / "best.ckpt", "test-labels")}
    paths |= {str(path): (path, f"test-{number}") for number, path in enumerate(others, 1)}
    if with_masks:
        paths[BASELINES["test-masks"]] = output / "masks" / "best.ckpt", "test-masks"
    results = {name: evaluate(load(path), images, output / folder, reporter) for name, (path, folder) in paths.items()}
    rows = {
        name: {key: result[key] for key in ("miou", "fwiou", "mean_dice", "mean_boundary_f", "checkpoint")}
        | {"miou_interval": result["intervals"]["miou"], "details": paths[name][1]}
        for name, result in results.items()
    }
    write_atomically(output / "baseline.json", json.dumps(rows, indent=1) + "\n")
    return results
