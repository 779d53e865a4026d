"""The filter of a build, which accepts fresh composites as it accepted those of the curated set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.config.pipeline import CurationSection
from synthpipe.core.errors import ConfigError
from synthpipe.core.packages import TORCH, require
from synthpipe.core.records import STRATEGIES, Image, Strategy
from synthpipe.core.spacing import evenly_spaced
from synthpipe.files.locations import Location, exists
from synthpipe.files.reading import read_regular
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CuratedStore

if TYPE_CHECKING:
    from synthpipe.curated.curated_set import CuratedSet
    from synthpipe.filtering.scoring import Scorer

_CHECKED = 2  # samples of a strategy that are scored, to compare with the stored scores
_CLOSE = 0.02  # largest difference of these scores; devices and mixed precision change the last bits
_BATCH = 64  # images that a GPU scores at once
_LARGEST = 1 << 33  # bytes of a file of weights


class FreshFilter:
    """The filter that scored a curated set, and the least scores that it demands.

    The filters are files like ``mosaic.safetensors``, in the folder ``filter`` of the set or of its run. Rule
    ``threshold`` accepts scores above ``curation.threshold``; rule ``top_k`` accepts scores that are not below the
    lowest score in the whole set.

    Parameters
    ----------
    curated : CuratedSet
        A virtual set, or a part of one.
    rules : CurationSection
        The rules of the build.
    device : str
        The device that scores: cpu or a GPU, such as cuda. Another kind of device changes the last bits of scores.

    Raises
    ------
    ConfigError
        The set has no scores, its filter is not there, or a filter gives samples other scores than the set has.
    FilterError
        A file of weights is damaged.
    """

    def __init__(self, curated: CuratedSet, rules: CurationSection, device: str = "cpu") -> None:
        require("fresh: filtered", *TORCH)
        self.device, self._size, self._rule = device, curated.size, rules.rule
        self._scorers: dict[Strategy, Scorer] = {}
        scores = _scores(curated)
        for strategy, values in scores.items():
            if not len(values) or np.isnan(values).any():
                raise ConfigError(
                    f"{curated.path}: its {strategy} composites have no scores, so no filter chose them; use "
                    "fresh: unfiltered"
                )
        self._paths = {strategy: _weights(curated, strategy) for strategy in scores}
        self._least = {
            strategy: rules.threshold if rules.rule == "threshold" else float(values.min())
            for strategy, values in scores.items()
        }
        self.digests = {
            strategy: hashlib.sha256(read_regular(path, _LARGEST)).hexdigest() for strategy, path in self._paths.items()
        }
        for strategy in scores:
            self._check(curated, strategy)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without networks: each process loads its own."""
        return vars(self) | {"_scorers": {}}

    def accepts(self, strategy: Strategy, images: Image) -> NDArray[np.bool_]:
        """Return whether the filter accepts each of (N, H, W, 3) images of a strategy, (N,) bool."""
        p_real, least = self._score(strategy, images), np.float32(self._least[strategy])
        accepted: NDArray[np.bool_] = p_real > least if self._rule == "threshold" else p_real >= least
        return accepted

    def _score(self, strategy: Strategy, images: Image) -> NDArray[np.float32]:
        from synthpipe.filtering.scoring import Scorer  # loads torch

        if strategy not in self._scorers:
            self._scorers[strategy] = Scorer.load(self._paths[strategy], self.device)
        return self._scorers[strategy].score(images, _BATCH)

    def _check(self, curated: CuratedSet, strategy: Strategy) -> None:
        """Refuse a filter that gives samples of the set other scores than the set has."""
        numbers = np.flatnonzero(curated.strategies == STRATEGIES.index(strategy))
        chosen = numbers[evenly_spaced(len(numbers), _CHECKED)].tolist()
        found = self._score(strategy, curated.read(chosen)[0]).tolist()
        for number, score in zip(chosen, found, strict=True):
            if abs(score - curated.p_real[number]) > _CLOSE:
                raise ConfigError(
                    f"{self._paths[strategy]}: gives sample {number} of {curated.path} the score {score:.3f}, but the "
                    f"set has {curated.p_real[number]:.3f}, so another filter chose the set; use the filter of its "
                    "build, or fresh: unfiltered"
                )


def _scores(curated: CuratedSet) -> Mapping[Strategy, NDArray[np.float32]]:
    """Return the scores of all composites in the whole set, for each strategy of the given part."""
    store = CuratedStore.open(curated.path)
    everything = slice(0, store.length())
    p_real, codes = store.scores(everything), store.read("origin_strategy", everything)
    return {STRATEGIES[code]: p_real[codes == code] for code in np.unique(curated.strategies).tolist()}


def _weights(curated: CuratedSet, strategy: Strategy) -> Location:
    """Return the path of a filter's weights."""
    locations = [RunDirectory(folder).weights(strategy) for folder in (curated.path, curated.path.parent)]
    for path in locations:
        if exists(path):
            return path
    raise ConfigError(
        f"{curated.path}: its {strategy} filter is neither {locations[0]} nor {locations[1]}; copy the folder filter "
        "of the run to one of these locations, or use fresh: unfiltered"
    )
