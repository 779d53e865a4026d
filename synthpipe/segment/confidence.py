"""Choose the pixels of a predicted mask that keep their class: the surest pixels of each class.

A network trained on composites favours some classes. In mixed tiles of GlaS, for example, it predicts gland for 39 % of
the pixels, but 53 % are gland. A fixed confidence threshold makes this worse. So this module first balances the classes
and then keeps the surest pixels of each, as in class-balanced self-training (Zou et al., ECCV 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.records import Mask

_ROUNDS = 200
_CLOSE = 0.005  # relative difference between a share and the wanted share at which fitting ends
_RATE = 0.5  # part of log(wanted share / predicted share) that one round adds to the bias

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Confidence:
    """The rule that decides whether a pixel keeps its predicted class.

    Attributes
    ----------
    bias : (C,) float32
        Added to the log probabilities of the classes.
    least : (C,) float32
        Smallest margin, by class, between the log probability of a pixel's class and that of the next best class.
    """

    bias: Floats
    least: Floats

    def mask(self, probabilities: Floats, labels: NDArray[np.uint8], ignored: int) -> Mask:
        """Return (N, H, W) uint8 masks: the most probable class of each pixel, or `ignored` for unsure pixels.

        Parameters
        ----------
        probabilities : (N, C, H, W) float32
            Class probabilities.
        labels : (N, C) uint8
            1 where a class occurs; if an image has a single class, all its pixels get it.
        ignored : int
            The value of unsure pixels.
        """
        scores = _scores(probabilities, labels[:, :, None, None]) + self.bias[:, None, None]
        classes, margins = _best(scores)
        return np.where(margins >= self.least[classes], classes, ignored).astype(np.uint8)


def fit_confidence(probabilities: Floats, labels: NDArray[np.uint8], share: float) -> Confidence:
    """Fit a `Confidence` to predictions of patches with several classes.

    Labels do not say how much of a patch each class covers. So the fit assumes that the classes of a label have equal
    shares of the patch, and averages these shares over all patches. It chooses `Confidence.bias` so that the predicted
    shares become equal to this average, and then `Confidence.least` so that the surest pixels of each class stay.

    Parameters
    ----------
    probabilities : (M, C) float32
        Class probabilities at M pixels.
    labels : (M, C) uint8
        The label of each pixel's patch: 1 where a class occurs; each row has at least two classes.
    share : float
        Share of each class's pixels that keep the class; more than 0, at most 1.
    """
    wanted = (labels / labels.sum(1, keepdims=True)).mean(0)
    occurring = wanted > 0
    scores, bias = _scores(probabilities, labels), np.zeros(labels.shape[1], np.float32)
    for _ in range(_ROUNDS):
        found = np.bincount((scores + bias).argmax(1), minlength=len(bias)) / len(scores)
        ratio = np.log(np.clip(wanted[occurring] / np.maximum(found[occurring], 1e-6), 0.1, 10))
        if np.abs(ratio).max() < _CLOSE:
            break
        bias[occurring] += _RATE * ratio
    classes, margins = _best(scores + bias)
    least = np.zeros_like(bias)
    for each in np.unique(classes):
        least[each] = np.quantile(margins[classes == each], 1 - share)
    return Confidence(bias, least)


def _scores(probabilities: Floats, labels: NDArray[np.uint8]) -> Floats:
    """Return log probabilities; classes that are not in the label get -10000, far below all others."""
    scores: Floats = np.where(labels > 0, np.log(np.maximum(probabilities, 1e-7)), np.float32(-1e4))
    return scores


def _best(scores: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the class with the highest score along axis 1, and its margin over the second highest score."""
    first, second = np.moveaxis(np.partition(scores, (-2, -1), axis=1)[:, -2:], 1, 0)[::-1]
    return scores.argmax(1), first - second
