"""Score composites with a trained filter: the score is the probability that an image is a real patch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from synthpipe.files.locations import Location
from synthpipe.filtering.inference import Fill, from_array, infer
from synthpipe.filtering.network import REAL, FilterNetwork, Images, check_images, load_network
from synthpipe.filtering.rendering import RenderedImages
from synthpipe.filtering.reproducible import explained_memory, reproducible
from synthpipe.pretrained.devices import choose_device

_FEWER = "let fewer workers share the device"


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """A trained filter that scores images.

    Attributes
    ----------
    network : FilterNetwork
        The network with its trained weights, on its device.
    sha256 : str
        SHA-256 of the weights file.
    threads : int
        Number of CPU threads for scoring.
    """

    network: FilterNetwork
    sha256: str
    threads: int = 1

    @classmethod
    def load(cls, path: Location, device: str | None = None, threads: int = 1, mixed: bool = False) -> Scorer:
        """Load a filter from its weights file.

        The default device is the first GPU, or the CPU if the machine has no GPU. `FilterNetwork` explains `mixed`.

        Raises
        ------
        FilterError
            The file is missing, damaged or in another format, or the device has too little memory.
        """
        target = choose_device(device)
        with (
            reproducible(threads, target, seed=0),  # keeps the process's random state unchanged
            explained_memory(target, f"{path} is loaded", _FEWER),
        ):
            network, sha256 = load_network(path, target, mixed)
        return cls(network, sha256, threads)

    def score(self, images: Images, batch: int) -> NDArray[np.float32]:
        """Return the (N,) float32 probabilities that `images`, (N, H, W, 3) uint8 RGB, are real patches."""
        check_images(images, "images")
        return self.score_filled(from_array(images), len(images), images.shape[1:3], batch)

    def score_filled(
        self, fill: Fill | RenderedImages, count: int, size: tuple[int, int], batch: int
    ) -> NDArray[np.float32]:
        """Return the (N,) float32 probabilities that images are real patches; `fill` reads the images meanwhile.

        `infer` explains the parameters, and what else can change a score.

        Raises
        ------
        FilterError
            The device has too little memory.
        """
        if not count:
            return np.empty(0, np.float32)
        device = self.network.device
        doing = f"filter.batch {batch} images of {size[0]} x {size[1]} are scored"
        with (
            reproducible(self.threads, device, seed=0),
            torch.inference_mode(),
            explained_memory(device, doing, f"{_FEWER}, or build into another directory with a smaller filter.batch"),
        ):
            logits = infer(self.network, fill, count, size, batch)
            found: NDArray[np.float32] = logits.softmax(1)[:, REAL].cpu().numpy()
        return found
