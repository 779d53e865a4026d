"""The filter's network (method section 3), a timm model with two classes, and its weights on disk."""

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

_AGAIN = "remove the file and build again"

Images = NDArray[np.uint8]
"""(N, H, W, 3) uint8 images, RGB."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The description of a filter's network, without its weights.

    Attributes
    ----------
    network : str
        Name of a timm model.
    mean, std : tuple of float
        Normalisation of RGB values from 0 to 1: `mean` is subtracted, then the result is divided by `std`.
    """

    network: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class _About(Section):
    """The part of a filter's file that is not tensors."""

    format_version: Literal[1]
    classes: tuple[Literal["synthetic"], Literal["real"]]
    weights_sha256: str
    network: str
    mean: tuple[float, float, float]
    std: tuple[Above0, Above0, Above0]


class FilterNetwork:
    """The filter's network on a device; it takes uint8 images and normalises them.

    Weights and activations use the `channels_last` memory format. It is faster than the default on CPUs and on GPUs,
    and stored images already have this layout.

    Parameters
    ----------
    architecture : Architecture
        The network to make.
    device : torch.device
        The device that computes.
    mixed : bool
        Whether to compute in bfloat16 where that is precise enough; weights and logits stay float32.
    pretrained : bool
        Whether to start from the weights in timm's hub.

    Raises
    ------
    FilterError
        timm has no network of that name, its weights are not available, or the device does not support bfloat16.
    """

    def __init__(
        self, architecture: Architecture, device: torch.device, mixed: bool = False, pretrained: bool = False
    ) -> None:
        if mixed and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            raise FilterError(
                f"filter.precision: got mixed, but {torch.cuda.get_device_name(device)} does not support bfloat16; use "
                "a GPU of the Ampere generation or later, or build into another directory with filter.precision: '32'"
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
        """Return the (B, 2) float32 logits of (B, H, W, 3) uint8 images, with columns in the order of `CLASSES`.

        The images must be on the network's device. Only this batch is in memory as float32.
        """
        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            logits: Tensor = self.module(scaled.sub_(self._mean).div_(self._std))
        return logits.float()

    def to_device(self, images: Images) -> Tensor:
        """Copy (B, H, W, 3) uint8 images to the network's device; on a CPU, the tensor shares the images' memory.

        The images must be writable and C-contiguous.
        """
        pixels = torch.from_numpy(images)
        return pixels.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else pixels


def architecture_of(settings: FilterSection) -> Architecture:
    """Return the architecture to train, with the normalisation that pretrained weights expect, if there are any."""
    if settings.weights is None and not settings.pretrained:
        return Architecture(settings.network, settings.mean, settings.std)
    check_name(settings.network)
    return Architecture(settings.network, *own_normalisation(settings.network))


def initial_network(settings: FilterSection, device: torch.device) -> FilterNetwork:
    """Make the filter's network with its initial weights.

    The weights are random, or come from a file or from timm's hub. The head's weights are random, unless the file has a
    head of the same shape.

    Raises
    ------
    ConfigError
        The weights file cannot be used, or does not fit the network.
    FilterError
        timm has no such network, the hub's weights are not available, or the file has changed.
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
    """Raise an error if `images` is not an (N, H, W, 3) uint8 array.

    Raises
    ------
    ValueError
        The array has another shape or dtype; the message begins with `name`.
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
    """Read a network that `save_weights` wrote; return it in evaluation mode, with the SHA-256 of its file.

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
        raise FilterError(f"{path}: is damaged: the checksum of its weights is wrong; {_AGAIN}")
    try:
        with torch.device("meta"):  # takes no memory, so a small file cannot make a large network
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
    """Raise an error if timm does not have the network, or if the weights do not fit it.

    Raises
    ------
    ConfigError, FilterError
        `initial_network` raises it.
    """
    check_name(settings.network)
    if settings.weights is not None or settings.pretrained:
        initial_network(settings, torch.device("cpu"))


def check_name(name: str) -> None:
    """Raise an error if timm has no network of this name.

    timm itself also accepts hubs, URLs and folders as names; this function refuses them.

    Raises
    ------
    FilterError
        timm has no network of this name; the message suggests networks with similar names.
    """
    if not timm.is_model(name) or not re.fullmatch(r"[\w.-]+", name):
        close = difflib.get_close_matches(name[:100], timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`timm.list_models()` lists its models"
        raise FilterError(f"filter.network: timm {timm.__version__} has no network {printable(name)[:100]!r}; {hint}")


def _create(name: str, pretrained: bool = False) -> nn.Module:
    check_name(name)
    try:
        with quiet_hub():
            if pretrained:
                check_timm_hub(name)
            module: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=len(CLASSES))
    except Exception as error:  # networks and hubs raise errors of many types
        if pretrained:
            raise FilterError(
                f"filter.pretrained: the weights of {name} are not available: {' '.join(str(error).split())[:300]}; "
                "load the weights once with network access, which fills the cache, or download model.safetensors from "
                f"https://huggingface.co/{hub_of(name)} and set filter.weights to the file"
            ) from error
        raise FilterError(
            f"filter.network: timm {timm.__version__} cannot make {name!r}: {' '.join(str(error).split())[:300]}; "
            "choose another network"
        ) from error
    return module


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
