"""Compiled kernels that draw all random numbers of composites.

They take the random numbers of NumPy's Philox generator, number by number, so `compose.generator` gives the same ones.
Tests compare the kernels with `benchmarks.reference_sampling`, which is plain Python and NumPy.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from synthpipe.compose.kernels import reflect
from synthpipe.config.pipeline import GlassSection

_TILE_DRAWS = 3  # donor, y, x
_TRANSFORM_DRAWS = 9  # flip?, which; warp?, angle, scale, shift y, shift x; window y, x
_FIRST, _SECOND = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)  # Philox 4x64-10: multipliers,
_STEP_FIRST, _STEP_SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)  # and steps of the key
_LOW, _HALF, _UNUSED = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(11)


def glass_limits(glass: GlassSection | None) -> tuple[int, float]:
    """Return the most draws of a donor and the largest share of glass, as kernels take them; -1.0 for any share."""
    return (glass.max_draws, float(glass.max_share)) if glass else (1, -1.0)


@njit(nogil=True, cache=True)
def uniforms(out, stream, index, skip):  # type: ignore[no-untyped-def]
    """Fill `out` with uniform numbers from 0 to 1 of the stream of composite `index`, after its first `skip` numbers.

    Parameters
    ----------
    out : (N,) float64
        Receives the numbers.
    stream : tuple of four uint64
        The seed, the words of strategy and purpose, and the stream; see `compose.generator`.
    index, skip : int
        The composite, and the number of numbers before the first one.
    """
    seed, strategy, purpose, number = stream
    block, number = skip // 4, -(skip % 4)
    while number < out.size:
        block += 1  # NumPy counts up before it takes numbers
        a, b, c, d = np.uint64(block), number, np.uint64(index), purpose
        key, other_key = seed, strategy
        for _ in range(10):
            high, low = _product(_FIRST, a)
            other_high, other_low = _product(_SECOND, c)
            a, b, c, d = other_high ^ b ^ key, other_low, high ^ d ^ other_key, low
            key, other_key = key + _STEP_FIRST, other_key + _STEP_SECOND
        for word in (a, b, c, d):
            if 0 <= number < out.size:
                out[number] = np.float64(word >> _UNUSED) * (1.0 / 9007199254740992.0)
            number += 1


@njit(nogil=True, cache=True, inline="always")
def _product(x, y):  # type: ignore[no-untyped-def]
    """Return the high and the low word of the product of two uint64."""
    x_low, x_high, y_low, y_high = x & _LOW, x >> _HALF, y & _LOW, y >> _HALF
    middle = x_high * y_low + ((x_low * y_low) >> _HALF)
    other = x_low * y_high + (middle & _LOW)
    return x_high * y_high + (middle >> _HALF) + (other >> _HALF), x * y


@njit(nogil=True, cache=True)
def draw_mosaics(indices, stream, settings, glass, bank, table, drawn, tiles, maps, warped, windows):  # type: ignore[no-untyped-def]
    """Draw Mosaics.

    Parameters
    ----------
    indices : (N,) int64
        The composites.
    stream : tuple
        As for `uniforms`.
    settings : tuple
        Canvas, tile and grid, two int each; probability, shift, scale, rotation, lowest and highest split, float; and
        whether classes are balanced.
    glass : tuple
        The number of draws of a tile, and the largest share of glass, negative if glass does not count.
    bank : (P,) uint32
        Packed pixels of all donors.
    table : tuple
        `Donors.table`.
    drawn : (N, 4 * T) int64
        Receives the rows of the donors in the table.
    tiles, maps, windows
        Receive what `kernels.warp_quadrants` and `kernels.inverse_maps` take: (4 * N, T, 5) int64, (4 * N, 8) float64
        and (4 * N, 4) int64.
    warped : (4 * N,) bool
        Receives whether a quadrant is shifted, scaled and rotated.

    Returns
    -------
    int
        The row in the table of a donor without pixels whose glass counts, or -1.
    """
    canvas, tile, grid, probability, shift, scale, rotation, lowest, highest, balanced = settings
    count = grid[0] * grid[1]
    each = count * _TILE_DRAWS + _TRANSFORM_DRAWS
    block, again = np.empty(2 + 4 * each), np.empty(_TILE_DRAWS)
    for n in range(len(indices)):
        uniforms(block, stream, indices[n], 0)
        skip = block.size
        split_y = _even_ceil((lowest + block[0] * (highest - lowest)) * canvas[0])
        split_x = _even_ceil((lowest + block[1] * (highest - lowest)) * canvas[1])
        for part in range(4):
            q = 4 * n + part
            top, left = (0 if part < 2 else split_y), (0 if part % 2 == 0 else split_x)
            tall, wide = (
                (split_y if part < 2 else canvas[0] - split_y),
                (split_x if part % 2 == 0 else canvas[1] - split_x),
            )
            windows[q, 0], windows[q, 1], windows[q, 2], windows[q, 3] = top, left, tall, wide
            start = 2 + part * each
            for t in range(count):
                draw = block[start + t * _TILE_DRAWS : start + (t + 1) * _TILE_DRAWS]
                for _ in range(glass[0]):
                    row = _donor(draw[0], table, balanced)
                    first, height, width, _ = table[0][row]
                    y, x = int(draw[1] * (max(height - tile[0], 0) + 1)), int(draw[2] * (max(width - tile[1], 0) + 1))
                    drawn[n, part * count + t] = row
                    tiles[q, t, 0], tiles[q, t, 1], tiles[q, t, 2] = first, height, width
                    tiles[q, t, 3], tiles[q, t, 4] = y, x
                    if glass[1] < 0:
                        break
                    if first < 0:
                        return row
                    if _share(bank, table, row, y, x, tile, glass[1]) <= glass[1]:
                        break
                    uniforms(again, stream, indices[n], skip)
                    skip += _TILE_DRAWS
                    draw = again
            _transform(block[start + count * _TILE_DRAWS : start + each], maps[q], probability, shift, scale, rotation)
            warped[q] = block[start + count * _TILE_DRAWS + 2] < probability
            maps[q, 6] = int(block[start + each - 2] * (max(tile[0] * grid[0] - tall, 0) + 1))
            maps[q, 7] = int(block[start + each - 1] * (max(tile[1] * grid[1] - wide, 0) + 1))
    return -1


@njit(nogil=True, cache=True)
def draw_beziers(indices, stream, pairs, glass, bank, table, corners, drawn):  # type: ignore[no-untyped-def]
    """Draw Beziers.

    Parameters
    ----------
    indices, stream, glass, bank, table
        As for `draw_mosaics`.
    pairs : (P, 2) int64
        Rows of the classes of background and foreground in the list of classes that have donors.
    corners : tuple
        The smallest distance of neighbouring corners, and the number of draws of all corners.
    drawn : tuple
        (N, 2) int64 and (N, n, 2) float64: receive the rows of background and foreground in the table, and the corners.

    Returns
    -------
    int
        As for `draw_mosaics`.
    """
    rows, points = drawn
    block, again = np.empty(3), np.empty(1)
    draws = np.empty((1, points.shape[1], 2))
    for n in range(len(indices)):
        uniforms(block, stream, indices[n], 0)
        skip = 3
        pair = pairs[int(block[0] * len(pairs))]
        for part in range(2):
            u = block[1 + part]
            for _ in range(glass[0]):
                row = _donor_of(pair[part], u, table)
                rows[n, part] = row
                if glass[1] < 0:
                    break
                first, height, width, _ = table[0][row]
                if first < 0:
                    return row
                if _share(bank, table, row, 0, 0, (height, width), glass[1]) <= glass[1]:
                    break
                uniforms(again, stream, indices[n], skip)
                skip += 1
                u = again[0]
        for _ in range(corners[1]):
            uniforms(draws.reshape(-1), stream, indices[n], skip)
            skip += draws.size
            if choose_corners(draws, corners[0], points[n]):
                break
    return -1


@njit(nogil=True, cache=True)
def choose_corners(draws, smallest, points):  # type: ignore[no-untyped-def]
    """Choose the first draw of corners whose neighbours are far enough apart.

    Parameters
    ----------
    draws : (D, n, 2) float64
        Points in the unit square.
    smallest : float
        The smallest distance that is far enough.
    points : (n, 2) float64
        Receives the chosen draw in angular order around its centroid; the last draw if no draw is good.

    Returns
    -------
    bool
        Whether a draw is good.
    """
    count = len(points)
    angles = np.empty(count)
    for draw in draws:
        centre_x = centre_y = 0.0
        for n in range(count):
            centre_x += draw[n, 0]
            centre_y += draw[n, 1]
        for n in range(count):  # insertion keeps the order of equal angles
            x, y = draw[n, 0], draw[n, 1]
            angle = math.atan2(y - centre_y / count, x - centre_x / count)
            index = n
            while index > 0 and angles[index - 1] > angle:
                points[index, 0], points[index, 1] = points[index - 1, 0], points[index - 1, 1]
                angles[index] = angles[index - 1]
                index -= 1
            points[index, 0], points[index, 1], angles[index] = x, y, angle
        gap = math.inf
        for n in range(count):
            after = (n + 1) % count
            gap = min(gap, math.hypot(points[after, 0] - points[n, 0], points[after, 1] - points[n, 1]))
        if gap >= smallest:
            return True
    return False


@njit(nogil=True, cache=True)
def count_other(bank, start, size, label, y, x, wanted):  # type: ignore[no-untyped-def]
    """Count the pixels in a donor's window whose class is not `label`; see `geometry.window`.

    Parameters
    ----------
    bank : (N,) uint32
        Packed pixels of all donors.
    start : int
        Index of the donor's first pixel in `bank`.
    size, wanted : tuple of two int
        Height and width of the donor and of the window.
    label : int
        A class index.
    y, x : int
        Upper left corner of the window.
    """
    height, width = size
    up, back = max(wanted[0] - height, 0) // 2, max(wanted[1] - width, 0) // 2
    tag = np.uint32(label << 24)
    count = np.int64(0)
    for row in range(y - up, y - up + wanted[0]):
        base = start + reflect(row, height) * width
        if back == 0 and x + wanted[1] <= width:
            pixels = bank[base + x : base + x + wanted[1]]
            other = np.int32(0)
            for column in range(pixels.size):
                other += np.int32((pixels[column] & np.uint32(0xFF000000)) != tag)
            count += other
        else:
            for column in range(x - back, x - back + wanted[1]):
                count += np.int64((bank[base + reflect(column, width)] >> 24) != label)
    return count


@njit(nogil=True, cache=True)
def _share(bank, table, row, y, x, wanted, largest):  # type: ignore[no-untyped-def]
    """Return the share of glass in a window of a donor, or a larger one that is still at most `largest`.

    A window inside a donor with little glass has little glass too, so its pixels need not be counted.
    """
    start, height, width, label = table[0][row]
    area = wanted[0] * wanted[1]
    if wanted[0] <= height and wanted[1] <= width:
        counts = table[3]
        if counts[row] < 0:
            counts[row] = count_other(bank, start, (height, width), label, 0, 0, (height, width))
        if counts[row] / area <= largest or (wanted[0] == height and wanted[1] == width):
            return counts[row] / area
    return count_other(bank, start, (height, width), label, y, x, wanted) / area


@njit(nogil=True, cache=True)
def _donor(u, table, balanced):  # type: ignore[no-untyped-def]
    """Turn a uniform number into a row of the table: every donor is equally likely, or every class."""
    if not balanced:
        return int(u * len(table[0]))
    scaled = u * (len(table[2]) - 1)
    return _donor_of(int(scaled), scaled - int(scaled), table)


@njit(nogil=True, cache=True)
def _donor_of(label, u, table):  # type: ignore[no-untyped-def]
    """Turn a uniform number into a row of the table among the donors of one class."""
    first, stop = table[2][label], table[2][label + 1]
    return table[1][first + int(u * (stop - first))]


@njit(nogil=True, cache=True)
def _transform(draws, numbers, probability, shift, scale, rotation):  # type: ignore[no-untyped-def]
    """Turn uniform numbers into the first six numbers of a row of `kernels.inverse_maps`."""
    kind = int(draws[1] * 3) if draws[0] < probability else -1  # horizontal, vertical, both
    numbers[0] = 1.0 if kind >= 1 else 0.0
    numbers[1] = 1.0 if kind == 0 or kind == 2 else 0.0
    numbers[2], numbers[3], numbers[4], numbers[5] = 0.0, 1.0, 0.0, 0.0
    if draws[2] < probability:
        numbers[2] = -rotation + draws[3] * (rotation - -rotation)
        numbers[3] = (1 - scale) + draws[4] * ((1 + scale) - (1 - scale))
        numbers[4] = -shift + draws[5] * (shift - -shift)
        numbers[5] = -shift + draws[6] * (shift - -shift)


@njit(nogil=True, cache=True)
def _even_ceil(value):  # type: ignore[no-untyped-def]
    return 2 * math.ceil(value / 2)
