"""Scoring composites: the probability that an image is a real patch, from a filter's weights on disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthpipe.files import Location
from synthpipe.filtering.network import REAL, FilterNetwork, Images, check_images, load_network
from synthpipe.filtering.reproducible import choose_device, reproducible


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """A trained filter.

    Attributes
    ----------
    network : FilterNetwork
        With its weights, on its device.
    sha256 : str
        Digest of the weights' file.
    threads : int
        CPU threads of scoring.
    """

    network: FilterNetwork
    sha256: str
    threads: int = 1

    @classmethod
    def load(cls, path: Location, device: str | None = None, threads: int = 1) -> Scorer:
        """Read a filter's weights, to a GPU where there is one and `device` names no other.

        Raises
        ------
        FilterError
            The file is missing, damaged, or of another format.
        """
        target = choose_device(device)
        with reproducible(threads, target, seed=0):  # leaves the process's random state alone
            network, sha256 = load_network(path, target)
        return cls(network, sha256, threads)

    def score(self, images: Images, batch: int) -> NDArray[np.float32]:
        """Return the (N,) float32 probabilities that `images`, (N, H, W, 3) uint8 RGB, are real patches.

        On a CPU, that of an image is the same bit by bit whichever others it is scored with, since each is scored
        alone. A GPU scores `batch` at a time; another `batch` may change the last bits.
        """
        check_images(images, "images")
        p_real = np.empty(len(images), np.float32)
        start = 0
        with reproducible(self.threads, self.network.device, seed=0):
            for logits in self.network.infer(images, batch):
                p_real[start : start + len(logits)] = logits.softmax(1)[:, REAL].cpu().numpy()
                start += len(logits)
        return p_real


def load_scorer(path: Location, threads: int = 1) -> Scorer:
    """Return `Scorer.load` of `path`, read once a process for as long as the file stays the same."""
    return _cached(path, threads, _identity(path))


@lru_cache(maxsize=2)
def _cached(path: Location, threads: int, identity: tuple[int | str, ...]) -> Scorer:
    return Scorer.load(path, threads=threads)


def _identity(path: Location) -> tuple[int | str, ...]:
    """Tell a file from one that replaced it; the empty tuple is no file, which `Scorer.load` explains."""
    try:
        if not isinstance(path, Path):
            return (path.fs.ukey(path.path),)
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
