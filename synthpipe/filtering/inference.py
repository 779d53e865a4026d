"""Run the filter on any number of images.

A thread reads the next batches while the network computes the current one. For a GPU, the thread reads into page-locked
memory, and a separate CUDA stream copies each batch while the GPU computes the batch before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from synthpipe.core.threads import in_threads
from synthpipe.filtering.network import FilterNetwork, Images
from synthpipe.filtering.rendering import RenderedImages

_BUFFERS = 3  # one batch is computed while the others are read
_CPU_BATCH = 32  # a CPU computes images one by one, so this value does not change results

Fill = Callable[[int, Images], None]
"""Function that fills an (n, H, W, 3) uint8 array with n consecutive images, from the given index on."""


def infer(network: FilterNetwork, fill: Fill | RenderedImages, count: int, size: tuple[int, int], batch: int) -> Tensor:
    """Compute the filter's logits for images, in evaluation mode.

    A CPU computes each image alone, so the other images do not change any bit of its logits. A GPU always computes
    `batch` images at once and fills up the last batch with black images, so `count` does not change the logits. Another
    `batch` may change their last bits.

    Parameters
    ----------
    network : FilterNetwork
        The filter, on its device.
    fill : callable or RenderedImages
        Reads images. It is called in another thread, for one batch after another. Or images that the device renders.
    count : int
        Number of images, at least one.
    size : (int, int)
        Height and width of the images in pixels.
    batch : int
        Number of images that a GPU computes at once.

    Returns
    -------
    (N, 2) float32 Tensor
        Logits on the network's device; the columns are in the order of `CLASSES`.
    """
    device = network.device
    batch = min(batch, _CPU_BATCH) if device.type == "cpu" else batch
    starts = range(0, count, batch)
    network.module.eval()
    if isinstance(fill, RenderedImages):
        return _infer_rendered(network, fill, starts, count, size)
    buffers = [_Buffer(batch, size, device) for _ in starts[:_BUFFERS]]

    def read(number: int) -> _Buffer:
        buffer = buffers[number % len(buffers)]
        buffer.fill(fill, starts[number], min(batch, count - starts[number]))
        return buffer

    found = []
    with torch.inference_mode():
        for start, buffer in zip(starts, in_threads(read, range(len(starts)), 1), strict=True):
            found.append(_logits(network, buffer.to_device())[: count - start])
            buffer.release()
        return torch.cat(found)


def _infer_rendered(
    network: FilterNetwork, images: RenderedImages, starts: range, count: int, size: tuple[int, int]
) -> Tensor:
    """Compute the logits of images that the device renders; a thread samples the next batches meanwhile."""
    found = []
    lengths = [min(starts.step, count - start) for start in starts]
    prepared = in_threads(lambda number: images.prepare(starts[number], lengths[number]), range(len(starts)), 1)
    with torch.inference_mode():
        for batch, length in zip(prepared, lengths, strict=True):
            rows = length if network.device.type == "cpu" else starts.step
            pixels = torch.zeros((rows, *size, 3), dtype=torch.uint8, device=network.device)
            images.render(batch, pixels[:length])
            found.append(_logits(network, pixels)[:length])
        return torch.cat(found)


def _logits(network: FilterNetwork, pixels: Tensor) -> Tensor:
    """Return the logits of a batch on the network's device."""
    if network.device.type != "cpu":
        return network.logits(pixels)
    # on a CPU, rounding depends on an image's index in the batch, and large images are faster alone
    return torch.cat([network.logits(pixels[index : index + 1]) for index in range(len(pixels))])


def from_array(images: Images) -> Fill:
    """Return a function that fills batches with the images of an (N, H, W, 3) uint8 array."""

    def fill(start: int, out: Images) -> None:
        out[:] = images[start : start + len(out)]

    return fill


class _Buffer:
    """Memory for reading one batch; for a GPU, the batch is copied from here to the GPU."""

    def __init__(self, batch: int, size: tuple[int, int], device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._pixels = torch.zeros((batch, *size, 3), dtype=torch.uint8, pin_memory=self._on_gpu)
        self._count = 0
        if self._on_gpu:
            self._copying: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._computed: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def fill(self, fill: Fill, start: int, count: int) -> None:
        """Wait until the previous batch in this memory is computed, then read `count` images from `start` on."""
        if self._on_gpu:
            self._computed.synchronize()
        images = self._pixels.numpy()
        fill(start, images[:count])
        images[count:] = 0
        self._count = count

    def to_device(self) -> Tensor:
        """Return the images: on a CPU the memory itself, without a copy; on a GPU a copy of the full batch."""
        if not self._on_gpu:
            return self._pixels[: self._count]
        with torch.cuda.stream(self._copying):
            pixels = self._pixels.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._copying)
        pixels.record_stream(computing)
        return pixels

    def release(self) -> None:
        """Allow the memory to be filled again as soon as the device finishes all work queued so far."""
        if self._on_gpu:
            self._computed.record(torch.cuda.current_stream(self._device))
