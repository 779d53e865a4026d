"""Kernels that render batches of recipes on a GPU, with integer arithmetic alone; see `batches`.

The functions of single pixels are made for a compiler: ``cuda.jit(device=True)`` for the GPU, and ``njit`` in tests,
which compare them with the CPU's kernels on many recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, cuda

from synthpipe.compose.kernels import ONE, ONE_BITS, STEP, STEP_BITS, TO_PIXEL, TO_STEP, reflect

BLOCK = (8, 2) if config.ENABLE_CUDASIM else (32, 8)  # the simulator starts a slow thread of the CPU for each
"""Threads of a block along x and y. A block renders one composite; a warp writes 32 neighbouring pixels of a row."""

_PART = STEP - 1


def mosaic_pixel(jit: Callable[..., Any]) -> Any:
    """Compile the function that returns the packed pixel of a Mosaic."""
    reflected = jit(reflect.py_func)

    @jit
    def fetch(bank, tiles, composite, number, y, x, tile):  # type: ignore[no-untyped-def]
        """Return pixel (y, x) of a tile; a donor that is smaller than the tile is reflected at its borders."""
        height, width = np.int32(tiles[composite, number, 1]), np.int32(tiles[composite, number, 2])
        up = (tile[0] - height) >> 1 if tile[0] > height else 0
        back = (tile[1] - width) >> 1 if tile[1] > width else 0
        row = reflected(np.int32(tiles[composite, number, 3] + y - up), height)
        column = reflected(np.int32(tiles[composite, number, 4] + x - back), width)
        return bank[np.uint64(tiles[composite, number, 0] + np.int64(row) * width + column)]

    @jit
    def blend(p, q, r, s, shift, a, b, c, d):  # type: ignore[no-untyped-def]
        """Return the weighted mean of one channel of four packed pixels; the weights add up to 1024."""
        upper = ((p >> shift) & 255) * a + ((q >> shift) & 255) * b
        lower = ((r >> shift) & 255) * c + ((s >> shift) & 255) * d
        return (upper + lower + (ONE >> 1)) >> ONE_BITS

    @jit
    def pixel(bank, steps, rows, splits, tiles, composite, y, x, tile, grid):  # type: ignore[no-untyped-def]
        tile_height, tile_width = tile
        down, right = int(y >= splits[composite, 0]), int(x >= splits[composite, 1])
        at_x = np.int32(rows[composite, right, 0, y] + steps[composite, down, 0, x])
        at_y = np.int32(rows[composite, right, 1, y] + steps[composite, down, 1, x])
        pixel_x, pixel_y = (at_x + TO_STEP) >> ONE_BITS, (at_y + TO_STEP) >> ONE_BITS
        part_x = np.int32((at_x + TO_STEP) >> (ONE_BITS - STEP_BITS)) & _PART
        part_y = np.int32((at_y + TO_STEP) >> (ONE_BITS - STEP_BITS)) & _PART

        full_height, full_width = tile_height * grid[0], tile_width * grid[1]
        top, low = reflected(np.int32(pixel_y), full_height), reflected(np.int32(pixel_y + 1), full_height)
        left, far = reflected(np.int32(pixel_x), full_width), reflected(np.int32(pixel_x + 1), full_width)
        # unsigned division is one short routine, signed division rounds down and takes several
        top_tile, low_tile = np.uint32(top) // np.uint32(tile_height), np.uint32(low) // np.uint32(tile_height)
        left_tile, far_tile = np.uint32(left) // np.uint32(tile_width), np.uint32(far) // np.uint32(tile_width)
        top, low = np.int32(top - top_tile * tile_height), np.int32(low - low_tile * tile_height)
        left, far = np.int32(left - left_tile * tile_width), np.int32(far - far_tile * tile_width)
        first = (2 * down + right) * grid[0] * grid[1]
        upper, lower = first + top_tile * grid[1], first + low_tile * grid[1]
        p = fetch(bank, tiles, composite, upper + left_tile, top, left, tile)
        q = fetch(bank, tiles, composite, upper + far_tile, top, far, tile)
        r = fetch(bank, tiles, composite, lower + left_tile, low, left, tile)
        s = fetch(bank, tiles, composite, lower + far_tile, low, far, tile)

        a, b = (STEP - part_x) * (STEP - part_y), part_x * (STEP - part_y)
        c, d = (STEP - part_x) * part_y, part_x * part_y
        red = blend(p, q, r, s, 0, a, b, c, d)
        green = blend(p, q, r, s, 8, a, b, c, d)
        blue = blend(p, q, r, s, 16, a, b, c, d)
        near_x, near_y = (at_x + TO_PIXEL) >> ONE_BITS > pixel_x, (at_y + TO_PIXEL) >> ONE_BITS > pixel_y
        nearest = (s if near_x else r) if near_y else (q if near_x else p)
        return np.uint32(red | (green << 8) | (blue << 16) | (nearest & np.uint32(0xFF000000)))

    return pixel


def bezier_pixel(jit: Callable[..., Any]) -> Any:
    """Compile the function that returns the packed pixel of a Bezier."""

    @jit
    def pixel(bank, fitted, inside, starts, composite, y, x, width):  # type: ignore[no-untyped-def]
        front = (inside[composite, y, x >> 5] >> np.uint32(x & 31)) & np.uint32(1)
        index = starts[composite, front] + np.int64(y) * width + x
        return bank[np.uint64(index)] if index < bank.size else fitted[np.uint64(index - bank.size)]

    return pixel


_mosaic_pixel, _bezier_pixel = mosaic_pixel(cuda.jit(device=True)), bezier_pixel(cuda.jit(device=True))


@cuda.jit
def render_mosaics(images, masks, bank, fitted, steps, rows, splits, tiles, tile, grid):  # type: ignore[no-untyped-def]
    """Render Mosaics into `images`, (N, H, W, 3) uint8, and `masks`, (N, H, W) uint8; see `batches.Batch`."""
    composite, height, width = cuda.blockIdx.x, masks.shape[1], masks.shape[2]
    for y in range(cuda.threadIdx.y, height, cuda.blockDim.y):
        for x in range(cuda.threadIdx.x, width, cuda.blockDim.x):
            packed = _mosaic_pixel(bank, steps, rows, splits, tiles, composite, y, x, tile, grid)
            images[composite, y, x, 0] = packed & 255
            images[composite, y, x, 1] = (packed >> 8) & 255
            images[composite, y, x, 2] = (packed >> 16) & 255
            masks[composite, y, x] = packed >> 24


@cuda.jit
def render_beziers(images, masks, bank, fitted, inside, starts):  # type: ignore[no-untyped-def]
    """Render Beziers into `images`, (N, H, W, 3) uint8, and `masks`, (N, H, W) uint8; see `batches.Batch`."""
    composite, height, width = cuda.blockIdx.x, masks.shape[1], masks.shape[2]
    for y in range(cuda.threadIdx.y, height, cuda.blockDim.y):
        for x in range(cuda.threadIdx.x, width, cuda.blockDim.x):
            packed = _bezier_pixel(bank, fitted, inside, starts, composite, y, x, width)
            images[composite, y, x, 0] = packed & 255
            images[composite, y, x, 1] = (packed >> 8) & 255
            images[composite, y, x, 2] = (packed >> 16) & 255
            masks[composite, y, x] = packed >> 24
