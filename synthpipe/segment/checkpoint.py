"""Checkpoints: a network's weights and all that is needed to use it, or to go on training it.

They are loaded with ``weights_only``: a checkpoint cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from synthpipe.errors import StoreError
from synthpipe.handoff import Description
from synthpipe.segment.network import SegmentationNetwork
from synthpipe.segment.settings import TrainSettings

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network at one step of its training.

    Attributes
    ----------
    settings : TrainSettings
        Of the training.
    description : Description
        What it was trained for: classes, canvas, fingerprint of the pipeline, layout of the patches.
    sources : mapping
        Digests of what it was trained on, by name: curated sets, real patches, masked images.
    by_cam : bool
        Whether its masks are those of the CAM: it was trained by image labels alone.
    progress : mapping
        ``step``, and ``best``: the validation mIoU and the epoch of the best weights so far.
    weights : mapping of str to Tensor
        Of the network.
    optimizer : mapping, optional
        State of the optimizer, where training may go on from here.
    """

    settings: TrainSettings
    description: Description
    sources: Mapping[str, str]
    by_cam: bool
    progress: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any] | None = None

    def network(self, device: torch.device) -> SegmentationNetwork:
        """Return the network on `device`, in evaluation mode.

        Raises
        ------
        StoreError
            The weights do not fit the network that this segmentation-models-pytorch makes.
        """
        network = SegmentationNetwork(self.settings.network, len(self.description.taxonomy))
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            chosen, package = self.settings.network, "segmentation-models-pytorch"
            raise StoreError(
                f"the checkpoint's weights do not fit {chosen.architecture} with {chosen.encoder} of {package} "
                f"{version(package)}; use the version that it was trained with"
            ) from error
        return network.to(device).eval()

    def save(self, path: Path) -> None:
        """Write it atomically.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        about = {
            "settings": self.settings.dump(),
            "description": self.description.to_json(),
            "sources": dict(self.sources),
            "by_cam": self.by_cam,
            "progress": dict(self.progress),
        }
        data = {
            "format_version": FORMAT_VERSION,
            "about": json.dumps(about, sort_keys=True),
            "weights": dict(self.weights),
            "optimizer": self.optimizer,
        }
        temporary = path.with_name(f"{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(data, file)
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the name, and not the bytes
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            temporary.unlink(missing_ok=True)
            raise StoreError(f"{path}: cannot be written: {error}; make room, then give the command again") from error

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read what `save` wrote, to the CPU.

        Raises
        ------
        StoreError
            It is missing, damaged, or no checkpoint of this version of synthpipe.
        """
        try:
            data = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise StoreError(f"{path}: not found; expected a checkpoint that `synthpipe train` wrote") from error
        except pickle.UnpicklingError as error:
            raise StoreError(
                f"{path}: is no checkpoint that can be read safely, or is damaged: expected tensors and plain values, "
                "since other objects could run code when they are read"
            ) from error
        except Exception as error:  # whatever a damaged or foreign file makes the unpickler stumble on
            reason = " ".join(str(error).split())[:200]
            raise StoreError(f"{path}: is no checkpoint that can be read safely, or is damaged: {reason}") from error
        if not isinstance(data, dict) or "format_version" not in data:
            raise StoreError(f"{path}: is no checkpoint of synthpipe; expected one that `synthpipe train` wrote")
        if data["format_version"] != FORMAT_VERSION:
            raise StoreError(
                f"{path}: format_version is {data['format_version']}, this synthpipe reads {FORMAT_VERSION}; use the "
                "version that wrote it"
            )
        try:
            about = json.loads(data["about"])
            return cls(
                TrainSettings.model_validate(about["settings"]),
                Description.from_json(about["description"]),
                about["sources"],
                about["by_cam"],
                about["progress"],
                data["weights"],
                data["optimizer"],
            )
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise StoreError(f"{path}: is damaged: {error!r}; use another checkpoint") from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
