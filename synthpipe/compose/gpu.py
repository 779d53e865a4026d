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
    """Render recipes on a GPU whose memory holds the donors.

    It works on the device's default stream, as torch does by default, so torch may use its results without waiting.

    Parameters
    ----------
    bank : Donors
        The donors of all recipes.
    device : int
        Index of the GPU, from 0.
    most : float
        The largest share of the GPU's free memory that the donors may take.

    Raises
    ------
    MissingPackageError
        The extra ``gpu`` is not installed.
    GpuError
        This machine has no such GPU, or its free memory is too small for the donors.

    Examples
    --------
    >>> with Renderer(donors) as renderer:
    ...     images, masks = renderer.render(recipes)
    ...     pixels = torch.as_tensor(images, device="cuda")  # no copy
    """

    def __init__(self, bank: Donors, device: int = 0, most: float = 1.0) -> None:
        if not is_simulated():
            require("rendering on a GPU", *GPU)
        from numba import cuda

        self.donors = bank
        self._cuda, self._device, self._most = cuda, open_device(device), most
        with self._device:
            self._check_memory(f"the bank of {len(bank.listed):,} donors", bank.bank.nbytes, "use fewer donors", most)
            self._bank = cuda.to_device(np.asarray(bank.bank))
            self._no_pixels = cuda.to_device(np.zeros(1, np.uint32))
        self._fitted: tuple[tuple[int, int], Any] | None = None  # canvas and resized donors

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hold_resized(self, canvas: tuple[int, int]) -> None:
        """Copy the donors of other sizes, resized to the canvas, to the GPU now and not with the first Bezier.

        Raises
        ------
        GpuError
            The GPU's free memory is too small.
        """
        with self._device:
            self._resized(canvas)

    def render(self, recipes: Sequence[Recipe] | Batch, out: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        """Render recipes in one launch; the call returns before the GPU has finished.

        Parameters
        ----------
        recipes : sequence of Recipe, or Batch
            Recipes of one strategy and size, or their batch from `batches.pack_recipes`, `batches.pack_block` or
            `upload`.
        out : tuple of array, optional
            Images and masks that are overwritten: arrays of an earlier call with as many recipes, or contiguous tensors
            of torch on this GPU; new arrays by default.

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
            images, masks = map(self._as_array, out) if out else self._new_arrays(batch)
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

    def _as_array(self, array: Any) -> Any:
        """Return numba's array of the same memory."""
        if hasattr(array, "copy_to_host"):
            return array
        return np.asarray(array) if is_simulated() else self._cuda.as_cuda_array(array)

    def _resized(self, canvas: tuple[int, int]) -> Any:
        """Return the donors that are resized to the canvas; the renderer keeps those of the last canvas."""
        if self._fitted is None or self._fitted[0] != canvas:
            self._fitted = None
            size = resized_bytes(self.donors, canvas)
            what = f"the donors that are resized to {canvas[0]} x {canvas[1]}"
            self._check_memory(what, size, "use fewer donors", self._most)
            self._fitted = canvas, self._cuda.to_device(resized(self.donors, canvas)) if size else self._no_pixels
        return self._fitted[1]

    def _new_arrays(self, batch: Batch) -> tuple[Any, Any]:
        shape = (len(batch), *batch.canvas)
        self._check_memory(f"{len(batch):,} composites", 4 * int(np.prod(shape)), "render fewer recipes at once")
        return self._cuda.device_array((*shape, 3), np.uint8), self._cuda.device_array(shape, np.uint8)

    def _check_memory(self, what: str, needed: int, advice: str, most: float = 1.0) -> None:
        context = self._cuda.current_context()
        if needed > most * context.get_memory_info().free:
            context.memory_manager.deallocations.clear()  # numba frees arrays late
            free = context.get_memory_info().free
            if needed > most * free:
                limit = "" if most == 1 else f", of which donors may take {most:.0%}"
                raise GpuError(
                    f"{what} needs {needed / 2**20:,.0f} MiB, but the GPU has {free / 2**20:,.0f} MiB of free "
                    f"memory{limit}; {advice}, {_ON_CPU}"
                )


def is_simulated() -> bool:
    """Return whether numba simulates a GPU on the CPU, as tests do (``NUMBA_ENABLE_CUDASIM=1``)."""
    return bool(config.ENABLE_CUDASIM)


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
