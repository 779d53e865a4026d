"""Read and write checkpoints: a network's weights, and all data that are needed to use it or to resume its training.

A checkpoint may come from a stranger or from a damaged disk. Loading a checkpoint runs no code, opens no network
connection and takes at most a few times the file's size in memory. Files with unexpected content are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from synthpipe.config.fields import Section
from synthpipe.core.display import printable
from synthpipe.core.errors import ConfigError, StoreError, explain
from synthpipe.core.strict_json import parse_json
from synthpipe.curated import Description
from synthpipe.files.reading import open_regular, read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.pretrained import torch_archive
from synthpipe.pretrained.tensors import (
    LARGEST,
    adam_state,
    check_finite,
    check_like,
    flat_moments,
    is_safetensors,
    pack,
    unpack,
)
from synthpipe.segment.network import SegmentationNetwork, check_canvas, outline
from synthpipe.segment.settings import TrainSettings

FORMAT_VERSION = 2
_CURE = "use an undamaged copy, or train again"
_WEIGHTS, _OPTIMIZER, _TRAINED, _TEACHER = "weights/", "optimizer/", "trained/", "teacher/"


class _Progress(Section):
    step: Annotated[int, Field(ge=0)]
    best_miou: Annotated[float, Field(allow_inf_nan=True)]  # NaN before the first epoch's end
    best_epoch: Annotated[int, Field(ge=-1)]
    encoder_weights: str | None = None


class _About(Section):
    """The part of a checkpoint that is not tensors."""

    format_version: Literal[1, 2]
    settings: TrainSettings
    description: dict[str, Any]
    sources: dict[str, str]
    by_cam: bool
    progress: _Progress


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network at one step of its training.

    Attributes
    ----------
    settings : TrainSettings
        Settings of the training.
    description : Description
        Classes, canvas, pipeline fingerprint and patch layout of the training data.
    sources : mapping
        Digests of the training data by name: curated sets, real patches, masked images.
    by_cam : bool
        Whether the class activation map (CAM) gives the masks, because the network was trained on image labels alone.
    progress : mapping
        ``step``; ``best_miou`` and ``best_epoch``, the validation mIoU and the epoch of the best weights so far;
        ``encoder_weights``, the source of the encoder's initial weights, if known.
    weights : mapping of str to Tensor
        Weights of the network that predicts.
    optimizer : mapping, optional
        State of the optimizer, if training can resume from this checkpoint.
    trained : mapping of str to Tensor, optional
        Weights to resume from, if `weights` are their moving average.
    teacher : mapping of str to Tensor, optional
        Weights of the mean teacher, if training can resume from this checkpoint and has one.
    """

    settings: TrainSettings
    description: Description
    sources: Mapping[str, str]
    by_cam: bool
    progress: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any] | None = None
    trained: Mapping[str, Tensor] | None = None
    teacher: Mapping[str, Tensor] | None = None

    def network(self, device: torch.device) -> SegmentationNetwork:
        """Return the network on `device`, in evaluation mode.

        Raises
        ------
        StoreError
            The weights do not fit the network of the installed segmentation-models-pytorch.
        """
        return self._network(self.weights).to(device).eval()

    def trained_network(self) -> SegmentationNetwork:
        """Return the network that a resumed training continues with, on the CPU.

        Raises
        ------
        StoreError
            The weights do not fit the network of the installed segmentation-models-pytorch.
        """
        return self._network(self.trained or self.weights)

    def _network(self, weights: Mapping[str, Tensor]) -> SegmentationNetwork:
        network = SegmentationNetwork(self.settings.network, len(self.description.taxonomy))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            chosen, package = self.settings.network, "segmentation-models-pytorch"
            raise StoreError(
                f"the checkpoint's weights do not fit {chosen.architecture} with {chosen.encoder} of {package} "
                f"{version(package)}; use the version that it was trained with"
            ) from error
        return network

    def save(self, path: Path) -> None:
        """Write the checkpoint to a file, atomically.

        Raises
        ------
        StoreError
            The file cannot be written, or the checkpoint has values that are not finite.
        """
        about = {
            "format_version": FORMAT_VERSION,
            "settings": self.settings.dump(),
            "description": self.description.to_json(),
            "sources": dict(self.sources),
            "by_cam": self.by_cam,
            "progress": dict(self.progress),
        }
        tensors = {f"{_WEIGHTS}{name}": values for name, values in self.weights.items()}
        if self.optimizer is not None:
            tensors |= {f"{_OPTIMIZER}{name}": values for name, values in flat_moments(self.optimizer).items()}
        for part, others in ((_TRAINED, self.trained), (_TEACHER, self.teacher)):
            tensors |= {f"{part}{name}": values for name, values in (others or {}).items()}
        try:
            check_finite(tensors)  # `load` refuses other values
        except ValueError as error:
            raise StoreError(
                f"{path}: is not written: {error}; lower optimizer.learning_rate, or set precision: '32', and train "
                "into another folder"
            ) from error
        write_atomically(path, pack(about, tensors), durable=True)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint that `save` wrote, with all tensors on the CPU.

        Raises
        ------
        StoreError
            The file is missing, damaged or not a checkpoint that this synthpipe can read, or the installed packages
            cannot make its network.
        """
        try:
            data = read_regular(path, LARGEST)
        except FileNotFoundError as error:
            raise StoreError(f"{path}: not found; expected a checkpoint that `synthpipe train` wrote") from error
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; expected a checkpoint that `synthpipe train` wrote") from error
        try:
            about, tensors = _former(data) if data.startswith(b"PK") and not is_safetensors(data) else _current(data)
        except ValueError as error:
            raise StoreError(
                f"{path}: is damaged, or is not a checkpoint that can be read safely: {printable(error)}; {_CURE}"
            ) from error
        del data  # the tensors are copies, so this frees memory
        version = about.get("format_version") if isinstance(about, dict) else None
        if version is None:
            raise StoreError(f"{path}: is not a checkpoint of synthpipe; expected one that `synthpipe train` wrote")
        if version not in (1, FORMAT_VERSION):
            raise StoreError(
                f"{path}: format_version is {reprlib.repr(version)}, this synthpipe reads 1 and {FORMAT_VERSION}; use "
                "the version that wrote it"
            )
        try:
            return _checked(about, tensors)
        except (ConfigError, RecursionError, ValueError) as error:
            reason = explain(error) if isinstance(error, ValueError) else str(error)
            raise StoreError(f"{path}: cannot be used: {printable(reason)}; {_CURE}") from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with os.fdopen(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _current(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    text, tensors = unpack(data)
    return parse_json(text), tensors


def _former(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    """Read a checkpoint of format version 1, and return its text part and its tensors in the form of version 2."""
    found = torch_archive.read(data)
    if not isinstance(found, dict) or "about" not in found:
        return found, {}
    try:
        about = {**parse_json(found["about"]), "format_version": found["format_version"]}
        tensors = {f"{_WEIGHTS}{name}": values for name, values in found["weights"].items()}
        if found["optimizer"] is not None:
            moments = flat_moments(found["optimizer"])
            tensors |= {f"{_OPTIMIZER}{name}": values for name, values in moments.items()}
        size = sum(values.numel() * values.element_size() for values in tensors.values())
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it lacks a part of a checkpoint: {error}") from error
    if size > len(data):
        raise ValueError("its tensors are larger than the file")
    return about, tensors


def _checked(about: Any, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Check the content of a checkpoint file, and return it as a `Checkpoint`.

    Raises
    ------
    ConfigError, RecursionError, ValueError
        A part of the content is missing or wrong.
    """
    known = _About.model_validate_json(json.dumps(about), strict=True)
    description = Description.from_json(known.description)
    check_canvas(description.size)
    weights, moments, trained, teacher = (
        {name.removeprefix(part): values for name, values in tensors.items() if name.startswith(part)}
        for part in (_WEIGHTS, _OPTIMIZER, _TRAINED, _TEACHER)
    )
    if len(weights) + len(moments) + len(trained) + len(teacher) < len(tensors):
        raise ValueError("it has tensors that are neither weights nor state of the optimizer")
    network = outline(known.settings.network, len(description.taxonomy))
    check_like(weights, network.state_dict(), _WEIGHTS)
    if trained or (moments and known.settings.optimizer.average):
        check_like(trained, network.state_dict(), _TRAINED)
    if teacher:
        check_like(teacher, network.state_dict(), _TEACHER)
    optimizer = {"state": adam_state(moments, list(network.parameters()))} if moments else None
    progress = known.progress.model_dump(exclude_unset=True)
    return Checkpoint(
        known.settings,
        description,
        known.sources,
        known.by_cam,
        progress,
        weights,
        optimizer,
        trained or None,
        teacher or None,
    )
