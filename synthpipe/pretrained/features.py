"""Compute features of images with a pretrained timm network, without its classification layer."""

from __future__ import annotations

import re

import cv2
import numpy as np
import timm
import timm.data
import torch
from numpy.typing import NDArray
from torch import Tensor

from synthpipe.core.display import printable
from synthpipe.core.errors import ConfigError
from synthpipe.core.records import Image
from synthpipe.pretrained.weights import check_timm_hub, heads, own_normalisation, quiet_hub, read_weights


class NetworkFeatures:
    """A function that returns the features of an image.

    Parameters
    ----------
    network : str
        Name of a timm network.
    weights : str, optional
        Path or URL of a weights file (default: the weights from timm's hub).

    Raises
    ------
    ConfigError
        timm has no such network, the weights are not available, or they do not fit.
    """

    def __init__(self, network: str, weights: str | None = None) -> None:
        if not re.fullmatch(r"[\w.-]+", network) or not timm.is_model(network):
            raise ConfigError(
                f"--network {printable(network)[:100]}: timm {timm.__version__} has no such network; "
                "`timm.list_models()` lists its networks"
            )
        try:
            with quiet_hub():
                if weights is None:
                    check_timm_hub(network)
                self._module = timm.create_model(network, pretrained=weights is None).eval()
        except Exception as error:  # networks and hubs raise errors of many types
            raise ConfigError(
                f"--network {network}: its weights are not available: {' '.join(str(error).split())[:300]}; give a "
                "file of its weights with --weights"
            ) from error
        if weights is not None:
            wanted = self._module.state_dict()
            fitting = read_weights("--weights", weights).fit(wanted, heads(self._module), network)
            self._module.load_state_dict(fitting, strict=False)
        self._mean, self._std = (torch.tensor(each).view(3, 1, 1) for each in own_normalisation(network))
        config = timm.get_pretrained_cfg(network)
        settings = config.to_dict() if config else {}
        self._side = int(timm.data.resolve_data_config(pretrained_cfg=settings)["input_size"][1])
        self._fixed = bool(settings.get("fixed_input_size"))

    def __call__(self, image: Image) -> NDArray[np.float32]:
        """Return the features of an image, (F,) float32. The image is (H, W, 3) uint8 RGB.

        An image that is larger than the network expects is resized to the expected size. If the network accepts only
        one size, all images are resized.
        """
        resized = image
        if self._fixed or max(image.shape[:2]) > self._side:
            shrinks = max(image.shape[:2]) > self._side
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            resized = np.asarray(cv2.resize(image, (self._side, self._side), interpolation=method), np.uint8)
        pixels = torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1).float().div_(255)
        with torch.inference_mode():
            found: Tensor = self._module.forward_head(
                self._module.forward_features(pixels.sub_(self._mean).div_(self._std)[None]), pre_logits=True
            )
        return np.asarray(found[0].numpy(), np.float32)
