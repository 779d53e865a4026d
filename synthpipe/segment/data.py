"""The curated set as a torch data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from synthpipe.files import Location
from synthpipe.handoff import CuratedSet


class Tensors(TypedDict):
    """One composite, or with a first dimension more a batch of them.

    ``image`` is (3, H, W) uint8, channels last in memory; ``mask`` (H, W) uint8; ``labels`` (C,) uint8.
    """

    image: Tensor
    mask: Tensor
    labels: Tensor


class Samples(Sequence[Tensors]):
    """Composites that were read together: `tensors` is the batch, and each element a view of it."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["image"])

    def __getitem__(self, number: int) -> Tensors:  # type: ignore[override]  # no slices
        if not 0 <= number < len(self):
            raise IndexError(number)
        tensors = self.tensors
        return {"image": tensors["image"][number], "mask": tensors["mask"][number], "labels": tensors["labels"][number]}

    def __iter__(self) -> Iterator[Tensors]:
        return (self[number] for number in range(len(self)))


class CuratedDataset(Dataset[Tensors]):
    """A curated set for a `DataLoader`: any order, any number of workers, forked or spawned.

    With ``collate_fn=CuratedDataset.collate`` a batch is read into one array, and pixels are never copied; the default
    collation works too.

    Parameters
    ----------
    curated : CuratedSet or path
        The set.
    pin_memory : bool, optional
        Read batches into page-locked memory, from which a GPU fetches them while it computes. By default where there
        is a CUDA device. In worker processes the `DataLoader` has to do that: give it ``pin_memory=True``.
    """

    def __init__(self, curated: CuratedSet | str | Location, pin_memory: bool | None = None) -> None:
        self.curated = curated if isinstance(curated, CuratedSet) else CuratedSet(curated)
        self._pin_memory = pin_memory
        self._labels = torch.from_numpy(self.curated.labels)

    def __len__(self) -> int:
        return len(self.curated)

    def __getitem__(self, index: int) -> Tensors:
        sample = self.curated[index]
        image, mask = torch.from_numpy(sample.image), torch.from_numpy(sample.mask)
        return {"image": image.permute(2, 0, 1), "mask": mask, "labels": self._labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """Return several composites, read into one batch; what a `DataLoader` calls."""
        pin = self._pin()
        images = torch.empty((len(indices), *self.curated.size, 3), dtype=torch.uint8, pin_memory=pin)
        masks = torch.empty((len(indices), *self.curated.size), dtype=torch.uint8, pin_memory=pin)
        self.curated.read(indices, images.numpy(), masks.numpy())
        labels = torch.from_numpy(self.curated.labels[np.asarray(indices)])
        return Samples(
            {"image": images.permute(0, 3, 1, 2), "mask": masks, "labels": labels.pin_memory() if pin else labels}
        )

    @staticmethod
    def collate(samples: Samples | Sequence[Tensors]) -> Tensors:
        """Return the batch that `__getitems__` read."""
        if isinstance(samples, Samples):
            return samples.tensors
        batch: Tensors = default_collate(list(samples))
        return batch

    def _pin(self) -> bool:
        if get_worker_info() is not None:
            return False
        return torch.cuda.is_available() if self._pin_memory is None else self._pin_memory
