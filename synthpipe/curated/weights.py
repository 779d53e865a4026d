"""Weights of classes and samples, for data with rare classes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import ConfigError

WeightKind = Literal["inverse", "median"]


def class_weights(class_pixels: NDArray[np.integer[Any]], kind: WeightKind) -> NDArray[np.float32]:
    """Return (C,) float32, mean 1 over the classes that occur: weights for a loss, larger for rare classes.

    Parameters
    ----------
    class_pixels : (N, C + 1) int
        Pixels of each class in each sample, background last.
    kind : {"inverse", "median"}
        ``inverse`` is the inverse of a class's share of all pixels. ``median`` is the median of all class frequencies
        divided by the class's own; a frequency is the share of pixels in the images in which the class occurs (Eigen
        and Fergus, ICCV 2015, section 6.3.2). A class without pixels gets 0.

    Raises
    ------
    ConfigError
        `kind` is unknown.
    """
    if kind not in get_args(WeightKind):
        raise ConfigError(f"weights of kind {kind!r}: expected one of {', '.join(get_args(WeightKind))}")
    classes = class_pixels[:, :-1].astype(np.float64)
    pixels = classes.sum(0)
    of_images = classes.sum() if kind == "inverse" else (classes.sum(1, keepdims=True) * (classes > 0)).sum(0)
    frequency = np.divide(pixels, of_images, out=np.zeros_like(pixels), where=pixels > 0)
    weights = np.divide(1, frequency, out=np.zeros_like(frequency), where=frequency > 0)
    return np.asarray(weights * (weights > 0).sum() / weights.sum(), np.float32)


def sample_weights(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return (N,) float64, sum 1: probabilities of drawing samples, so that rare classes are drawn more often.

    `labels` (N, C) has the classes of each sample. The probability of a sample is proportional to the mean, over its
    classes, of one divided by the number of samples with the class. A sample without classes gets 0.
    """
    present = labels > 0
    rarity = np.divide(1.0, present.sum(0), out=np.zeros(labels.shape[1]), where=present.any(0))
    weights = (present * rarity).sum(1) / np.maximum(present.sum(1), 1)
    return np.asarray(weights / weights.sum())
