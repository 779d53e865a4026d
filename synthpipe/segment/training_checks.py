"""Check the data and the network before a training, the checkpoint before it resumes, and the losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from synthpipe.config.fields import differences
from synthpipe.core.errors import ConfigError, StaleRunError, StoreError
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.network import SegmentationNetwork, check_canvas
from synthpipe.segment.settings import TrainSettings
from synthpipe.segment.training_records import TrainingData

ENCODER_WEIGHTS = "encoder weights"
"""Name of the weights file's digest among the sources of a training."""


def check_data(data: TrainingData, settings: TrainSettings, devices: int) -> None:
    """Refuse a training with fewer images per step than devices, or without any loss.

    Raises
    ------
    ConfigError
        The settings do not fit the devices or the data; the message names the keys.
    """
    for name, source in (("composites", data.composites), ("real", data.real)):
        count = getattr(settings, name)
        if source is not None and 0 < count < devices:
            raise ConfigError(
                f"{name}: got {count} per step for {devices} devices; give at least {devices}, one for each device"
            )
    weights = settings.loss
    if not (weights.labels or (data.composites and weights.dice) or (data.real and weights.consistency)):
        raise ConfigError(
            f"loss: got weights dice {weights.dice:g} (for composites), labels {weights.labels:g}, consistency "
            f"{weights.consistency:g} (for real patches), so no loss applies to the given images; set a weight above 0"
        )
    if taught_on(settings, data) and data.composites is None:
        raise ConfigError(
            "consistency.form: got mean_teacher without composites, whose masks train the teacher; give curated sets, "
            "or set consistency.form: published"
        )


def taught_on(settings: TrainSettings, data: TrainingData) -> bool:
    """Return whether a mean teacher predicts the real patches of a training."""
    used = data.real is not None and settings.real and settings.loss.consistency
    return bool(used) and settings.consistency.form == "mean_teacher"


def check_network(network: SegmentationNetwork, data: TrainingData, settings: TrainSettings, devices: int) -> None:
    """Refuse a network that cannot process the images of one device in one step; the network is not changed.

    Raises
    ------
    ConfigError
        The network fails for this canvas, or for this number of images.
    """
    check_canvas(data.description.size)
    height, width = data.description.size
    counts = ((data.composites, settings.composites), (data.real, settings.real))
    share = sum(count // devices for source, count in counts if source is not None)
    state, training = {name: values.clone() for name, values in network.state_dict().items()}, network.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.eval()(torch.zeros((1, 3, height, width)))
            # two images stand for any larger number, which may take long
            network.train()(torch.zeros((min(share, 2), 3, height, width)))
    except Exception as error:  # networks raise many kinds of errors
        raise ConfigError(
            f"network: {settings.network.architecture} with {settings.network.encoder} cannot process {share} images "
            f"of {height} x {width} pixels per step and device: {' '.join(str(error).split())}; choose another "
            "network, a larger canvas, or more composites and real patches per step"
        ) from error
    network.load_state_dict(state)  # undoes the change of the running means
    network.train(training)


def check_resumable(
    kept: Checkpoint,
    path: Path,
    settings: TrainSettings,
    data: TrainingData,
    sources: Mapping[str, str],
    steps: int,
) -> None:
    """Refuse a checkpoint that belongs to another training, or that cannot be resumed.

    Parameters
    ----------
    kept : Checkpoint
        The content of `path`.
    path : Path
        The last checkpoint in the folder of the training.
    settings, data, sources
        Settings, data and digests of the training to resume.
    steps : int
        Number of steps of the whole training.

    Raises
    ------
    StaleRunError
        The checkpoint belongs to another training; the message lists the differences.
    StoreError
        The step of the checkpoint, its optimizer state or its teacher is missing or wrong.
    """
    old, new = kept.settings.dump(), settings.dump()
    if new["optimizer"]["schedule"] == "constant" and new["epochs"] >= old["epochs"]:
        old["epochs"] = new["epochs"]  # a longer training has the same first steps
    old["save_steps"] = new["save_steps"]  # does not change any result
    if ENCODER_WEIGHTS in kept.sources and ENCODER_WEIGHTS in sources:
        old["network"]["weights"] = new["network"]["weights"]  # the file's digest counts, not its path
    found = list(differences(old, new))
    found += differences({"data": dict(kept.sources)}, {"data": sources})
    found += differences(kept.description.to_json(), data.description.to_json())
    if found:
        raise StaleRunError(
            "\n  ".join(
                [f"{path.parent}: has another training; train into another folder, or undo these changes:", *found]
            )
        )
    if not kept.optimizer or not 0 < kept.progress["step"] <= steps:
        raise StoreError(
            f"{path}: cannot be resumed: its step is {kept.progress['step']}, and it has "
            f"{'an' if kept.optimizer else 'no'} optimizer state; expected a step from 1 to {steps} and an optimizer "
            "state; use an undamaged copy of the file, or train into another folder"
        )
    if taught_on(settings, data) and not kept.teacher:
        raise StoreError(
            f"{path}: cannot be resumed: it has no weights of the teacher, which consistency.form: mean_teacher needs; "
            "use an undamaged copy of the file, or train into another folder"
        )


def check_finite(rows: Sequence[Mapping[str, float]], settings: TrainSettings) -> None:
    """Refuse a loss that is not a finite number.

    Raises
    ------
    ConfigError
        A loss is infinite or NaN; the message names the step.
    """
    for row in rows:
        if not math.isfinite(row["loss"]):
            raise ConfigError(
                f"the loss of step {row['step']} is {row['loss']}, expected a finite number; lower "
                f"optimizer.learning_rate ({settings.optimizer.learning_rate:g}), or set precision: '32', and "
                "train into another folder"
            )
