"""Inference of the filter on any number of images, which are read while others are computed.

A thread reads the next batches while the network computes the present one. On a GPU it reads into page-locked memory,
and a stream of its own copies a batch while the batch before it is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from synthpipe.core.threads import in_threads
from synthpipe.filtering.network import FilterNetwork, Images

_BUFFERS = 3  # one is computed while others are read
_CPU_BATCH = 32  # a CPU computes one image after another, so this decides no result

Fill = Callable[[int, Images], None]
"""Writes images, from the given index on, into all of an (n, H, W, 3) uint8 array."""


def infer(network: FilterNetwork, fill: Fill, count: int, size: tuple[int, int], batch: int) -> Tensor:
    """Return the logits of images, computed in evaluation mode.

    On a CPU, those of an image are the same bit by bit whichever images surround it, since each is computed alone. A
    GPU always computes `batch` images, black ones after the last, so a result does not depend on how many there are;
    another `batch` may change the last bits.

    Parameters
    ----------
    network : FilterNetwork
        On its device.
    fill : callable
        Is called in another thread, for one batch after another.
    count : int
        Number of images, at least one.
    size : (int, int)
        Their height and width in pixels.
    batch : int
        Images a step on a GPU.

    Returns
    -------
    (N, 2) float32 Tensor
        On the network's device, in the order of `CLASSES`.
    """
    device = network.device
    batch = min(batch, _CPU_BATCH) if device.type == "cpu" else batch
    starts = range(0, count, batch)
    buffers = [_Buffer(batch, size, device) for _ in starts[:_BUFFERS]]

    def read(number: int) -> _Buffer:
        buffer = buffers[number % len(buffers)]
        buffer.fill(fill, starts[number], min(batch, count - starts[number]))
        return buffer

    found = []
    network.module.eval()
    with torch.inference_mode():
        for start, buffer in zip(starts, in_threads(read, range(len(starts)), 1), strict=True):
            pixels = buffer.to_device()
            # a CPU's matrix products round by an image's place among others, and large images are faster alone
            parts = [pixels[place : place + 1] for place in range(len(pixels))] if device.type == "cpu" else [pixels]
            found += [network.logits(part)[: count - start] for part in parts]
            buffer.release()
        return torch.cat(found)


def from_array(images: Images) -> Fill:
    """Return what fills batches with the images of an array."""

    def fill(start: int, out: Images) -> None:
        out[:] = images[start : start + len(out)]

    return fill


class _Buffer:
    """Memory that one batch is read into, and copied from to a GPU."""

    def __init__(self, batch: int, size: tuple[int, int], device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._pixels = torch.zeros((batch, *size, 3), dtype=torch.uint8, pin_memory=self._on_gpu)
        self._count = 0
        if self._on_gpu:
            self._copying: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._computed: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def fill(self, fill: Fill, start: int, count: int) -> None:
        """Read `count` images from `start` on, once what was read before has been computed."""
        if self._on_gpu:
            self._computed.synchronize()
        images = self._pixels.numpy()
        fill(start, images[:count])
        images[count:] = 0
        self._count = count

    def to_device(self) -> Tensor:
        """Return what was read: on a CPU itself, on a GPU a copy with as many images as a batch has."""
        if not self._on_gpu:
            return self._pixels[: self._count]
        with torch.cuda.stream(self._copying):
            pixels = self._pixels.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._copying)
        pixels.record_stream(computing)
        return pixels

    def release(self) -> None:
        """Let the memory be used again once all that was asked of the device so far is done."""
        if self._on_gpu:
            self._computed.record(torch.cuda.current_stream(self._device))
