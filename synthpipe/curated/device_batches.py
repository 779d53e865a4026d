"""Batches of a curated set in the memory of a GPU, which renders virtual composites itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synthpipe.compose.batches import Batch, pack_block
from synthpipe.compose.gpu import Renderer
from synthpipe.core.errors import GpuError, MissingPackageError
from synthpipe.core.threads import in_threads
from synthpipe.curated.rendered import RenderedPixels

if TYPE_CHECKING:
    from synthpipe.curated.torch_data import CuratedDataset, Tensors

_Parts = list[tuple[NDArray[np.int64], Batch]]


class DeviceBatches:
    """The batches of a `torch_data.ResumableLoader` whose tensors are on a GPU.

    A thread prepares the next batches: it samples virtual composites, which the GPU renders, or reads stored ones,
    which are copied to the GPU.

    Parameters
    ----------
    dataset : CuratedDataset
        The set, without a transform.
    batches : iterable of list of int
        The indices of each batch.
    device : torch.device
        The GPU.

    Raises
    ------
    GpuError
        The GPU cannot hold the donors, or numba-cuda is missing.
    """

    def __init__(self, dataset: CuratedDataset, batches: Iterable[list[int]], device: torch.device) -> None:
        self._dataset, self._batches, self._device = dataset, batches, device
        self._curated = dataset.curated
        self._renderer: Renderer | None = None
        pixels = self._curated.pixels
        if isinstance(pixels, RenderedPixels):
            try:
                self._renderer = Renderer(pixels.renderer.donors(), device.index or 0)
            except (GpuError, MissingPackageError) as error:
                raise GpuError(f"{error}; in a loader, leave out device={str(device)!r}") from error

    def __iter__(self) -> Iterator[Tensors]:
        for batch, labels in in_threads(self._prepare, self._batches, 1):
            if isinstance(batch, list):
                image, mask = self._render(batch, len(labels))
            else:
                image, mask = (batch[name].to(self._device, non_blocking=True) for name in ("image", "mask"))
            yield {"image": image, "mask": mask, "labels": labels.to(self._device, non_blocking=True)}

    def _prepare(self, indices: Sequence[int]) -> tuple[_Parts | Any, Tensor]:
        """Return the packed recipes of a batch with their rows, or its tensors if pixels are stored; and its labels."""
        pixels = self._curated.pixels
        if isinstance(pixels, RenderedPixels):
            blocks = pixels.blocks(self._curated.indices[indices].tolist())
            parts = [(rows, pack_block(block)) for rows, block in blocks]
            return parts, torch.from_numpy(self._curated.labels[indices])
        tensors = self._dataset.collate(self._dataset.__getitems__(indices))
        return tensors, tensors["labels"]

    def _render(self, parts: _Parts, count: int) -> tuple[Tensor, Tensor]:
        """Return images (N, 3, H, W), channels last in memory, and masks (N, H, W) on the GPU."""
        assert self._renderer  # nosec B101 # for mypy
        images, masks = self._empty(count)
        for rows, batch in parts:
            if len(parts) == 1:
                self._renderer.render(batch, (images, masks))
                break
            some = self._empty(len(rows))
            self._renderer.render(batch, some)
            chosen = torch.from_numpy(rows).to(self._device)
            images[chosen], masks[chosen] = some
        return images.permute(0, 3, 1, 2), masks

    def _empty(self, count: int) -> tuple[Tensor, Tensor]:
        shape = count, *self._curated.size
        return (
            torch.empty((*shape, 3), dtype=torch.uint8, device=self._device),
            torch.empty(shape, dtype=torch.uint8, device=self._device),
        )
