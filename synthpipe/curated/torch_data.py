"""The curated set as a torch data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from synthpipe.core.errors import ConfigError
from synthpipe.core.records import Image, Mask
from synthpipe.curated.ranks import share_of
from synthpipe.pretrained.devices import choose_device

if TYPE_CHECKING:
    from synthpipe.curated.curated_set import CuratedSet
    from synthpipe.curated.device_batches import DeviceBatches

Transform = Callable[[dict[str, Any]], dict[str, Any]]


class Tensors(TypedDict):
    """The tensors of one composite, or of a batch, which has one more dimension in front.

    ``image`` is (3, H, W) uint8, channels last in memory; ``mask`` (H, W) uint8; ``labels`` (C,) uint8.
    """

    image: Tensor
    mask: Tensor
    labels: Tensor


class Samples(Sequence[Tensors]):
    """The composites of a batch. `tensors` is the whole batch; each element is a view of one composite in it."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["image"])

    def __getitem__(self, number: int) -> Tensors:  # type: ignore[override]  # no slices
        if not 0 <= number < len(self):
            raise IndexError(number)
        return {name: values[number] for name, values in self.tensors.items()}  # type: ignore[return-value, index]

    def __iter__(self) -> Iterator[Tensors]:
        return (self[number] for number in range(len(self)))


class CuratedDataset(Dataset[Tensors]):
    """A curated set for a `DataLoader`: any order, any number of workers, forked or spawned.

    With ``collate_fn=CuratedDataset.collate`` a batch is read into one array, and pixels are never copied; the default
    collation works too.

    Parameters
    ----------
    curated : CuratedSet
        The set.
    pin_memory : bool, optional
        Read batches into page-locked memory, from which a GPU fetches them while it computes. By default where there
        is a CUDA device. In worker processes the `DataLoader` has to do that: give it ``pin_memory=True``.
    transform : callable, optional
        Gets a dict of ``image`` (H, W, 3) uint8, ``mask`` (H, W) uint8 and ``labels`` (C,) uint8, arrays that it may
        change, and returns the dict that is put together with others, by torch's default collation, to a batch.
    """

    fresh: str | None = None  # kind of fresh composites

    def __init__(
        self,
        curated: CuratedSet,
        pin_memory: bool | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.curated = curated
        self._pin_memory, self._transform = pin_memory, transform
        self._labels = torch.from_numpy(self.curated.labels)
        curated.load()

    def __len__(self) -> int:
        return len(self.curated)

    def __getitem__(self, index: int) -> Tensors:
        sample = self.curated[index]
        if self._transform:
            return self._transformed(sample.image, sample.mask, index)
        image, mask = torch.from_numpy(sample.image), torch.from_numpy(sample.mask)
        return {"image": image.permute(2, 0, 1), "mask": mask, "labels": self._labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> Samples | list[Tensors]:
        """Read several composites into one batch. `DataLoader` calls this method."""
        if self._transform:
            images, masks = self.curated.read(indices)
            return [self._transformed(*each) for each in zip(images, masks, indices, strict=True)]
        pin = self._pin()
        image = torch.empty((len(indices), *self.curated.size, 3), dtype=torch.uint8, pin_memory=pin)
        mask = torch.empty((len(indices), *self.curated.size), dtype=torch.uint8, pin_memory=pin)
        self.curated.read(indices, image.numpy(), mask.numpy())
        labels = torch.from_numpy(self.curated.labels[np.asarray(indices)])
        return Samples(
            {"image": image.permute(0, 3, 1, 2), "mask": mask, "labels": labels.pin_memory() if pin else labels}
        )

    @staticmethod
    def collate(samples: Samples | Sequence[Tensors]) -> Tensors:
        """Return the batch that `__getitems__` read."""
        if isinstance(samples, Samples):
            return samples.tensors
        batch: Tensors = default_collate(list(samples))
        return batch

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
        """Return a loader of whole batches in random order. It can resume in the middle of an epoch.

        Parameters
        ----------
        batch_size : int
            Samples per batch.
        seed : int
            The seed of every epoch's order.
        workers : int
            Processes that read ahead; they stay from one epoch to the next.
        rank, world : int, optional
            This process among how many: each gets other batches of an epoch, and as many. By default as
            torch.distributed says, or the variables that torchrun and Slurm set.
        weights : (N,) float64, optional
            Probabilities to draw samples with, with replacement, such as `CuratedSet.sample_weights`.
        device : str, optional
            A GPU, such as ``cuda``: batches are on it, and it renders virtual composites. Not with `workers` or a
            transform.

        Raises
        ------
        ConfigError
            The set has not one batch for each process, `weights` are no probabilities of its samples, or `rank` and
            `world` are not those of the processes that were started. Or this machine has no such device, or it is
            given with `workers` or a transform.
        GpuError
            The GPU has too little memory for the donors of a virtual set, or numba-cuda is missing.
        """
        rank, world = share_of(rank, world)
        epochs = Epochs(len(self), batch_size, seed, rank, world, weights)
        return ResumableLoader(self, epochs, workers, self._gpu(device, workers))

    def _gpu(self, name: str | None, workers: int) -> torch.device | None:
        """Return the GPU that renders batches, or None if the CPU does."""
        if name is None or name == "cpu":
            return None
        if workers or self._transform:
            found = f"workers={workers}" if workers else "a transform"
            raise ConfigError(
                f"device={name!r} with {found}: one process makes the batches of a GPU, without a transform; leave out "
                "one of the two"
            )
        return choose_device(name)

    def _transformed(self, image: Image, mask: Mask, index: int) -> Tensors:
        assert self._transform  # nosec B101 # for mypy: called only where there is one
        return self._transform({"image": image, "mask": mask, "labels": self.curated.labels[index].copy()})  # type: ignore[return-value]

    def _pin(self) -> bool:
        if get_worker_info() is not None:
            return False
        return torch.cuda.is_available() if self._pin_memory is None else self._pin_memory


class Epochs:
    """The batches of every epoch, as a ``batch_sampler`` for `DataLoader`.

    A batch depends only on the seed, the epoch and its number. `epoch` and `batch` are the start of the next pass.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        if not (0 < batch_size <= length // world and 0 <= rank < world):
            raise ConfigError(
                f"{length} samples, batch_size {batch_size}, rank {rank} of {world}: expected at least one batch for "
                "each device; lower batch_size"
            )
        if weights is not None:
            weights = np.asarray(weights, np.float64)
            if weights.shape != (length,) or not (weights >= 0).all() or not np.isclose(weights.sum(), 1):
                raise ConfigError(
                    f"weights: got shape {weights.shape} and sum {weights.sum():g}; expected {length} probabilities "
                    "with the sum 1, such as those of `CuratedSet.sample_weights`"
                )
        self.epoch = self.batch = 0
        self._length, self.batch_size, self.seed = length, batch_size, seed
        self.world, self.rank, self.weights = world, rank, weights

    def __len__(self) -> int:
        return self._length // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[Any]]:
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, self.epoch], np.uint64)))
        if self.weights is None:
            order = rng.permutation(self._length)
        else:
            order = rng.choice(self._length, self._length, p=self.weights / self.weights.sum())
        for batch in range(self.batch, len(self)):
            start = (batch * self.world + self.rank) * self.batch_size
            yield self._keys(start, order[start : start + self.batch_size].tolist())

    def _keys(self, start: int, chosen: list[int]) -> list[Any]:
        """Return the keys of a batch that begins at `start` in the epoch and shows the samples `chosen`."""
        return chosen


class ResumableLoader:
    """Load a curated set epoch by epoch. One ``for`` loop yields the rest of the current epoch.

    `state_dict` counts the batches that the loop has received, not those that worker processes have read ahead. So a
    training that stores it beside the network resumes with the next batch. The number of workers may change, and so may
    the number of processes if a step keeps its number of samples. The order of samples is restored exactly; the random
    numbers of a `transform` are not.
    """

    def __init__(
        self, dataset: CuratedDataset, epochs: Epochs, workers: int, device: torch.device | None = None
    ) -> None:
        self._epochs = epochs
        self._identity = {
            "curated": dataset.curated.digest,
            "samples a step": epochs.batch_size * epochs.world,
            "seed": epochs.seed,
            "weights": None if epochs.weights is None else hashlib.sha256(epochs.weights.tobytes()).hexdigest(),
            "fresh": dataset.fresh,
        }
        self._loader: DataLoader[Any] | DeviceBatches
        if device:
            from synthpipe.curated.device_batches import DeviceBatches  # loads compiled kernels

            self._loader = DeviceBatches(dataset, epochs, device)
            return
        self._loader = DataLoader(
            dataset,
            batch_sampler=epochs,
            num_workers=workers,
            collate_fn=CuratedDataset.collate,
            persistent_workers=workers > 0,
            pin_memory=workers > 0 and torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return len(self._epochs)

    @property
    def epoch(self) -> int:
        """The current epoch, or the last finished one between epochs."""
        return self._epochs.epoch

    def epochs(self, count: int) -> range:
        """Return the epochs of `count` that are not finished, for the outer loop of a training."""
        return range(self._epochs.epoch + (self._epochs.batch >= len(self)), count)

    def __iter__(self) -> Iterator[Any]:
        epochs = self._epochs
        share_of(epochs.rank, epochs.world)  # the processes may have started since
        if epochs.batch >= len(epochs):
            epochs.epoch, epochs.batch = epochs.epoch + 1, 0
        for batch in self._loader:
            epochs.batch += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `load_state_dict` resumes, JSON-ready."""
        epochs = self._epochs
        found = {"batch_size": epochs.batch_size, "world": epochs.world, "epoch": epochs.epoch, "batch": epochs.batch}
        fresh = {"fresh": self._identity["fresh"]} if self._identity["fresh"] else {}
        return {**{key: self._identity[key] for key in ("curated", "seed", "weights")}, **fresh, **found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at the position of the loader that returned `state`.

        Raises
        ------
        ConfigError
            The other loader had another set, seed, weights or kind of fresh composites, or another number of samples
            per step (batch size times processes).
        """
        given = {**state, "samples a step": state.get("batch_size", 0) * state.get("world", 0)}
        if differing := [key for key, value in self._identity.items() if given.get(key) != value]:
            raise ConfigError(
                f"the state comes from a loader with another {', '.join(differing)}, so the next batches would differ; "
                "open the same set with the same settings, and keep the product of batch_size and world"
            )
        self._epochs.epoch, self._epochs.batch = int(state["epoch"]), int(state["batch"])
