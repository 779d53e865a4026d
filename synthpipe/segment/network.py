"""The segmentation network (method section 4): encoder and decoder of segmentation-models-pytorch, and a CAM head."""

from __future__ import annotations

import difflib
import re
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torch.overrides import TorchFunctionMode

from synthpipe.core.display import printable
from synthpipe.core.errors import ConfigError
from synthpipe.pretrained.weights import (
    Weights,
    check_hub,
    check_timm_hub,
    heads,
    own_normalisation,
    quiet_hub,
    read_weights,
    timm_outline,
)
from synthpipe.segment.settings import NetworkSection

LARGEST_CANVAS = 4096
"""Largest side in pixels of an image that a network takes without sliding windows."""

_MULTIPLE = 32  # encoders halve the height and the width five times
_TIMM = "tu-"  # prefix of the names of timm's encoders
# names of the classification layers in networks whose encoders are not timm's
_HEADS = ("_fc", "classifier", "fc", "head", "last_linear", "linear")


class Outputs(NamedTuple):
    """The network's outputs for a batch of images.

    ``masks`` (B, C, H, W) has class logits for each pixel. ``cam`` (B, C, h, w) is the class activation map, as logits
    at the coarse resolution of the encoder's last feature. ``labels`` (B, C) is the mean of the CAM over pixels, as
    logits of the image's labels.
    """

    masks: Tensor
    cam: Tensor
    labels: Tensor


class SegmentationNetwork(nn.Module):
    """A segmentation network with a CAM head: dropout and a 1 x 1 convolution on the encoder's last feature.

    The network takes RGB images of any size with values from 0 to 255. It normalises them, and pads them at the right
    and the bottom with reflected pixels up to a multiple of 32.

    Parameters
    ----------
    settings : NetworkSection
        Architecture, encoder, dropout and normalisation.
    classes : int
        Number of tissue classes, without background.
    weights : str or Weights, optional
        Initial weights of the encoder: a name, or the content of a file; None for random weights.

    Raises
    ------
    ConfigError
        The network does not exist, or does not have these weights.
    """

    mean: Tensor
    std: Tensor
    segmentation: Any

    def __init__(self, settings: NetworkSection, classes: int, weights: str | Weights | None = None) -> None:
        super().__init__()
        self.segmentation = _create(settings, classes, weights)
        channels: int = self.segmentation.encoder.out_channels[-1]
        self.cam = nn.Sequential(nn.Dropout(settings.dropout), nn.Conv2d(channels, classes, 1))
        for name, values in (("mean", settings.mean), ("std", settings.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Outputs:
        """Run the network on (B, 3, H, W) RGB images with values from 0 to 255, uint8 or float."""
        height, width = images.shape[-2:]
        normalised = (images.float() - self.mean) / self.std
        features = self.segmentation.encoder(reflect(normalised))
        decoded = features if isinstance(features, tuple) else (features,)  # DPT encoders also return prefix tokens
        masks = self.segmentation.segmentation_head(self.segmentation.decoder(*decoded))
        cam = self.cam(decoded[0][-1])
        return Outputs(masks[..., :height, :width], cam, cam.mean((-2, -1)))

    def segment(self, images: Tensor, by_cam: bool = False) -> Tensor:
        """Return (B, C, H, W) pixel logits: the decoder's or, if `by_cam`, the CAM enlarged to the images' size."""
        outputs: Outputs = self(images)
        if not by_cam:
            return outputs.masks
        height, width = images.shape[-2:]
        padded = [size + -size % _MULTIPLE for size in (height, width)]
        return interpolate(outputs.cam, padded, mode="bilinear")[..., :height, :width]


def outline(settings: NetworkSection, classes: int) -> SegmentationNetwork:
    """Return the network on the meta device: its tensors have types and shapes but no values, and take no memory.

    Raises
    ------
    ConfigError
        The network does not exist.
    """
    with torch.device("meta"), _Rates():
        return SegmentationNetwork(settings, classes)


class _Rates(TorchFunctionMode):
    """Compute ``torch.linspace`` on the CPU, because networks read their dropout rates from its result."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        keywords = dict(keywords or {})
        if function is torch.linspace:
            keywords.setdefault("device", "cpu")
        return function(*arguments, **keywords)


def check_canvas(size: tuple[int, int]) -> None:
    """Refuse a canvas that is too large for a network.

    Raises
    ------
    ConfigError
        A side is longer than `LARGEST_CANVAS`.
    """
    if max(size) > LARGEST_CANVAS:
        raise ConfigError(
            f"canvas is {size[0]} x {size[1]} pixels, expected sides of at most {LARGEST_CANVAS}; make smaller "
            "composites"
        )


def with_own_normalisation(settings: NetworkSection) -> NetworkSection:
    """Return the settings with the mean and std that a timm encoder expects, if its weights come from a file.

    Other encoders, and encoders with named weights, keep the mean and std of `settings`.

    Raises
    ------
    ConfigError
        The network does not exist.
    """
    if not settings.weights_file or not settings.encoder.startswith(_TIMM):
        return settings
    _check_names(settings)
    mean, std = own_normalisation(settings.encoder.removeprefix(_TIMM))
    return settings.model_copy(update={"mean": mean, "std": std})


def read_file(settings: NetworkSection) -> Weights | None:
    """Read the weights file of the settings; return None if the settings name no file.

    Raises
    ------
    ConfigError
        The file cannot be used.
    """
    return read_weights("network.weights", settings.weights_file) if settings.weights_file else None


def pretrained_network(
    settings: NetworkSection, classes: int, weights: Weights | None = None
) -> tuple[SegmentationNetwork, str | None]:
    """Make a network with the initial weights of `settings`, or with random weights and the reason for them.

    Parameters
    ----------
    settings : NetworkSection
        Architecture, encoder and weights.
    classes : int
        Number of tissue classes.
    weights : Weights, optional
        Content of the weights file of `settings`; by default, the file is read here.

    Returns
    -------
    network : SegmentationNetwork
        The network.
    reason : str or None
        Message if named weights are not available and the encoder starts at random; None otherwise.

    Raises
    ------
    ConfigError
        The network does not exist, does not have these weights, or the weights of the file do not fit.
    """
    weights = weights or read_file(settings)
    if settings.weights is None or weights:
        return SegmentationNetwork(settings, classes, weights), None
    _check_names(settings)
    try:
        _check_hub(settings.encoder, settings.weights)
        return SegmentationNetwork(settings, classes, settings.weights), None
    except Exception as error:  # clients of hubs raise many kinds of errors; a wrong network fails again below
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        why = (
            f"the {settings.weights} weights of {settings.encoder} are not available ({reason}), so the encoder starts "
            "with random weights and needs more epochs; load the weights once with network access, or set "
            "network.weights to a file of weights or to null"
        )
        return SegmentationNetwork(settings, classes), why


def _check_hub(encoder: str, weights: str) -> None:
    if encoder.startswith(_TIMM):
        check_timm_hub(encoder.removeprefix(_TIMM))
    else:
        source = smp.encoders.encoders[encoder]["pretrained_settings"][weights]
        check_hub(source["repo_id"], ("model.safetensors",), source["revision"])


def _create(settings: NetworkSection, classes: int, weights: str | Weights | None) -> nn.Module:
    _check_names(settings)
    named: str | bool | None = weights if isinstance(weights, str) else None
    options: dict[str, Any] = {}
    if isinstance(weights, Weights) and settings.encoder.startswith(_TIMM):
        # timm makes the whole network first, and then takes the encoder from it
        whole = timm_outline(settings.encoder.removeprefix(_TIMM))
        fitting = weights.fit(whole.state_dict(), heads(whole), f"{settings.encoder} of timm {timm.__version__}")
        named, options = True, {"pretrained_cfg_overlay": {"state_dict": fitting}}
    try:
        with warnings.catch_warnings(), quiet_hub():
            warnings.simplefilter("ignore")
            module: nn.Module = smp.create_model(
                settings.architecture, settings.encoder, encoder_weights=named, classes=classes, **options
            )
    except Exception as error:  # networks raise many kinds of errors
        if isinstance(weights, str):
            raise
        raise ConfigError(
            f"network: segmentation-models-pytorch {smp.__version__} cannot make {settings.architecture} with "
            f"{settings.encoder}: {' '.join(str(error).split())}; choose another architecture or encoder"
        ) from error
    encoder: Any = module.encoder
    if options:
        encoder.model.pretrained_cfg.pop("state_dict")  # otherwise the weights stay in memory twice
    elif isinstance(weights, Weights):
        body = {name: each for name, each in weights.tensors.items() if name.partition(".")[0] not in _HEADS}
        package = f"{settings.encoder} of segmentation-models-pytorch {smp.__version__}"
        fitting = replace(weights, tensors=body).fit(encoder.state_dict(), (), package)
        encoder.load_state_dict(encoder.state_dict() | fitting)
    return module


def _check_names(settings: NetworkSection) -> None:
    architectures = smp.MODEL_ARCHITECTURES_MAPPING
    if settings.architecture.lower() not in architectures:
        names = [architecture.__name__ for architecture in architectures.values()]
        raise ConfigError(_unknown("architecture", settings.architecture, names))
    if settings.encoder.startswith(_TIMM):
        # timm also accepts hub names, URLs and folders, and would load files from there
        name = settings.encoder.removeprefix(_TIMM)
        if not timm.is_model(name) or not re.fullmatch(r"[\w.-]+", name):
            close = [f"{_TIMM}{each}" for each in difflib.get_close_matches(name[:100], timm.list_models(), 3)]
            hint = f"did you mean {' or '.join(close)}?" if close else "`timm.list_models()` lists its models"
            raise ConfigError(
                f"network.encoder: timm {timm.__version__} has no {printable(settings.encoder)[:100]!r}; {hint}"
            )
        return
    known = smp.encoders.encoders
    if settings.encoder not in known:
        raise ConfigError(_unknown("encoder", settings.encoder, list(known)))
    weights = known[settings.encoder]["pretrained_settings"]
    if settings.weights is not None and not settings.weights_file and settings.weights not in weights:
        raise ConfigError(_unknown("weights", settings.weights, list(weights)))


def _unknown(key: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name[:100], known, 3)
    some = ", ".join(known[:12]) + (" ..." if len(known) > 12 else "")
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {some}"
    return f"network.{key}: segmentation-models-pytorch {smp.__version__} has no {printable(name)[:100]!r}; {hint}"


def reflect(images: Tensor) -> Tensor:
    """Pad images at the right and the bottom with reflected pixels, up to the next multiple of 32."""
    for axis in (-1, -2):
        while missing := -images.shape[axis] % _MULTIPLE:
            step = min(missing, images.shape[axis] - 1)
            mode = "reflect" if step else "replicate"
            step = step or missing
            images = pad(images, (0, step, 0, 0) if axis == -1 else (0, 0, 0, step), mode)
    return images
