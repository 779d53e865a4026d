"""Predicting images of any size with a network that takes windows, in bounded memory (method section 4).

At each scale a grid of windows is anchored at the image's corner. The image is then predicted block by block: a block
takes all windows that touch it, so the result does not depend on the blocks, and no more than one of them is in memory.

Pixel p of the image at scale s lies at ``(p + 0.5) / s - 0.5`` in the image itself: the corners of the two coincide,
as far as whole pixels allow. Beyond its borders an image goes on mirrored, its edge pixels repeated.
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
"""Takes (B, 3, h, w) float32 RGB in 0-255 and returns (B, C, h, w) logits of any float type, on the same device."""

BLOCK = 1024
_TURNS = range(8)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The prediction of a part of an image.

    Attributes
    ----------
    y, x : int
        Its corner in the image.
    probabilities : (C, h, w) float32
        On the device of the prediction; they sum to 1 over the classes.
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
    """Return the class probabilities of an image, as disjoint blocks that cover it, row by row.

    Each window's logits go through a softmax; with flips the mean of the 8 transformed windows' softmax, each turned
    back, takes its place. A pixel's probabilities at a scale are the mean over its windows, weighted by `blend`; those
    of other scales than 1 are brought to the image's pixels bilinearly. The result is the mean over scales.

    Parameters
    ----------
    segment : callable
        The network, in evaluation mode; see `Segment`. Called in inference mode with at most ``settings.batch``
        windows. At scale 1 it gets the image's own pixels, at other scales interpolated ones, not rounded.
    image : (H, W, 3) uint8
        RGB. May be a memory map: only what a block needs is read.
    settings : WindowSection
        The windows.
    classes : int
        Number of classes C that `segment` returns.
    device : torch.device or str
        Where `segment` is, and where everything is computed.
    block : int
        Largest side of a block in pixels; the result depends on it by no more than rounding (1e-5). A multiple of the
        stride is taken where there is one.

        Windows that lie across borders are computed for each block: about ``(1 + size / (s * block))**2`` times as
        many at scale s, and fewer where borders of blocks and windows meet (1.23 times for windows of 224 at stride
        112); none twice where the image is one block. Memory follows the block at the largest scale s, or 1, and not
        the image: at most about ``(16 C + 24) (s * block + 2 * size)**2`` bytes, beside a batch and what `segment`
        takes for it. With 5 classes and windows of 224 that is 215 MB at scale 1, 620 MB at scale 2.

    Yields
    ------
    Block
        A part of the prediction.

    Raises
    ------
    ValueError
        The image, `classes` or `block` is not as above, or `segment` returns another shape.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"image: got {image.dtype} of shape {image.shape}, expected uint8 of shape (H, W, 3), not empty"
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
    """Return the (H, W) uint8 most probable class of each pixel, the first of equals; see `predict`.

    Raises
    ------
    ValueError
        As `predict`, or there are more classes than uint8 can tell.
    """
    if classes > 256:
        raise ValueError(f"got {classes} classes, expected at most 256; use predict and choose a wider type")
    mask = np.empty(image.shape[:2], np.uint8)
    for part in predict(segment, image, settings, classes, device, block):
        found = part.probabilities.max(0).indices.to(torch.uint8).cpu().numpy()  # argmax is slow on CPUs
        mask[part.y : part.y + found.shape[0], part.x : part.x + found.shape[1]] = found
    return mask


def window_probabilities(segment: Segment, windows: Tensor, settings: WindowSection, classes: int) -> Tensor:
    """Return the class probabilities of windows: their softmax, with flips its mean over the 8 transformations.

    Parameters
    ----------
    segment : callable
        See `Segment`; called in inference mode with at most ``settings.batch`` windows.
    windows : (B, 3, h, w) float32
        RGB in 0-255, of ``settings.size``. With flips eight times as many are held at once.
    settings : WindowSection
        Its size, flips and batch count.
    classes : int
        Number of classes C that `segment` returns.

    Returns
    -------
    (B, C, h, w) float32
        They sum to 1 over the classes.

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
                "(B, C, h, w); resize them to the window, or correct classes"
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
    # where a block ends with a window, fewer windows lie across its border
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
    """Return the (C, h, w) float32 probabilities of one block at one scale."""
    source = np.array(image[rows.crop.reach, columns.crop.reach])  # a copy: torch takes no read-only memory
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
    """Return the `turn`-th of the square's 8 transformations: mirrored from 4 on, then rotated by quarters."""
    return torch.rot90(windows.flip(-1) if turn >= 4 else windows, turn % 4, (-2, -1))


def _turn_back(windows: Tensor, turn: int) -> Tensor:
    windows = torch.rot90(windows, -turn % 4, (-2, -1))
    return windows.flip(-1) if turn >= 4 else windows


@dataclass(frozen=True, slots=True, eq=False)
class _Taps:
    """How n pixels along one axis are interpolated.

    `index` (n, k) holds the neighbours of each, counted from the start of `reach`, the range that they all lie in;
    `weight` (n, k) theirs, which sum to 1.
    """

    reach: slice
    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def at(cls, positions: NDArray[np.floating], length: int, radius: float = 1.0) -> _Taps:
        """Return the taps at `positions` on an axis of `length` pixels: a tent that falls to zero at `radius`."""
        count = math.ceil(2 * radius)
        if radius == 1 and not (positions % 1).any():
            count = 1  # pixels as they are
        index = np.floor(positions - radius).astype(np.int64)[:, None] + np.arange(1, count + 1)
        weight = np.maximum(1 - np.abs(index - positions[:, None]) / radius, 0)
        weight /= weight.sum(1, keepdims=True)
        index = _mirror(index, length)
        first = int(index.min())
        return cls(slice(first, int(index.max()) + 1), index - first, weight.astype(np.float32))

    def apply(self, pixels: Tensor, dim: int) -> Tensor:
        """Return `pixels`, which span `reach` along `dim`, interpolated there; float32."""
        index, weight = (torch.from_numpy(each.T.copy()).to(pixels.device) for each in (self.index, self.weight))
        shape = (-1, *[1] * (pixels.ndim - 1 - dim))
        taps = (
            pixels.index_select(dim, neighbours).float().mul_(weights.view(shape))
            for neighbours, weights in zip(index, weight, strict=True)
        )
        return reduce(Tensor.add_, taps)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What a block needs along one side at one scale.

    `crop` makes what all its windows cover out of the image. `windows` are ranges of the crop with the window's share
    of each pixel there; the shares of all windows on a pixel sum to 1 where the crop is `shown`. `block` brings that
    back to the block's pixels.
    """

    crop: _Taps
    windows: list[tuple[slice, Tensor]]
    shown: slice
    block: _Taps


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """The windows along one side of an image of `length` pixels, at a scale that makes `scaled` of them.

    `starts` (n,) is where windows begin, ascending, below 0 where the image is smaller than a window; `weight` (size,)
    that of a window's pixels, above 0; `total` (scaled,) its sum over all windows. Windows form a grid: the weights of
    the two sides multiply.
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
        # the last window ends with the image; one that is larger than the image is centred
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
        """Return what a block over the pixels from `begin` to `end` needs, shares on `device`."""
        positions = (np.arange(begin, end) + 0.5) * self.scale - 0.5
        block = _Taps.at(positions.clip(0, self.scaled - 1), self.scaled)
        size, first, last = len(self.weight), block.reach.start, block.reach.stop
        starts = self.starts[(self.starts < last) & (self.starts + size > first)]
        origin = int(starts[0])
        covered = _mirror(np.arange(origin, starts[-1] + size), self.scaled)
        # where the image shrinks, a pixel takes in all that it covers
        crop = _Taps.at((covered + 0.5) / self.scale - 0.5, self.length, max(1 / self.scale, 1.0))
        windows = []
        for start in (starts - origin).tolist():
            share = self.weight / self.total[covered[start : start + size]]
            windows.append((slice(start, start + size), torch.from_numpy(share).to(device, torch.float32)))
        return _Part(crop, windows, slice(first - origin, last - origin), block)


def _mirror(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return the pixel that each whole number stands for on an axis that is mirrored again and again at its ends."""
    index = index % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
