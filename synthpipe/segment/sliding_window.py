"""Predict images of any size with sliding windows, in bounded memory (method section 4).

At each scale, a grid of windows starts at the image's corner. The image is predicted block by block. A block uses all
windows that touch it, so the result does not depend on the size of blocks, and only one block is in memory.

Pixel p of the image at scale s is at position ``(p + 0.5) / s - 0.5`` of the image itself, so the corners of both
coincide (up to rounding to whole pixels). Beyond its borders, an image is mirrored, and edge pixels are repeated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synthpipe.core.records import Image, Mask
from synthpipe.segment.settings import WindowSection

Segment = Callable[[Tensor], Tensor]
"""A function from (B, 3, h, w) float32 RGB in 0-255 to (B, C, h, w) logits of any float type, on the same device."""

BLOCK = 1024
_TURNS = range(8)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The predicted probabilities of a rectangular part of an image.

    Attributes
    ----------
    y, x : int
        Position of the block's top left pixel in the image.
    probabilities : (C, h, w) float32
        Class probabilities, which sum to 1 over the classes, on the device of the prediction.
    """

    y: int
    x: int
    probabilities: Tensor


def predict(
    segment: Segment,
    image: Image,
    settings: WindowSection,
    classes: int,
    device: torch.device | str,
    block: int = BLOCK,
) -> Iterator[Block]:
    """Predict the class probabilities of an image as disjoint blocks that cover the image, row by row.

    The softmax of the logits gives the probabilities of a window; with flips, they are averaged over the window's 8
    flips and rotations. The probabilities of a pixel at one scale are the mean over all windows that contain the pixel,
    weighted by ``settings.blend``. Probabilities of other scales than 1 are interpolated bilinearly to the image's
    pixels. The result is the mean over scales.

    Parameters
    ----------
    segment : callable
        The network in evaluation mode; see `Segment`. It is called in inference mode with at most ``settings.batch``
        windows. At scale 1 it gets the image's pixels, at other scales interpolated pixels that are not rounded.
    image : (H, W, 3) uint8
        RGB. May be a memory map: each block reads only the pixels that it needs.
    settings : WindowSection
        Settings of the windows.
    classes : int
        Number of classes C that `segment` returns.
    device : torch.device or str
        The device of `segment` and of all computation.
    block : int
        Largest side of a block in pixels; rounded down to a multiple of the stride if possible. The choice changes the
        result only by rounding errors (1e-5).

        Windows across the border of two blocks are computed for both: at scale s, about
        ``(1 + size / (s * block))**2`` times as many windows as without blocks, and fewer if blocks end at the ends
        of windows (1.23 times for windows of 224 at stride 112). Memory depends on the block, not on the image: at most
        about ``(16 C + 24) (s * block + 2 * size)**2`` bytes for the largest scale s (at least 1), plus a batch and the
        memory of `segment`. For 5 classes and windows of 224 these are 215 MB at scale 1 and 620 MB at scale 2.

    Yields
    ------
    Block
        A part of the prediction.

    Raises
    ------
    ValueError
        An argument is not as described above, or `segment` returns another shape.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"image: got {image.dtype} of shape {image.shape}, expected a non-empty uint8 array of shape (H, W, 3)"
        )
    if classes < 1 or block < 1:
        raise ValueError(f"got {classes} classes and a block of {block} pixels, expected at least 1 of each")
    return _predict(segment, image, settings, classes, torch.device(device), block)


def predict_mask(
    segment: Segment,
    image: Image,
    settings: WindowSection,
    classes: int,
    device: torch.device | str,
    block: int = BLOCK,
) -> Mask:
    """Return (H, W) uint8: the most probable class of each pixel, the lowest index among equals; see `predict`.

    Raises
    ------
    ValueError
        `predict` raises it, or there are too many classes for uint8.
    """
    if classes > 256:
        raise ValueError(f"got {classes} classes, expected at most 256; use `predict` with a wider integer type")
    mask = np.empty(image.shape[:2], np.uint8)
    for part in predict(segment, image, settings, classes, device, block):
        found = part.probabilities.max(0).indices.to(torch.uint8).cpu().numpy()  # argmax is slow on CPUs
        mask[part.y : part.y + found.shape[0], part.x : part.x + found.shape[1]] = found
    return mask


def window_probabilities(segment: Segment, windows: Tensor, settings: WindowSection, classes: int) -> Tensor:
    """Predict the class probabilities of windows; with flips, the mean over the 8 flips and rotations of a window.

    Parameters
    ----------
    segment : callable
        The network; see `Segment`. It is called in inference mode with at most ``settings.batch`` windows.
    windows : (B, 3, h, w) float32
        RGB in 0-255, of ``settings.size``. With flips, eight times this memory is needed.
    settings : WindowSection
        Only size, flips and batch matter.
    classes : int
        Number of classes C that `segment` returns.

    Returns
    -------
    (B, C, h, w) float32
        Probabilities, which sum to 1 over the classes.

    Raises
    ------
    ValueError
        `segment` returned another shape.
    """
    turns = _TURNS if settings.flips else _TURNS[:1]
    expected = (classes, *settings.size)
    found = []
    for batch in torch.split(torch.cat([_turn(windows, turn) for turn in turns]), settings.batch):
        with torch.inference_mode():
            logits = segment(batch)
        if logits.shape != (len(batch), *expected):
            raise ValueError(
                f"segment returned logits of shape {tuple(logits.shape)}, expected {(len(batch), *expected)} as "
                "(B, C, h, w); resize the logits to the window, or correct `classes`"
            )
        found.append(logits.float().softmax(1))
    turned = torch.cat(found).view(len(turns), len(windows), *expected)
    total = turned[0]
    for turn in turns[1:]:
        total += _turn_back(turned[turn], turn)
    return total.div_(len(turns))


def _predict(
    segment: Segment, image: Image, settings: WindowSection, classes: int, device: torch.device, block: int
) -> Iterator[Block]:
    height, width = image.shape[:2]
    down, across = ([_Side.of(image, settings, axis, scale) for scale in settings.scales] for axis in (0, 1))
    # if a block ends where a window ends, fewer windows cross its border
    step_y, step_x = (block - block % stride if block > stride else block for stride in settings.stride)
    for y, x in itertools.product(range(0, height, step_y), range(0, width, step_x)):
        bottom, right = min(y + step_y, height), min(x + step_x, width)
        total = torch.zeros((classes, bottom - y, right - x), device=device)
        for row, column in zip(down, across, strict=True):
            rows, columns = row.part(y, bottom, device), column.part(x, right, device)
            total += _predict_scale(segment, image, settings, classes, rows, columns, device)
        yield Block(y, x, total.div_(len(settings.scales)))


def _predict_scale(
    segment: Segment,
    image: Image,
    settings: WindowSection,
    classes: int,
    rows: _Part,
    columns: _Part,
    device: torch.device,
) -> Tensor:
    """Predict the (C, h, w) float32 probabilities of one block at one scale."""
    source = np.array(image[rows.crop.reach, columns.crop.reach])  # a copy, because torch refuses read-only memory
    crop = torch.from_numpy(source).to(device).permute(2, 0, 1)
    crop = columns.crop.apply(rows.crop.apply(crop, 1), 2)
    canvas = torch.zeros((classes, *crop.shape[1:]), device=device)
    windows = list(itertools.product(rows.windows, columns.windows))
    group = max(settings.batch // len(_TURNS), 1) if settings.flips else settings.batch
    for begin in range(0, len(windows), group):
        some = windows[begin : begin + group]
        pixels = torch.stack([crop[:, row, column] for (row, _), (column, _) in some])
        found = window_probabilities(segment, pixels, settings, classes)
        for ((row, share_y), (column, share_x)), window in zip(some, found, strict=True):
            canvas[:, row, column].addcmul_(window, share_y[:, None] * share_x)
    shown = canvas[:, rows.shown, columns.shown]
    return columns.block.apply(rows.block.apply(shown, 1), 2)


def _turn(windows: Tensor, turn: int) -> Tensor:
    """Return the windows after transform `turn` (0-7): a flip if 4 or more, then ``turn % 4`` quarter rotations."""
    return torch.rot90(windows.flip(-1) if turn >= 4 else windows, turn % 4, (-2, -1))


def _turn_back(windows: Tensor, turn: int) -> Tensor:
    windows = torch.rot90(windows, -turn % 4, (-2, -1))
    return windows.flip(-1) if turn >= 4 else windows


@dataclass(frozen=True, slots=True, eq=False)
class _Taps:
    """The interpolation of n pixels along one axis, each from k neighbours.

    `reach` is the range of the axis that contains all neighbours. `index` (n, k) has the neighbours of each pixel,
    counted from the start of `reach`. `weight` (n, k) has their weights; the weights of a pixel sum to 1.
    """

    reach: slice
    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def at(cls, positions: NDArray[np.floating], length: int, radius: float = 1.0) -> _Taps:
        """Interpolate at `positions` on an axis of `length` pixels, with a tent filter that is zero at `radius`."""
        count = math.ceil(2 * radius)
        if radius == 1 and not (positions % 1).any():
            count = 1  # whole positions need no interpolation
        index = np.floor(positions - radius).astype(np.int64)[:, None] + np.arange(1, count + 1)
        weight = np.maximum(1 - np.abs(index - positions[:, None]) / radius, 0)
        weight /= weight.sum(1, keepdims=True)
        index = _mirror(index, length)
        first = int(index.min())
        return cls(slice(first, int(index.max()) + 1), index - first, weight.astype(np.float32))

    def apply(self, pixels: Tensor, dim: int) -> Tensor:
        """Interpolate `pixels`, which cover `reach` along dimension `dim`; returns float32."""
        index, weight = (torch.from_numpy(each.T.copy()).to(pixels.device) for each in (self.index, self.weight))
        shape = (-1, *[1] * (pixels.ndim - 1 - dim))
        taps = (
            pixels.index_select(dim, neighbours).float().mul_(weights.view(shape))
            for neighbours, weights in zip(index, weight, strict=True)
        )
        return reduce(Tensor.add_, taps)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The windows of a block along one side at one scale.

    `crop` interpolates the part of the image that the windows cover. `windows` are ranges of this crop, each with the
    window's weights for its pixels. `shown` is the part of the crop that the block needs; there, the weights of all
    windows sum to 1 at each pixel. `block` interpolates `shown` to the block's pixels.
    """

    crop: _Taps
    windows: list[tuple[slice, Tensor]]
    shown: slice
    block: _Taps


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """All windows along one side of an image at one scale.

    The side has `length` pixels, and `scaled` pixels at this scale. `starts` (n,) has the first pixel of each window,
    ascending; it is negative if the image is smaller than a window. `weight` (size,) has the positive weights of a
    window's pixels. `total` (scaled,) has the sum of the weights of all windows at each pixel. Windows form a grid, so
    the weights of both sides are multiplied.
    """

    length: int
    scaled: int
    scale: float
    starts: NDArray[np.int64]
    weight: NDArray[np.float64]
    total: NDArray[np.float64]

    @classmethod
    def of(cls, image: Image, settings: WindowSection, axis: int, scale: float) -> _Side:
        length, size, stride = image.shape[axis], settings.size[axis], settings.stride[axis]
        scaled = max(round(length * scale), 1)
        # the last window ends at the image's end; a window that is larger than the image is centred
        starts = np.array(
            [*range(0, scaled - size, stride), scaled - size] if scaled > size else [(scaled - size) // 2]
        )
        weight = np.ones(size)
        if settings.blend == "gaussian":  # as in nnU-Net (Isensee et al. 2021): sigma is an eighth of the window
            weight = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)
        total = np.zeros(scaled)
        for start in starts.tolist():
            low, high = max(start, 0), min(start + size, scaled)
            total[low:high] += weight[low - start : high - start]
        return cls(length, scaled, scale, starts, weight, total)

    def part(self, begin: int, end: int, device: torch.device) -> _Part:
        """Return the windows of the block from pixel `begin` to pixel `end`, with their weights on `device`."""
        positions = (np.arange(begin, end) + 0.5) * self.scale - 0.5
        block = _Taps.at(positions.clip(0, self.scaled - 1), self.scaled)
        size, first, last = len(self.weight), block.reach.start, block.reach.stop
        starts = self.starts[(self.starts < last) & (self.starts + size > first)]
        origin = int(starts[0])
        covered = _mirror(np.arange(origin, starts[-1] + size), self.scaled)
        # at scales below 1, a pixel averages all image pixels that it covers
        crop = _Taps.at((covered + 0.5) / self.scale - 0.5, self.length, max(1 / self.scale, 1.0))
        windows = []
        for start in (starts - origin).tolist():
            share = self.weight / self.total[covered[start : start + size]]
            windows.append((slice(start, start + size), torch.from_numpy(share).to(device, torch.float32)))
        return _Part(crop, windows, slice(first - origin, last - origin), block)


def _mirror(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Map any integer indices to pixels of an axis that is mirrored repeatedly at its ends."""
    index = index % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
