"""Checks of a training: before its first step, before it resumes, and of its losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from synthpipe.config.fields import differences
from synthpipe.core.errors import ConfigError, StaleRunError, StoreError
from synthpipe.curated import Description
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.network import SegmentationNetwork, check_canvas
from synthpipe.segment.settings import TrainSettings
from synthpipe.segment.training_records import TrainingData

ENCODER_WEIGHTS = "encoder weights"
"""Name of the digest of a file of weights among the sources of a training."""


def check_data(data: TrainingData, settings: TrainSettings, devices: int) -> None:
    """Refuse steps that cannot be shared by the devices, and data from which no loss is computed.

    Raises
    ------
    ConfigError
        The message names the keys.
    """
    for name, source in (("composites", data.composites), ("real", data.real)):
        count = getattr(settings, name)
        if source is not None and 0 < count < devices:
            raise ConfigError(f"{name}: {count} a step cannot be shared by {devices} devices; give each one at least")
    weights = settings.loss
    if not (weights.labels or (data.composites and weights.dice) or (data.real and weights.consistency)):
        raise ConfigError(
            f"loss: dice {weights.dice:g} (of composites), labels {weights.labels:g}, consistency "
            f"{weights.consistency:g} (of real patches) leave nothing to learn from the images that there are; "
            "give one of them a weight above 0"
        )


def check_network(network: SegmentationNetwork, data: TrainingData, settings: TrainSettings, devices: int) -> None:
    """Refuse a network that cannot take a device's share of a step before anything is trained; it is left as it was.

    Raises
    ------
    ConfigError
        The images, or so few of them, are nothing for it.
    """
    check_canvas(data.description.size)
    height, width = data.description.size
    counts = ((data.composites, settings.composites), (data.real, settings.real))
    share = sum(count // devices for source, count in counts if source is not None)
    state, training = {name: values.clone() for name, values in network.state_dict().items()}, network.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.eval()(torch.zeros((1, 3, height, width)))
            # more are no other case, and may take long
            network.train()(torch.zeros((min(share, 2), 3, height, width)))
    except Exception as error:  # each network has its own way to fail
        raise ConfigError(
            f"network: {settings.network.architecture} with {settings.network.encoder} cannot take {share} images of "
            f"{height} x {width} a step and device: {' '.join(str(error).split())}; choose another network, a larger "
            "canvas, or more composites and real patches a step"
        ) from error
    network.load_state_dict(state)  # training moved its running means
    network.train(training)


def check_resumable(
    kept: Checkpoint,
    path: Path,
    settings: TrainSettings,
    description: Description,
    sources: Mapping[str, str],
    steps: int,
) -> None:
    """Refuse a checkpoint of another training, and one that cannot be resumed.

    Parameters
    ----------
    kept : Checkpoint
        The contents of `path`.
    path : Path
        The last checkpoint, in the folder of the training.
    settings, description, sources
        Of the training to resume.
    steps : int
        All steps of the training.

    Raises
    ------
    StaleRunError
        It belongs to another training; the message lists the differences.
    StoreError
        Its step or the state of the optimizer is missing or wrong.
    """
    old, new = kept.settings.dump(), settings.dump()
    if new["optimizer"]["schedule"] == "constant" and new["epochs"] >= old["epochs"]:
        old["epochs"] = new["epochs"]  # longer, and else the same
    old["save_steps"] = new["save_steps"]  # changes no number
    if ENCODER_WEIGHTS in kept.sources and ENCODER_WEIGHTS in sources:
        old["network"]["weights"] = new["network"]["weights"]  # wherever the file lies: its digest counts
    found = list(differences(old, new))
    found += differences({"data": dict(kept.sources)}, {"data": sources})
    found += differences(kept.description.to_json(), description.to_json())
    if found:
        raise StaleRunError(
            "\n  ".join([f"{path.parent}: is another training; train into another folder, or undo:", *found])
        )
    if not kept.optimizer or not 0 < kept.progress["step"] <= steps:
        raise StoreError(
            f"{path}: cannot be resumed: its step is {kept.progress['step']}, and it has "
            f"{'the' if kept.optimizer else 'no'} state of the optimizer; expected a step from 1 to {steps} "
            "and that state; use a copy of the file that is sound, or train into another folder"
        )


def check_finite(rows: Sequence[Mapping[str, float]], settings: TrainSettings) -> None:
    """Refuse a loss that is no finite number.

    Raises
    ------
    ConfigError
        The message names the step.
    """
    for row in rows:
        if not math.isfinite(row["loss"]):
            raise ConfigError(
                f"the loss of step {row['step']} is {row['loss']}, expected a finite number; lower "
                f"optimizer.learning_rate ({settings.optimizer.learning_rate:g}), or set precision: '32', and "
                "train into another folder"
            )
