"""Fresh composites as a torch data set, with a loader that never shows a composite twice."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from synthpipe.core.errors import ConfigError
from synthpipe.curated.fresh import FreshComposites
from synthpipe.curated.ranks import share_of
from synthpipe.curated.torch_data import CuratedDataset, Epochs, ResumableLoader, Samples, Tensors, Transform

if TYPE_CHECKING:
    from synthpipe.curated.curated_set import CuratedSet

Key = int | tuple[int, int]
"""A position of the stream, alone or with the sample of the set whose place the composite takes."""


class FreshTensors(Tensors):
    """The tensors of one fresh composite, or of a batch of them.

    Besides those of `Tensors`, ``strategy`` is () or (B,) uint8, indices in `records.STRATEGIES`, and ``index`` is ()
    or (B,) int64. Together they name a composite of the stream for `FreshComposites.composite` and `synthpipe replay`.
    """

    strategy: torch.Tensor
    index: torch.Tensor


class FreshDataset(CuratedDataset):
    """An endless data set of fresh composites; `loader` numbers them through all epochs.

    Item ``position`` is the composite at this position of the stream, which has no end, so the data set has no length.
    In an epoch of `loader`, each sample of the set gives its place to one fresh composite.

    Parameters
    ----------
    curated : CuratedSet
        The set.
    stream : FreshComposites
        The stream of fresh composites.
    pin_memory, transform
        As for `CuratedDataset`. The dict that a transform returns gets ``strategy`` and ``index``.
    """

    def __init__(
        self,
        curated: CuratedSet,
        stream: FreshComposites,
        pin_memory: bool | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(curated, pin_memory, transform)
        self.stream, self.fresh = stream, stream.kind
        stream.load()

    def __len__(self) -> int:
        raise TypeError(
            "fresh composites have no end, so their data set has no length; use its `loader`, whose epochs have the "
            "length of the curated set, or give positions of the stream to a DataLoader"
        )

    def __getitem__(self, index: Key) -> FreshTensors:
        return self.__getitems__([index])[0]  # type: ignore[return-value]

    def __getitems__(self, indices: Sequence[Key]) -> Samples | list[Tensors]:
        """Render several composites into one batch."""
        length = len(self.curated)
        keys = [key if isinstance(key, tuple) else (key, key % length) for key in indices]
        positions, samples = zip(*keys, strict=True)
        count, size, pin = len(keys), self.curated.size, self._pin() and not self._transform
        image = torch.empty((count, *size, 3), dtype=torch.uint8, pin_memory=pin)
        mask = torch.empty((count, *size), dtype=torch.uint8, pin_memory=pin)
        made = self.stream.read(positions, samples, image.numpy(), mask.numpy())
        if self._transform:
            arrays = zip(*made, strict=True)
            return [self._transform_fresh(*each) for each in arrays]
        small = [torch.from_numpy(each) for each in (made.labels, made.strategies, made.indices)]
        labels, strategy, index = [each.pin_memory() for each in small] if pin else small
        tensors = {"image": image.permute(0, 3, 1, 2), "mask": mask, "labels": labels}
        return Samples(cast(Tensors, tensors | {"strategy": strategy, "index": index}))

    def loader(
        self,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        rank: int | None = None,
        world: int | None = None,
        weights: NDArray[np.float64] | None = None,
        device: str | None = None,
    ) -> ResumableLoader:
        """Return a loader of whole batches of fresh composites; `CuratedDataset.loader` explains the parameters.

        The seed is also that of the stream. A filter on a GPU needs `workers` 0. With `weights`, composites take the
        places of the drawn samples, and match rare classes too. `device` must be None: CPUs render fresh composites.
        """
        if device is not None:
            raise ConfigError(
                f"device: got {device!r}, but CPUs render fresh composites; leave out device, and copy batches to the "
                "GPU"
            )
        if workers and self.stream.filter and self.stream.filter.device != "cpu":
            raise ConfigError(
                f"workers: got {workers} for fresh composites {self.fresh}, which worker processes cannot use; give "
                "workers=0, or make the data set with device cpu"
            )
        rank, world = share_of(rank, world)
        seeded = copy.copy(self)
        seeded.stream = self.stream.seeded(seed, matches_all=weights is not None)
        return ResumableLoader(seeded, FreshEpochs(len(self.curated), batch_size, seed, rank, world, weights), workers)

    def _transform_fresh(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        strategy: np.uint8,
        index: np.int64,
    ) -> Tensors:
        assert self._transform  # nosec B101 # for mypy: called only where there is one
        found = self._transform({"image": image, "mask": mask, "labels": labels})
        return cast(Tensors, {**found, "strategy": np.asarray(strategy), "index": np.asarray(index)})


class FreshEpochs(Epochs):
    """The batches of every epoch as keys: positions that go on from epoch to epoch, and the samples of `Epochs`."""

    def _keys(self, start: int, chosen: list[int]) -> list[Any]:
        first = self.epoch * self._length + start
        return list(zip(range(first, first + len(chosen)), chosen, strict=True))
