"""The exponential moving average of a network's weights, which predicts better than the weights of a single step."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """A second network; its weights are a moving average of the trained network's weights.

    At first the average covers few steps, so that it soon forgets the random weights. After step n the decay is at most
    (1 + n) / (10 + n), as in TensorFlow's ``ExponentialMovingAverage``.

    Parameters
    ----------
    network : nn.Module
        The trained network; it is copied.
    decay : float
        Weight of the old average in each step, from 0 to 1.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Add the weights and the running means of `network` after step number `step`, counted from 0."""
        part = 1 - min(self._decay, (1 + step) / (10 + step))
        for mean, value in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, part)
            else:
                mean.copy_(value)
