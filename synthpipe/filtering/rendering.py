"""Images of virtual composites that a GPU renders and scores without a copy on the host."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synthpipe.compose import Block
from synthpipe.compose.batches import Batch, pack_block
from synthpipe.compose.gpu import Renderer


class RenderedImages:
    """Images that a GPU renders where it scores them, and the number of pixels of each class in their masks.

    Parameters
    ----------
    renderer : Renderer
        The donors on the GPU.
    sample : callable
        Samples n consecutive composites from the given index on. It is called in another thread, for one batch after
        another.
    labels : int
        The number of mask values: the classes and the background.
    """

    def __init__(self, renderer: Renderer, sample: Callable[[int, int], Block], labels: int) -> None:
        self._renderer, self._sample, self._labels = renderer, sample, labels
        self._counts: list[Tensor] = []

    def prepare(self, start: int, count: int) -> Batch:
        """Sample composites on the CPU."""
        return pack_block(self._sample(start, count))

    def render(self, batch: Batch, pixels: Tensor) -> None:
        """Render into (n, H, W, 3) uint8 memory of the device; the call does not wait for the GPU."""
        masks = torch.empty(pixels.shape[:3], dtype=torch.uint8, device=pixels.device)
        self._renderer.render(batch, (pixels, masks))
        self._counts.append(torch.stack([(masks == label).sum((1, 2)) for label in range(self._labels)], 1))

    def class_pixels(self) -> NDArray[np.int64]:
        """Return (N, labels) int64: the pixels of each mask value in the images that were rendered."""
        found: NDArray[np.int64] = torch.cat(self._counts).cpu().numpy()
        return found
