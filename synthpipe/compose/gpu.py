"""Render batches of recipes on a GPU, byte for byte as the CPU does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import config

from synthpipe.compose.batches import Batch, pack_recipes, resized, resized_bytes
from synthpipe.compose.donors import Donors
from synthpipe.core.errors import GpuError
from synthpipe.core.packages import GPU, require
from synthpipe.core.records import Recipe

_ON_CPU = "or render on the CPU (synthpipe.compose.render)"


class Renderer:
    """Renders recipes on a GPU whose memory holds the donors.

    It works on the device's default stream, as torch does by default, so torch may use its results without waiting.

    Parameters
    ----------
    bank : Donors
        The donors of all recipes.
    device : int
        Index of the GPU, from 0.

    Raises
    ------
    MissingPackageError
        The extra ``gpu`` is not installed.
    GpuError
        This machine has no such GPU, or the GPU's free memory is smaller than the bank.

    Examples
    --------
    >>> with Renderer(donors) as renderer:
    ...     images, masks = renderer.render(recipes)
    ...     pixels = torch.as_tensor(images, device="cuda")  # no copy
    """

    def __init__(self, bank: Donors, device: int = 0) -> None:
        if not config.ENABLE_CUDASIM:
            require("rendering on a GPU", *GPU)
        from numba import cuda

        self.donors = bank
        self._cuda, self._device = cuda, open_device(device)
        with self._device:
            self._check_memory(f"the bank of {len(bank.listed):,} donors", bank.bank.nbytes, "use fewer donors")
            self._bank = cuda.to_device(np.asarray(bank.bank))
            self._no_pixels = cuda.to_device(np.zeros(1, np.uint32))
        self._fitted: tuple[tuple[int, int], Any] | None = None  # canvas and resized donors

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, recipes: Sequence[Recipe] | Batch, out: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        """Render recipes in one launch; the call returns before the GPU has finished.

        Parameters
        ----------
        recipes : sequence of Recipe, or Batch
            Recipes of one strategy and size, or their batch from `batches.pack_recipes` or `upload`.
        out : tuple of device array, optional
            Images and masks of an earlier call with as many recipes, which are overwritten; new arrays by default.

        Returns
        -------
        images : (N, H, W, 3) uint8
            RGB. A device array, which `torch.as_tensor` takes without a copy; `copy_to_host` copies it.
        masks : (N, H, W) uint8
            Class indices, as a device array.

        Raises
        ------
        CatalogError
            A recipe names a donor that is not in the bank.
        GpuError
            The GPU's free memory is too small, or the renderer is closed.
        ValueError
            The recipes differ in strategy or size, `out` has other shapes, or a recipe cannot be rendered on a GPU.
        """
        batch = self.upload(recipes)
        from synthpipe.compose.gpu_kernels import BLOCK, render_beziers, render_mosaics

        with self._device:
            fitted = self._resized(batch.canvas) if batch.strategy == "bezier" else self._no_pixels
            images, masks = out or self._new_arrays(batch)
            shape = (len(batch), *batch.canvas)
            if tuple(images.shape) != (*shape, 3) or tuple(masks.shape) != shape:
                raise ValueError(
                    f"the output arrays have the shapes {tuple(images.shape)} and {tuple(masks.shape)}, but this batch "
                    f"needs {(*shape, 3)} and {shape}"
                )
            kernel = render_mosaics if batch.strategy == "mosaic" else render_beziers
            kernel[(len(batch),), BLOCK](images, masks, self._bank, fitted, *batch.arrays, *batch.layout)
        return images, masks

    def upload(self, recipes: Sequence[Recipe] | Batch) -> Batch:
        """Copy a batch to the memory of the GPU, so that it can be rendered several times."""
        if self._bank is None:
            raise GpuError("the renderer is closed; make a new one")
        batch = recipes if isinstance(recipes, Batch) else pack_recipes(recipes, self.donors)
        with self._device:
            arrays = [self._cuda.to_device(each) if isinstance(each, np.ndarray) else each for each in batch.arrays]
        return Batch(batch.strategy, batch.canvas, tuple(arrays), batch.layout)

    def close(self) -> None:
        """Free the memory of the bank."""
        self._bank = self._fitted = None

    def _resized(self, canvas: tuple[int, int]) -> Any:
        """Return the donors that are resized to the canvas; the renderer keeps those of the last canvas."""
        if self._fitted is None or self._fitted[0] != canvas:
            self._fitted = None
            size = resized_bytes(self.donors, canvas)
            self._check_memory(f"the donors that are resized to {canvas[0]} x {canvas[1]}", size, "use fewer donors")
            self._fitted = canvas, self._cuda.to_device(resized(self.donors, canvas)) if size else self._no_pixels
        return self._fitted[1]

    def _new_arrays(self, batch: Batch) -> tuple[Any, Any]:
        shape = (len(batch), *batch.canvas)
        self._check_memory(f"{len(batch):,} composites", 4 * int(np.prod(shape)), "render fewer recipes at once")
        return self._cuda.device_array((*shape, 3), np.uint8), self._cuda.device_array(shape, np.uint8)

    def _check_memory(self, what: str, needed: int, advice: str) -> None:
        context = self._cuda.current_context()
        if needed > context.get_memory_info().free:
            context.memory_manager.deallocations.clear()  # numba frees arrays late
            free = context.get_memory_info().free
            if needed > free:
                raise GpuError(
                    f"{what} needs {needed / 2**20:,.0f} MiB, but the GPU has {free / 2**20:,.0f} MiB of free memory; "
                    f"{advice}, {_ON_CPU}"
                )


def open_device(device: int) -> Any:
    """Return numba's context manager of a GPU.

    Raises
    ------
    GpuError
        This machine has no GPU with this index.
    """
    from numba import cuda

    if not cuda.is_available():
        raise GpuError(f"numba finds no GPU: check nvidia-smi and the driver, {_ON_CPU}")
    count = len(cuda.gpus)
    if not 0 <= device < count:
        raise GpuError(f"there is no GPU {device}; this machine has {count}, numbered from 0")
    return cuda.gpus[device]
