"""The batches of training: what a step sees is a function of the seed and the step's number alone.

So a training that was interrupted goes on with the very batches that it would have seen, whatever the number of worker
processes, and devices only share a step's batch out among themselves.
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

_COMPOSITES, _REAL = 1, 2  # words of the generators' keys
_ORDER, _VIEWS = 0, 1


class Batch(TypedDict):
    """A step's share of one device: composites first, then real patches.

    ``images`` (B, 3, H, W) uint8, ``masks`` (B, H, W) uint8, ``labels`` (B, C) uint8, ``views`` (B, 7) float32 (see
    `augmentation.Views`), ``composites``: how many of the B.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    views: Tensor
    composites: int


class Steps(Dataset[Batch]):
    """The steps of a training; item `n` is the batch of step `n`, for any `n`.

    Each source is gone through in a new order each time, without a break between one pass and the next.

    Parameters
    ----------
    settings : TrainSettings
        Seed, batch sizes and augmentation.
    composites, real : Source or None
        What to draw from.
    rank, world : int
        This device among how many: it gets every `world`-th image of a step.
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
            places = range(step * count, (step + 1) * count)[self._share]
            rngs = [_generator(self._settings.seed, word, _VIEWS, place) for place in places]
            found = source.read([_place(self._settings.seed, word, len(source), place) for place in places], rngs)
            for values, part in zip(parts, found, strict=True):
                values.append(part)
            size = found[0].shape[1:3]
            views += [draw_view(rng, self._settings.augmentation, size) for rng in rngs]
            if word == _COMPOSITES:
                composites = len(places)
        images, masks, labels = parts
        return {
            "images": torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2),
            "masks": torch.from_numpy(np.concatenate(masks)),
            "labels": torch.from_numpy(np.concatenate(labels)),
            "views": torch.from_numpy(np.stack(views)),
            "composites": composites,
        }


class _Prepared(Dataset[Batch | Exception]):
    """Steps, or what is wrong with their images: raised in a worker process, an error would have its traceback."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self._steps[step]
        except SynthpipeError as error:
            error.__cause__ = error.__context__ = None  # where tblib is loaded, they would come with all their frames
            return error.with_traceback(None)


def batches(steps: Steps, first: int, last: int, workers: int, pin_memory: bool) -> Generator[Batch]:
    """Yield the steps from `first` to before `last`, which `workers` processes prepare ahead.

    Close it when it is done with: that ends the processes, which outlast the signal that stops a training.

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
    """Live on when a training is stopped: schedulers signal all processes of a job, and its last step needs a batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_alone, args=(os.getppid(),), daemon=True).start()


def _obey_alone(training: int) -> None:
    """End when the training's own process says so."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
        pass
    os._exit(0)


def _place(seed: int, word: int, size: int, place: int) -> int:
    """Return which of a source's `size` samples comes at `place` of its endless stream."""
    turn, within = divmod(place, size)
    return int(_order(seed, word, size, turn)[within])


@lru_cache(maxsize=4)
def _order(seed: int, word: int, size: int, turn: int) -> NDArray[np.int64]:
    return _generator(seed, word, _ORDER, turn).permutation(size)


def _generator(seed: int, word: int, purpose: int, place: int) -> np.random.Generator:
    key = np.array([seed, word], np.uint64)
    counter = np.array([0, 0, place, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def steps_per_epoch(settings: TrainSettings, sources: Sequence[Source]) -> int:
    """Return the steps of an epoch: a pass over the first of `sources`, unless the settings say otherwise."""
    return settings.steps_per_epoch or -(-len(sources[0]) // settings.composites)
