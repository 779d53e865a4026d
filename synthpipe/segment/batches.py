"""Make the batches of training; only the seed and the step's number determine the batch of a step.

So an interrupted training resumes with the same batches as without the interruption, for any number of worker
processes. With several devices, each device gets a part of the step's batch.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from synthpipe.core.errors import SynthpipeError
from synthpipe.segment.augmentation import Views, draw_view
from synthpipe.segment.settings import TrainSettings
from synthpipe.segment.sources import Source

_COMPOSITES, _REAL = 1, 2  # part of the random generators' keys
_ORDER, _VIEWS = 0, 1


class Batch(TypedDict):
    """The images that one device gets in one step: first composites, then real patches.

    ``images`` is (B, 3, H, W) uint8, ``masks`` is (B, H, W) uint8, ``labels`` is (B, C) uint8, ``views`` is (B, 7)
    float32 (see `augmentation.Views`), and ``composites`` is the number of composites among the B images.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    views: Tensor
    composites: int


class Steps(Dataset[Batch]):
    """The steps of a training: item `n` is the batch of step `n`, for any `n`.

    Each pass over a source has a new random order. A batch may contain the end of one pass and the start of the next.

    Parameters
    ----------
    settings : TrainSettings
        Seed, batch sizes and augmentation.
    composites, real : Source or None
        The images to draw from.
    rank, world : int
        Index of this device, and the number of devices. The device gets every `world`-th image of a step, starting with
        image `rank`.
    """

    def __init__(
        self, settings: TrainSettings, composites: Source | None, real: Source | None, rank: int = 0, world: int = 1
    ) -> None:
        self._settings = settings
        self._share = slice(rank, None, world)
        self._parts = [
            (word, source, count)
            for word, source, count in (
                (_COMPOSITES, composites, settings.composites),
                (_REAL, real, settings.real),
            )
            if source is not None and count
        ]

    def __getitem__(self, step: int) -> Batch:
        parts: tuple[list[NDArray[np.uint8]], ...] = ([], [], [])
        views: list[Views] = []
        composites = 0
        for word, source, count in self._parts:
            positions = range(step * count, (step + 1) * count)[self._share]
            rngs = [_generator(self._settings.seed, word, _VIEWS, position) for position in positions]
            found = source.read(
                [_index(self._settings.seed, word, len(source), position) for position in positions], rngs, positions
            )
            for values, part in zip(parts, found, strict=True):
                values.append(part)
            size = found[0].shape[1:3]
            views += [draw_view(rng, self._settings.augmentation, size) for rng in rngs]
            if word == _COMPOSITES:
                composites = len(positions)
        images, masks, labels = parts
        return {
            "images": torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2),
            "masks": torch.from_numpy(np.concatenate(masks)),
            "labels": torch.from_numpy(np.concatenate(labels)),
            "views": torch.from_numpy(np.stack(views)),
            "composites": composites,
        }


class _Prepared(Dataset[Batch | Exception]):
    """The steps of a training, like `Steps`; if an image cannot be read, the item is the error.

    Errors are returned, not raised, because an error raised in a worker process carries the worker's traceback.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self._steps[step]
        except SynthpipeError as error:
            error.__cause__ = error.__context__ = None  # if tblib is loaded, they are pickled with all their frames
            return error.with_traceback(None)


def batches(steps: Steps, first: int, last: int, workers: int, pin_memory: bool) -> Generator[Batch]:
    """Yield the batches of the steps from `first` up to but not including `last`.

    `workers` processes prepare them ahead. Close the generator after use to end these processes, because they ignore
    the signal that stops a training.

    Raises
    ------
    SynthpipeError
        An image cannot be read.
    """
    loader = DataLoader(
        _Prepared(steps),
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_outlast_stops,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _outlast_stops(_: int) -> None:
    """Make a worker process ignore SIGINT, and SIGTERM unless the training's process sends it.

    Schedulers signal all processes of a job, but the training's last step still needs a batch from its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS does not have it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_alone, args=(os.getppid(),), daemon=True).start()


def _obey_alone(training: int) -> None:
    """End this process on a SIGTERM from the training's own process, and ignore other SIGTERMs."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
        pass
    os._exit(0)


def _index(seed: int, word: int, size: int, position: int) -> int:
    """Return the index of the sample at `position` of the endless, shuffled stream of `size` samples."""
    turn, within = divmod(position, size)
    return int(_order(seed, word, size, turn)[within])


@lru_cache(maxsize=4)
def _order(seed: int, word: int, size: int, turn: int) -> NDArray[np.int64]:
    return _generator(seed, word, _ORDER, turn).permutation(size)


def _generator(seed: int, word: int, purpose: int, position: int) -> np.random.Generator:
    key = np.array([seed, word], np.uint64)
    counter = np.array([0, 0, position, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def steps_per_epoch(settings: TrainSettings, sources: Sequence[Source]) -> int:
    """Return the number of steps per epoch: from the settings, or for one pass over the first of `sources`."""
    return settings.steps_per_epoch or -(-len(sources[0]) // settings.composites)
