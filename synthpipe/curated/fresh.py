"""Fresh composites: an endless stream of composites like those of a virtual curated set, which no run stores."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose import Donors, render, sample
from synthpipe.compose.kernels import count_classes
from synthpipe.core.class_rule import has_enough_classes
from synthpipe.core.errors import ConfigError
from synthpipe.core.records import STRATEGIES, Composite, Image, Mask, Recipe, Strategy
from synthpipe.curated.fresh_checks import renderer_of, rules_of
from synthpipe.curated.fresh_filter import FreshFilter
from synthpipe.curated.pixels import Pixels
from synthpipe.storage.nodes import damaged

if TYPE_CHECKING:
    from synthpipe.curated.curated_set import CuratedSet

ATTEMPTS = 10_000
"""Indices per position of the stream; the position gets the first composite that follows the rules."""

_END = 2**63  # indices are stored as int64
_RENDERED, _TRIED = 32, 256  # attempts that are rendered, and all attempts, before classes need not match any more
_COMMON = 0.1  # least share of a strategy's samples that makes a combination of classes common

Classes = frozenset[int]
FreshKind = Literal["unfiltered", "filtered"]


class FreshBatch(NamedTuple):
    """Fresh composites and their origins.

    Attributes
    ----------
    images : (N, H, W, 3) uint8
        RGB.
    masks : (N, H, W) uint8
        Class indices, or the background index.
    labels : (N, C) uint8
        1 for each class that occurs.
    strategies : (N,) uint8
        Indices in `records.STRATEGIES`.
    indices : (N,) int64
        Index of each composite among the fresh composites of its strategy.
    """

    images: Image
    masks: Mask
    labels: NDArray[np.uint8]
    strategies: NDArray[np.uint8]
    indices: NDArray[np.int64]


@dataclass(slots=True)
class _Search:
    """The search for the composite of one position.

    Attributes
    ----------
    strategy : {"mosaic", "bezier"}
        The strategy of the sample.
    classes : frozenset of int or None
        The classes that the composite must show; None for any combination that is not common.
    first : int
        The first index to try.
    tried, rendered : int
        The number of attempts so far, and of those that were rendered.
    """

    strategy: Strategy
    classes: Classes | None
    first: int
    tried: int = 0
    rendered: int = 0

    @property
    def is_matching(self) -> bool:
        """Whether the classes of the latest attempt must match."""
        return self.rendered <= _RENDERED and self.tried <= _TRIED


class FreshComposites:
    """An endless stream of composites like those of a virtual curated set, which neither the set nor its run has.

    Each composite takes the place of one sample of the set and has the same strategy. It follows the rules
    ``curation.min_classes`` and ``curation.min_class_share`` of the build. Each combination of classes that at least a
    tenth of a strategy's samples show is about as frequent as in the set, and so are all other combinations together:
    the first 32 attempts must match the sample in this. With a filter, each composite is accepted by the filter that
    chose the set.

    A composite depends only on the set, the seed, its position and the sample. Different positions or seeds never have
    the same composite. Donors are those of the set's slides, so a part of a `Split` shows no slide of another part.

    Parameters
    ----------
    curated : CuratedSet
        A virtual set, or a part of one.
    pixels : Pixels
        The pixels of the whole set.
    seed : int
        The seed of the stream, from 0 to 2**64 - 1.
    kind : {"unfiltered", "filtered"}
        Whether the filter that chose the set must accept each composite.
    device : str
        The device of the filter; `FreshFilter` explains it.

    Attributes
    ----------
    filter : FreshFilter or None
        The filter.

    Raises
    ------
    ConfigError
        The set is not virtual, is empty, was edited, or has no rules; or its filter is not there.
    FilterError
        The filter is damaged.
    StoreError
        The set is damaged.
    """

    def __init__(
        self, curated: CuratedSet, pixels: Pixels, seed: int = 0, kind: FreshKind = "unfiltered", device: str = "cpu"
    ) -> None:
        if kind not in get_args(FreshKind):
            raise ConfigError(f"fresh: got {kind!r}, expected {' or '.join(get_args(FreshKind))}")
        self.curated, self.seed, self._matches_all = curated, seed, False
        self._renderer, self._rules = renderer_of(curated, pixels), rules_of(curated)
        self.filter = FreshFilter(curated, self._rules, device) if kind == "filtered" else None
        self._common = {strategy: _common_classes(curated, strategy) for strategy in STRATEGIES}
        self._donors: Donors | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without donors: each process loads its own."""
        return vars(self) | {"_donors": None}

    @property
    def kind(self) -> str:
        """``unfiltered``, ``filtered``, or ``filtered on`` a device other than the CPU."""
        if self.filter is None:
            return "unfiltered"
        return "filtered" if self.filter.device == "cpu" else f"filtered on {self.filter.device}"

    def seeded(self, seed: int, matches_all: bool) -> FreshComposites:
        """Return the stream of another seed; both share the donors in memory.

        With `matches_all`, the first attempts must match rare combinations of classes too.
        """
        other = copy.copy(self)
        other.seed, other._matches_all = seed, matches_all
        return other

    def load(self) -> None:
        """Load the donors, so that forked processes share them."""
        if self._donors is None:
            donors, groups = self._renderer.donors(), self.curated.groups
            own = {groups[number] for number in np.unique(self.curated.donor_groups).tolist() if number >= 0}
            self._donors = donors.drawn_from([donor for donor in donors.listed if donor.group in own])

    def read(
        self,
        positions: Sequence[int],
        samples: Sequence[int] | None = None,
        images: Image | None = None,
        masks: Mask | None = None,
    ) -> FreshBatch:
        """Render the composites at positions of the stream.

        Parameters
        ----------
        positions : sequence of int
            Positions from 0. An epoch of a training has as many positions as the set has samples.
        samples : sequence of int, optional
            The sample of the set whose place each composite takes; by default the position modulo the set's length.
        images, masks : array, optional
            C-contiguous arrays to render into.

        Raises
        ------
        ConfigError
            No attempt for a position follows the rules.
        IndexError
            A position is negative or too large.
        StoreError
            The donors of the set are damaged.
        """
        self.load()
        count, size = len(positions), self.curated.size
        samples = [position % len(self.curated) for position in positions] if samples is None else samples
        images = np.empty((count, *size, 3), np.uint8) if images is None else images
        masks = np.empty((count, *size), np.uint8) if masks is None else masks
        pixels = np.empty((count, len(self.curated.taxonomy) + 1), np.int32)
        searches = [self._search(*each) for each in zip(positions, samples, strict=True)]
        pending = list(range(count))
        while pending:
            for number in pending:
                search = searches[number]
                recipe = self._next_recipe(search)
                self._render(recipe, images[number], masks[number])
                count_classes(masks[number].reshape(-1), pixels[number])
            good = self._are_good(images[pending], pixels[pending], [searches[number] for number in pending])
            pending = [number for number, is_good in zip(pending, good.tolist(), strict=True) if not is_good]
        return FreshBatch(
            images,
            masks,
            (pixels[:, :-1] > 0).astype(np.uint8),
            np.array([STRATEGIES.index(search.strategy) for search in searches], np.uint8),
            np.array([search.first + search.tried - 1 for search in searches], np.int64),
        )

    def composite(self, strategy: Strategy, index: int) -> Composite:
        """Render one composite of the stream by its origin, as `FreshBatch` names it; the rules do not matter.

        Raises
        ------
        ConfigError
            The set has no composites of this strategy, or there is no such index.
        StoreError
            The donors of the set are damaged.
        """
        if strategy not in self._renderer.pipeline.strategies or not 0 <= index < _END:
            raise ConfigError(
                f"{self.curated.path}: no fresh {strategy} {index}; strategies are "
                f"{', '.join(self._renderer.pipeline.strategies)}, and indices 0 to {_END - 1}"
            )
        self.load()
        height, width = self.curated.size
        image, mask = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.uint8)
        return self._render(self._sample(strategy, index), image, mask)

    def _search(self, position: int, chosen: int) -> _Search:
        if not 0 <= position < _END // ATTEMPTS:
            raise IndexError(f"no fresh composite at position {position}; positions are 0 to {_END // ATTEMPTS - 1}")
        strategy = STRATEGIES[self.curated.strategies[chosen]]
        classes = self._group(strategy, self.curated.labels[chosen])
        return _Search(strategy, classes, position * ATTEMPTS)

    def _next_recipe(self, search: _Search) -> Recipe:
        """Return the recipe of the next attempt; skip recipes whose donors lack a wanted class."""
        donors = self._donors
        assert donors is not None  # nosec B101 # for mypy: `read` loads them
        while search.tried < ATTEMPTS:
            recipe = self._sample(search.strategy, search.first + search.tried)
            search.tried += 1
            drawn = {donors[patch].label for patch in recipe.donors()}
            if search.classes is None or search.classes <= drawn or not search.is_matching:
                search.rendered += 1
                return recipe
        raise ConfigError(
            f"{self.curated.path}: none of {ATTEMPTS} fresh {search.strategy} composites follows the rules of the set: "
            f"at least {self._rules.min_classes} classes with {self._rules.min_class_share:.2%} of the pixels each"
            f"{', and accepted by the filter' if self.filter else ''}; "
            "use a part of the set with more slides, or train on the set without fresh composites"
        )

    def _are_good(self, images: Image, pixels: NDArray[np.int32], searches: Sequence[_Search]) -> NDArray[np.bool_]:
        """Return whether each composite follows the rules, matches the classes of its sample, and passes the filter."""
        match = [
            not search.is_matching or self._group(search.strategy, row) == search.classes
            for row, search in zip(pixels[:, :-1], searches, strict=True)
        ]
        good = has_enough_classes(pixels, self._rules.min_classes, self._rules.min_class_share) & match
        for strategy in STRATEGIES if self.filter else ():
            asked = good & np.array([search.strategy == strategy for search in searches])
            if asked.any():
                assert self.filter  # nosec B101 # for mypy
                good[asked] = self.filter.accepts(strategy, images[asked])
        return good

    def _group(self, strategy: Strategy, present: NDArray[np.integer[Any]]) -> Classes | None:
        """Return the classes with positive values in `present`, (C,), or None if they are no common combination."""
        classes = frozenset(np.flatnonzero(present > 0).tolist())
        return classes if self._matches_all or classes in self._common[strategy] else None

    def _sample(self, strategy: Strategy, index: int) -> Recipe:
        donors = self._donors
        assert donors is not None  # nosec B101 # for mypy: callers load them
        try:
            return sample(self._renderer.pipeline, strategy, index, donors, "fresh", self.seed)
        except (ValueError, IndexError, KeyError) as error:
            raise damaged(self.curated.path, f"fresh {strategy} {index} cannot be sampled: {error}") from error

    def _render(self, recipe: Recipe, image: Image, mask: Mask) -> Composite:
        donors = self._donors
        assert donors is not None  # nosec B101 # for mypy: callers load them
        try:
            made = render(recipe, donors, image, mask)
        except (ValueError, IndexError, KeyError) as error:
            raise damaged(
                self.curated.path, f"fresh {recipe.strategy} {recipe.index} cannot be rendered: {error}"
            ) from error
        if mask.max() > self.curated.taxonomy.background:  # the kernels that count classes do not check
            raise damaged(self.curated.path, f"fresh {recipe.strategy} {recipe.index} shows an unknown class")
        return made


def _common_classes(curated: CuratedSet, strategy: Strategy) -> frozenset[Classes]:
    """Return the combinations of classes that at least a tenth of a strategy's samples show."""
    rows = curated.labels[curated.strategies == STRATEGIES.index(strategy)]
    combinations, counts = np.unique(rows > 0, axis=0, return_counts=True)
    return frozenset(
        frozenset(np.flatnonzero(row).tolist())
        for row, count in zip(combinations, counts.tolist(), strict=True)
        if count >= _COMMON * len(rows)
    )
