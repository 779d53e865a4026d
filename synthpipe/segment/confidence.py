"""Which pixels of a predicted mask keep their class: the surest of each class, in balance between classes.

A network that learned from composites favours some classes: of GlaS it predicts 39 % of the pixels of mixed tiles as
gland, where 53 % are. A fixed threshold of confidence makes that worse. Here the classes are brought into balance, then
the surest pixels of each are kept, as in class-balanced self-training (Zou et al., ECCV 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.records import Mask

_ROUNDS = 200
_CLOSE = 0.005  # relative difference of a share from the wanted one
_RATE = 0.5  # of the correction, in log probability

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Confidence:
    """What a pixel needs to keep its class.

    Attributes
    ----------
    bias : (C,) float32
        Added to the log probabilities of the classes.
    least : (C,) float32
        By how much the log probability of a class must exceed that of the next one.
    """

    bias: Floats
    least: Floats

    def mask(self, probabilities: Floats, labels: NDArray[np.uint8], ignored: int) -> Mask:
        """Return (N, H, W) uint8 masks: the most probable class of the image's label, or `ignored` where it is unsure.

        Parameters
        ----------
        probabilities : (N, C, H, W) float32
            Of classes.
        labels : (N, C) uint8
            1 where a class occurs; an image with a single one is filled with it.
        ignored : int
            The value of unsure pixels.
        """
        scores = _scores(probabilities, labels[:, :, None, None]) + self.bias[:, None, None]
        classes, margins = _best(scores)
        return np.where(margins >= self.least[classes], classes, ignored).astype(np.uint8)


def fit_confidence(probabilities: Floats, labels: NDArray[np.uint8], share: float) -> Confidence:
    """Fit to predictions of patches with several classes.

    The classes of a label are taken to cover equal shares of its patch, on the average over the patches: labels say no
    more. `Confidence.bias` is what brings the predicted shares there. Then the surest pixels of each class are kept.

    Parameters
    ----------
    probabilities : (M, C) float32
        Of the classes at M pixels.
    labels : (M, C) uint8
        The label of each pixel's patch: 1 where a class occurs, at least two in each row.
    share : float
        Of the pixels of each class, how many keep it; more than 0, at most 1.
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
    """Return log probabilities; those of classes that a label excludes are far below all others."""
    scores: Floats = np.where(labels > 0, np.log(np.maximum(probabilities, 1e-7)), np.float32(-1e4))
    return scores


def _best(scores: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the best class along axis 1, the first of equals, and by how much it exceeds the next."""
    first, second = np.moveaxis(np.partition(scores, (-2, -1), axis=1)[:, -2:], 1, 0)[::-1]
    return scores.argmax(1), first - second
