"""Rules that choose composites from candidates without a filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.datacomp.samples import Recipe, Samples, Train
from benchmarks.datacomp.sets import DataSet
from benchmarks.datacomp.trainer import features
from synthpipe.core.records import Image
from synthpipe.segment.sources import RealPatches

_BATCH = 256
_NEIGHBOURS = 5


@dataclass(frozen=True)
class Chosen:
    """Composites that a rule chooses from three times as many candidates.

    Attributes
    ----------
    composites : Recipe
        Makes the candidates. Without the rule, its first samples are a random choice of equal size.
    rule : str
        The key in `RULES`.
    """

    composites: Recipe
    rule: str

    def __call__(self, data: DataSet, size: int, seed: int, run: Path, train: Train) -> Samples:
        made = self.composites(data, 4 * size, seed, run, train)
        others, candidates = made.part(slice(size)), made.part(slice(size, None))
        return candidates.part(RULES[self.rule](candidates, others, data, size, train))


def _agreement(candidates: Samples, others: Samples, data: DataSet, size: int, train: Train) -> NDArray[np.intp]:
    """Choose the composites whose masks are most probable for a network that was trained on other composites."""
    return np.argsort(-_mask_probabilities(candidates, others, train), kind="stable")[:size]


def _disagreement(candidates: Samples, others: Samples, data: DataSet, size: int, train: Train) -> NDArray[np.intp]:
    """Choose the composites whose masks are least probable for a network that was trained on other composites."""
    return np.argsort(_mask_probabilities(candidates, others, train), kind="stable")[:size]


def _similarity(candidates: Samples, others: Samples, data: DataSet, size: int, train: Train) -> NDArray[np.intp]:
    """Choose the composites whose ImageNet features have the nearest neighbours among patches of several classes."""
    similarities = features(candidates.images) @ features(_mixed_patches(data)).T
    nearest = np.partition(similarities, -_NEIGHBOURS, axis=1)[:, -_NEIGHBOURS:]
    return np.argsort(-nearest.mean(axis=1), kind="stable")[:size]


def _coverage(candidates: Samples, others: Samples, data: DataSet, size: int, train: Train) -> NDArray[np.intp]:
    """Choose the composites nearest to each patch of several classes in turn, by ImageNet features, each once."""
    similarities = features(_mixed_patches(data)) @ features(candidates.images).T
    chosen: list[int] = []
    patch = 0
    while len(chosen) < size:
        best = int(similarities[patch % len(similarities)].argmax())
        similarities[:, best] = -np.inf
        chosen.append(best)
        patch += 1
    return np.array(chosen, np.intp)


def _diversity(candidates: Samples, others: Samples, data: DataSet, size: int, train: Train) -> NDArray[np.intp]:
    """Choose the composite farthest from all chosen ones, by ImageNet features, again and again."""
    points = features(candidates.images)
    chosen = [0]
    nearest = points @ points[0]
    while len(chosen) < size:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, points @ points[chosen[-1]])
    return np.array(chosen, np.intp)


Rule = Callable[[Samples, Samples, DataSet, int, Train], NDArray[np.intp]]
"""Takes candidates, other composites, the data set, a number and a training; returns indices of candidates."""

RULES: Mapping[str, Rule] = {
    "agreement": _agreement,
    "disagreement": _disagreement,
    "similarity": _similarity,
    "coverage": _coverage,
    "diversity": _diversity,
}
"""All rules by name."""


def _mask_probabilities(candidates: Samples, others: Samples, train: Train) -> NDArray[np.float64]:
    """Return the mean probability of each mask's own classes."""
    predict = train(others)
    means = []
    for start in range(0, len(candidates.masks), _BATCH):
        some = candidates.part(slice(start, start + _BATCH))
        probabilities = predict(some.images)
        known = some.masks < probabilities.shape[1]
        own = np.take_along_axis(probabilities, np.where(known, some.masks, 0)[:, None].astype(np.intp), axis=1)[:, 0]
        means.append(np.average(own.reshape(len(own), -1), axis=1, weights=known.reshape(len(own), -1)))
    return np.concatenate(means)


def _mixed_patches(data: DataSet) -> Image:
    """Return patches of several classes, at most 1,500 and evenly spaced in the catalog."""
    mixed = data.catalog.mixed
    used = np.unique(np.linspace(0, len(mixed) - 1, 1500, dtype=np.intp)).tolist()
    return RealPatches([mixed[index] for index in used], data.description).read(range(len(used)), ())[0]
