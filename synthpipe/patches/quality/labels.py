"""Estimate the label of each donor with models that have not seen its slide or patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_FOLDS = 5
_ROUNDS = 3
_SUSPECT = 0.3  # a donor with a less probable label does not train the models of the next round
_COMPONENTS = 128  # principal components of the features
_VARIANCE = 100.0  # total variance of the features after scaling; the penalty is chosen for this variance
_PENALTY = 1.0
_CLIP = 5.0  # most standard deviations of a feature
_STEPS, _SMALL_STEP = 25, 1e-6


def label_probabilities(features: Floats, labels: Sequence[int], groups: Sequence[str], classes: int) -> Floats:
    """Return the probability of each class for each donor, by models that were trained without the donor's group.

    Each model is a logistic regression of one class against the others, in which both sides have equal weight. The
    models are trained three times. The second and the third time leave out donors whose label was improbable before. So
    a wrong label hardly changes the estimates of other donors.

    Parameters
    ----------
    features : (N, F) float
        Features of the donors.
    labels : sequence of int
        Class index of each donor.
    groups : sequence of str
        Slide or patient of each donor.
    classes : int
        Number of classes.

    Returns
    -------
    (N, C) float64
        Each row sums to 1. A row is NaN if the training donors have fewer than two classes, or lack the donor's class.
    """
    names = np.asarray(labels)
    folds = _folds(groups)
    reduced = _principal_components(features)
    rows = np.arange(len(names))
    trusted = np.ones(len(names), bool)
    for _ in range(_ROUNDS):
        found = np.full((len(names), classes), np.nan)
        for fold in range(_FOLDS):
            inside, training = folds == fold, (folds != fold) & trusted
            _estimate(reduced, names, inside, training, found)
        own = found[rows, names]
        trusted = ~(own < _SUSPECT)  # NaN compares as false, so an unknown probability keeps the donor
    return found


def _folds(groups: Sequence[str]) -> NDArray[np.int_]:
    """Return the fold of each donor. Groups, largest first, go to the fold with the fewest donors so far."""
    sizes = Counter(groups)
    counts = [0] * _FOLDS
    fold_of: dict[str, int] = {}
    for group in sorted(sizes, key=lambda name: (-sizes[name], name)):
        fold = counts.index(min(counts))
        fold_of[group] = fold
        counts[fold] += sizes[group]
    return np.array([fold_of[group] for group in groups], int)


def _principal_components(features: Floats) -> Floats:
    values = np.asarray(features, np.float64)
    deviation = values.std(0)
    varies = deviation > 1e-9 * (1 + np.abs(values.mean(0)))
    values = values[:, varies]
    scaled = np.clip((values - values.mean(0)) / deviation[varies], -_CLIP, _CLIP)
    _, vectors = np.linalg.eigh(scaled.T @ scaled)
    components: Floats = scaled @ vectors[:, ::-1][:, :_COMPONENTS]
    components *= np.sqrt(_VARIANCE / max(1, scaled.shape[1]))
    return components


def _estimate(
    features: Floats, labels: NDArray[np.int_], inside: NDArray[np.bool_], training: NDArray[np.bool_], found: Floats
) -> None:
    """Train models on the `training` rows, estimate the `inside` rows, and write the results into `found`."""
    present = np.unique(labels[training])
    estimated = inside & np.isin(labels, present)
    if len(present) < 2 or not estimated.any():
        return
    chances = np.zeros((int(estimated.sum()), found.shape[1]))
    for label in present.tolist():
        target = (labels[training] == label).astype(np.float64)
        model = _fit(features[training], target)
        chances[:, label] = _sigmoid(features[estimated] @ model[:-1] + model[-1])
    found[estimated] = chances / chances.sum(1, keepdims=True)


def _fit(features: Floats, target: Floats) -> Floats:
    """Fit a penalised logistic regression by Newton's method. Return its weights, with the constant last."""
    design = np.hstack([features, np.ones((len(features), 1))])
    share = target.mean()
    weight = np.where(target == 1, 0.5 / share, 0.5 / (1 - share))
    penalty = np.full(design.shape[1], _PENALTY)
    penalty[-1] = 1e-6
    model = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = _sigmoid(design @ model)
        slope = design.T @ (weight * (chance - target)) + penalty * model
        curvature = (design * (weight * chance * (1 - chance))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        model -= step
        if np.abs(step).max() < _SMALL_STEP:
            break
    return model


def _sigmoid(values: Floats) -> Floats:
    result: Floats = 0.5 * (1 + np.tanh(values / 2))
    return np.clip(result, 1e-9, 1 - 1e-9)
