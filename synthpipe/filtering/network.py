"""The filter's network (method section 3): a timm model of two classes, and its weights on disk."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import safetensors.torch
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from synthpipe.config.fields import Above0, Section
from synthpipe.config.pipeline import FilterSection
from synthpipe.core.display import printable
from synthpipe.core.errors import FilterError, explain
from synthpipe.files.locations import Location
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.pretrained.tensors import KEY, LARGEST, check_like, read_safetensors
from synthpipe.pretrained.weights import check_timm_hub, heads, hub_of, own_normalisation, quiet_hub, read_weights

FORMAT_VERSION = 1
CLASSES = ("synthetic", "real")
REAL = CLASSES.index("real")

_AGAIN = "remove it and build again"

Images = NDArray[np.uint8]
"""(N, H, W, 3) uint8, RGB."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """All of a filter that is not weights.

    Attributes
    ----------
    network : str
        A timm model name.
    mean, std : tuple of float
        Of RGB in 0-1: subtracted, then divided by.
    """

    network: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class _About(Section):
    """All of a filter's file that is no tensor."""

    format_version: Literal[1]
    classes: tuple[Literal["synthetic"], Literal["real"]]
    weights_sha256: str
    network: str
    mean: tuple[float, float, float]
    std: tuple[Above0, Above0, Above0]


class FilterNetwork:
    """A network on a device, which takes images as they are stored.

    Its weights and activations are `channels_last`: faster than the default on CPUs as on GPUs, and how images lie
    in memory anyway.

    Parameters
    ----------
    architecture : Architecture
        Which network.
    device : torch.device
        Where it computes.
    mixed : bool
        Whether it computes in bfloat16 where that is precise enough; weights and logits stay float32.
    pretrained : bool
        Whether it starts from the weights of timm's hub.

    Raises
    ------
    FilterError
        timm has no network of that name, its weights are not available, or the device has no bfloat16.
    """

    def __init__(
        self, architecture: Architecture, device: torch.device, mixed: bool = False, pretrained: bool = False
    ) -> None:
        if mixed and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            raise FilterError(
                f"filter.precision: got mixed, but {torch.cuda.get_device_name(device)} has no bfloat16; use a GPU of "
                "the Ampere generation or later, or build into another directory with filter.precision: '32'"
            )
        self.architecture = architecture
        self.device = device
        self.mixed = mixed
        module = _create(architecture.network, pretrained)
        self.module = module.to(device).to(memory_format=torch.channels_last)
        self._mean, self._std = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in (architecture.mean, architecture.std)
        )

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the (B, 2) float32 logits of (B, H, W, 3) uint8 images on the network's device, in `CLASSES`' order.

        Only this batch is ever held as float.
        """
        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            logits: Tensor = self.module(scaled.sub_(self._mean).div_(self._std))
        return logits.float()

    def to_device(self, images: Images) -> Tensor:
        """Return (B, H, W, 3) uint8 images, which must be writable and C-contiguous, on the network's device."""
        pixels = torch.from_numpy(images)
        return pixels.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else pixels


def architecture_of(settings: FilterSection) -> Architecture:
    """Return the network to train; if it starts from weights, images are normalised as these expect."""
    if settings.weights is None and not settings.pretrained:
        return Architecture(settings.network, settings.mean, settings.std)
    check_name(settings.network)
    return Architecture(settings.network, *own_normalisation(settings.network))


def initial_network(settings: FilterSection, device: torch.device) -> FilterNetwork:
    """Return the network that training starts from: random, of a file, or of timm's hub; its head is random.

    Raises
    ------
    ConfigError
        The file of weights cannot be used, or does not fit the network.
    FilterError
        timm has no such network, its hub's weights are not available, or the file has changed.
    """
    weights = read_weights("filter.weights", settings.weights) if settings.weights is not None else None
    if weights and weights.sha256 != settings.weights_sha256:
        raise FilterError(
            f"{weights.name}: its SHA-256 is {weights.sha256}, expected filter.weights_sha256 "
            f"{settings.weights_sha256}; restore the file, or build into another directory"
        )
    architecture, mixed = architecture_of(settings), settings.precision == "mixed"
    network = FilterNetwork(architecture, device, mixed, settings.pretrained)
    if weights:
        module = network.module
        fitting = weights.fit(module.state_dict(), heads(module), f"{settings.network} of timm {timm.__version__}")
        module.load_state_dict(fitting, strict=False)
    return network


def check_images(images: Images, name: str) -> None:
    """Refuse what is not (N, H, W, 3) uint8.

    Raises
    ------
    ValueError
        It is another shape or type.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"{name}: got {images.dtype} of shape {images.shape}, expected uint8 of shape (N, H, W, 3)")


def save_weights(path: Location, architecture: Architecture, weights: Mapping[str, Tensor]) -> str:
    """Write a network's weights as safetensors, atomically, and return the SHA-256 of the file.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    tensors = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    about = {
        "format_version": FORMAT_VERSION,
        "classes": CLASSES,
        "weights_sha256": _digest(tensors),
        **asdict(architecture),
    }
    data = safetensors.torch.save(tensors, {KEY: json.dumps(about, sort_keys=True)})
    write_atomically(path, data, durable=True)
    return hashlib.sha256(data).hexdigest()


def load_network(path: Location, device: torch.device, mixed: bool = False) -> tuple[FilterNetwork, str]:
    """Read the network that `save_weights` wrote, in evaluation mode, and the SHA-256 of its file.

    Raises
    ------
    FilterError
        The file is missing, damaged, or of another format.
    """
    try:
        data = read_regular(path, LARGEST)
    except FileNotFoundError as error:
        raise FilterError(f"{path}: not found; expected the weights of a trained filter; build again") from error
    except OSError as error:
        raise FilterError(f"{path}: cannot be read: {error.strerror or error}; {_AGAIN}") from error
    try:
        text, tensors = read_safetensors(data)
        about = _About.model_validate_json(text, strict=True)
    except ValueError as error:
        reason = explain(error)
        raise FilterError(
            f"{path}: is not a filter's safetensors file, or is damaged: {printable(reason)}; {_AGAIN}"
        ) from error
    if about.weights_sha256 != _digest(tensors):
        raise FilterError(f"{path}: is damaged: its weights are not those that were written; {_AGAIN}")
    try:
        with torch.device("meta"):  # without memory: no more is taken than the file's own weights need
            outline = _create(about.network)
        check_like(tensors, outline.state_dict())
    except (FilterError, ValueError) as error:
        raise FilterError(
            f"{path}: its weights do not fit {printable(about.network)[:100]} of timm {timm.__version__}: "
            f"{printable(error)}; {_AGAIN}"
        ) from error
    network = FilterNetwork(Architecture(about.network, about.mean, about.std), device, mixed)
    network.module.load_state_dict(tensors)
    network.module.eval()
    return network, hashlib.sha256(data).hexdigest()


def check_start(settings: FilterSection) -> None:
    """Refuse a network that timm does not have, and weights that do not fit it.

    Raises
    ------
    ConfigError, FilterError
        As of `initial_network`.
    """
    check_name(settings.network)
    if settings.weights is not None or settings.pretrained:
        initial_network(settings, torch.device("cpu"))


def check_name(name: str) -> None:
    """Refuse a network that timm does not have itself: it also takes names of hubs, addresses and folders.

    Raises
    ------
    FilterError
        The message names those that are spelled much alike.
    """
    if not timm.is_model(name) or not re.fullmatch(r"[\w.-]+", name):
        close = difflib.get_close_matches(name[:100], timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`timm.list_models()` lists what it has"
        raise FilterError(f"filter.network: timm {timm.__version__} has no network {printable(name)[:100]!r}; {hint}")


def _create(name: str, pretrained: bool = False) -> nn.Module:
    check_name(name)
    try:
        with quiet_hub():
            if pretrained:
                check_timm_hub(name)
            module: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=len(CLASSES))
    except Exception as error:  # each network has its own way to fail, and so have hubs
        if pretrained:
            raise FilterError(
                f"filter.pretrained: the weights of {name} are not available: {' '.join(str(error).split())[:300]}; "
                "load them once with network access, which fills the cache, or download model.safetensors from "
                f"https://huggingface.co/{hub_of(name)} and set filter.weights to it"
            ) from error
        raise FilterError(
            f"filter.network: timm {timm.__version__} cannot make {name!r}: {' '.join(str(error).split())[:300]}; "
            "choose another"
        ) from error
    return module


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
