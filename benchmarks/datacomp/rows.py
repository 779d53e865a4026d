"""The rows of the table, which make the training samples. To compare other composites, add an entry to `ROWS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datacomp.rules import Chosen
from benchmarks.datacomp.samples import Recipe, Samples, Train, Unmasked
from benchmarks.datacomp.sets import DataSet
from synthpipe import open_curated
from synthpipe.build import build
from synthpipe.cli.progress import reporter
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.segment.pseudo import fit_to_patches, restrict_to_labels
from synthpipe.segment.settings import ConsistencySection
from synthpipe.segment.sources import MaskedCrops, RealPatches


@dataclass(frozen=True)
class Built:
    """Composites of a real build, with equal numbers of each strategy.

    Attributes
    ----------
    overrides : tuple of str
        Keys of the pipeline file to replace.
    candidates : int
        The number of candidates for each composite that is used.
    drawn : bool
        Whether the composites are drawn at random from the candidates of the first plan that pass the build's checks.
    """

    overrides: tuple[str, ...]
    candidates: int = 1
    drawn: bool = False

    def __call__(self, data: DataSet, size: int, seed: int, run: Path, train: Train) -> Samples:
        plain = data.settings(*self.overrides)
        used = size // len(plain.strategies)
        planned = used * self.candidates
        plan = {"wanted": planned if self.drawn else used, "candidates": planned, "max_candidates": 10 * planned}
        numbers = (f"seed={plain.seed + seed}", *(f"curation.{key}={count}" for key, count in plan.items()))
        build(data.settings(*self.overrides, *numbers), run, ClusterSettings(Local(0)), reporter())
        curated = open_curated(run / "curated.zarr")
        if self.drawn:
            rng = np.random.Generator(np.random.Philox(seed))
            # the build replaces rejected candidates by others beyond the plan, which the other rows do not rank
            origins = map(curated.origin, range(len(curated)))
            indices, codes = np.array([origin[1] for origin in origins if origin]), curated.strategies
            planned_ones = [np.flatnonzero((codes == each) & (indices < planned)) for each in np.unique(codes)]
            drawn = [rng.choice(each, min(used, len(each)), replace=False) for each in planned_ones]
            curated = curated.subset(np.concatenate(drawn))
        return Samples(*curated.read(range(len(curated))))


@dataclass(frozen=True)
class Patches:
    """The donors themselves: all pixels of a patch except glass have the class of its label."""

    def __call__(self, data: DataSet, size: int, seed: int, run: Path, train: Train) -> Samples:
        rng = np.random.Generator(np.random.Philox(seed))
        donors = data.catalog.donors
        chosen = rng.choice(len(donors), min(size, len(donors)), replace=False).tolist()
        curated = RealPatches([donors[index] for index in chosen], data.description)
        images, glass, _ = curated.read(range(len(chosen)), ())
        labels = np.array([donors[index].classes[0] for index in chosen], np.uint8)
        return Samples(images, np.where(glass, glass, labels[:, None, None]))


@dataclass(frozen=True)
class Crops:
    """Random windows of the donors' images with their true masks, which no other row uses."""

    def __call__(self, data: DataSet, size: int, seed: int, run: Path, train: Train) -> Samples:
        source = MaskedCrops(data.images("train"), data.description)
        rng = np.random.Generator(np.random.Philox(seed))
        images, masks, _ = source.read(rng.integers(0, len(source), size).tolist(), [rng] * size)
        return Samples(images, masks)


@dataclass(frozen=True)
class SelfTrained:
    """Half composites, half patches of several classes with masks that a network predicts within their labels.

    In the first round, the network is trained on the composites alone; in later rounds, on the samples of the previous
    round.

    Attributes
    ----------
    composites : Recipe
        Makes the composites.
    share : float or None
        The share of each class's pixels that keep their class, as in `synthpipe pseudo-label --keep`; None keeps all.
    rounds : int
        The number of times that masks are predicted.
    """

    composites: Recipe
    share: float | None
    rounds: int = 1

    def __call__(self, data: DataSet, size: int, seed: int, run: Path, train: Train) -> Samples:
        composites = self.composites(data, size, seed, run, train)
        real = _mixed(data, size // 2, seed)
        images, glass, labels = real.read(range(len(real)), ())
        found = composites
        for _ in range(self.rounds):
            predict = train(found)
            sure = fit_to_patches(real, predict, self.share, _BATCH, reporter()) if self.share else None
            masks = np.empty_like(glass)
            for start in range(0, len(real), _BATCH):
                some = slice(start, start + _BATCH)
                probabilities = predict(images[some])
                masks[some] = (
                    sure.mask(probabilities, labels[some], data.description.taxonomy.background)
                    if sure
                    else restrict_to_labels(probabilities, labels[some])
                )
            masks = np.where(glass, glass, masks)
            half = size - len(real)
            found = Samples(
                np.concatenate((composites.images[:half], images)), np.concatenate((composites.masks[:half], masks))
            )
        return found


@dataclass(frozen=True)
class MeanTaught:
    """Half composites, half patches of several classes without masks, on which a mean teacher trains the network.

    The composites and patches are those of `SelfTrained`.

    Attributes
    ----------
    composites : Recipe
        Makes the composites.
    teacher : ConsistencySection
        Settings of the mean teacher.
    """

    composites: Recipe
    teacher: ConsistencySection

    def __call__(self, data: DataSet, size: int, seed: int, run: Path, train: Train) -> Samples:
        real = _mixed(data, size // 2, seed)
        images, masks, _ = self.composites(data, size, seed, run, train)
        half = size - len(real)
        return Samples(images[:half], masks[:half], Unmasked(*real.read(range(len(real)), ()), self.teacher))


def _mixed(data: DataSet, count: int, seed: int) -> RealPatches:
    """Draw at most `count` patches of several classes."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    mixed = data.catalog.mixed
    chosen = rng.choice(len(mixed), min(count, len(mixed)), replace=False).tolist()
    return RealPatches([mixed[index] for index in chosen], data.description)


@dataclass(frozen=True)
class Row:
    """A row: its description, its recipe, and the name of the row that it is compared with."""

    about: str
    recipe: Recipe
    against: str | None


_BATCH = 32
_UNFILTERED = ("filter.enabled=false", "curation.rule=threshold")
_MOSAIC = Built(("bezier=null", *_UNFILTERED))
_BALANCED = Built(("bezier=null", *_UNFILTERED, "donors.balance_classes=true"))


def _taught(**options: Any) -> MeanTaught:
    return MeanTaught(_MOSAIC, ConsistencySection(form="mean_teacher", **options))


_SHARE: Mapping[str, Any] = {"keep": None, "warmup_steps": 60}  # weights as in DACS and DAFormer
_SURE: Mapping[str, Any] = {"keep": 0.6, "momentum": 0.95, "warmup_steps": 100}
_HIDDEN: Mapping[str, Any] = {"masked": 0.5, "block": 16}

ROWS: Mapping[str, Row] = {
    "masks": Row("true masks (upper bound)", Crops(), "mosaic"),
    "labels": Row("single-tissue patches, not composed", Patches(), None),
    "mosaic": Row("Mosaic", _MOSAIC, "labels"),
    "bezier": Row("Bezier", Built(("mosaic=null", *_UNFILTERED)), "mosaic"),
    "both": Row("Mosaic and Bezier, unfiltered", Built(_UNFILTERED), "mosaic"),
    "top-k": Row("both, the third that the filter ranks highest", Built(("curation.rule=top_k",), 3), "random-k"),
    "random-k": Row("both, a random third of the same candidates", Built(_UNFILTERED, 3, drawn=True), "both"),
    "balanced": Row("Mosaic, donors balanced by class", _BALANCED, "mosaic"),
    "pseudo": Row("Mosaic, and mixed patches with predicted masks", SelfTrained(_MOSAIC, None), "mosaic"),
    "pseudo-sure": Row("the same, only the surest 60 % of each class", SelfTrained(_MOSAIC, 0.6), "mosaic"),
    "pseudo-sure-2": Row("the same, two rounds of prediction", SelfTrained(_MOSAIC, 0.6, 2), "pseudo-sure"),
    "pseudo-sure-3": Row("the same, three rounds", SelfTrained(_MOSAIC, 0.6, 3), "pseudo-sure-2"),
    "pseudo-sure-40": Row("one round, the surest 40 %", SelfTrained(_MOSAIC, 0.4), "pseudo-sure"),
    "pseudo-sure-80": Row("one round, the surest 80 %", SelfTrained(_MOSAIC, 0.8), "pseudo-sure"),
    "pseudo-sure-balanced": Row("one round, donors balanced by class", SelfTrained(_BALANCED, 0.6), "pseudo-sure"),
    "pseudo-sure-both": Row("one round, with Mosaic and Bezier", SelfTrained(Built(_UNFILTERED), 0.6), "pseudo-sure"),
    "rule-agreement": Row(
        "the third of the Mosaics that agrees most with another network", Chosen(_MOSAIC, "agreement"), "mosaic"
    ),
    "rule-disagreement": Row("the third that agrees least", Chosen(_MOSAIC, "disagreement"), "mosaic"),
    "rule-similarity": Row("the third nearest to mixed patches", Chosen(_MOSAIC, "similarity"), "mosaic"),
    "rule-coverage": Row("the nearest third to each mixed patch in turn", Chosen(_MOSAIC, "coverage"), "mosaic"),
    "rule-diversity": Row("the third farthest from each other", Chosen(_MOSAIC, "diversity"), "mosaic"),
    "mean-teacher": Row("Mosaic; changed trainer: mean teacher on mixed patches", _taught(**_SHARE), "mosaic"),
    "mean-teacher-mix": Row("changed trainer: with ClassMix", _taught(**_SHARE, class_mix=True), "mosaic"),
    "mean-teacher-masked": Row("changed trainer: with masked images", _taught(**_SHARE, **_HIDDEN), "mosaic"),
    "mean-teacher-all": Row(
        "changed trainer: with ClassMix and masked images", _taught(**_SHARE, class_mix=True, **_HIDDEN), "mosaic"
    ),
    "mean-teacher-sure": Row("changed trainer: only the surest 60 % of each class", _taught(**_SURE), "mosaic"),
    "threshold": Row("both, the first that the filter accepts", Built(("curation.rule=threshold",), 3), "random-k"),
}
"""All rows by name, in the order in which they are made."""
