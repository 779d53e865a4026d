"""Compiled kernels, which do all operations on single pixels.

The kernels work on *packed* pixels: a pixel is one uint32 with red in the lowest byte, then green, blue and the class,
so a pixel and its class are read and written together. Arithmetic on pixels is integer, or exact in float32, so every
machine gives the same bytes. Tests compare the kernels with `benchmarks.reference`, which is plain OpenCV and NumPy.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

ONE_BITS = 10  # fixed-point coordinates have 1/1024 pixel,
STEP_BITS = 5  # and bilinear weights 1/32 pixel, both as in OpenCV
_EACH_BYTE, _LAST_BYTE = np.uint64(0x0101010101010101), np.uint64(255)
ONE, STEP = 1 << ONE_BITS, 1 << STEP_BITS
TO_STEP, TO_PIXEL = ONE >> (STEP_BITS + 1), ONE >> 1  # half a step and half a pixel, for rounding


@njit(nogil=True, cache=True)
def warp_quadrants(canvas, bank, tiles, tile, grid, affines, windows):  # type: ignore[no-untyped-def]
    """Fill quadrants with grid images that are warped by affine maps and reflected at their borders.

    Only the part of a grid image that its quadrant shows is assembled. Colours are interpolated bilinearly; classes are
    those of the nearest pixel.

    Parameters
    ----------
    canvas : (H, W) uint32
        Packed pixels of the composite.
    bank : (N,) uint32
        Packed pixels of all donors.
    tiles : (Q, T, 5) int64
        For each tile, row by row: start of its donor in the bank, the donor's height and width, y and x of the crop.
    tile, grid : tuple of two int
        Height and width of a tile; rows and columns of tiles.
    affines : (Q, 2, 3) float64
        Maps from (x, y, 1) in a quadrant to (x, y) in its grid image.
    windows : (Q, 4) int64
        Top, left, height and width of each quadrant.
    """
    for number in range(len(windows)):
        if windows[number, 2] > 0 and windows[number, 3] > 0:
            _warp_quadrant(canvas, bank, tiles[number], tile, grid, affines[number], windows[number])


@njit(nogil=True, cache=True)
def inverse_maps(numbers, size):  # type: ignore[no-untyped-def]
    """Return (Q, 2, 3) float64: maps from the pixels of windows to their images; see `geometry.source_map`.

    Parameters
    ----------
    numbers : (Q, 8) float64
        Whether rows and columns are flipped (1 or 0); angle in degrees; scale; shift of y and x; y and x of the
        window's upper left corner.
    size : tuple of two int
        Height and width of the image.
    """
    height, width = size
    maps = np.empty((len(numbers), 2, 3))
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    for number in range(len(numbers)):
        flip_y, flip_x, angle, scale, shift_y, shift_x, y, x = numbers[number]
        cosine, sine = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
        offset_x, offset_y = x - centre_x - shift_x * width, y - centre_y - shift_y * height
        # y grows downwards, so these rows turn clockwise: the inverse of the counter-clockwise turn of the image
        row_x, row_y = maps[number]
        row_x[0], row_x[1], row_x[2] = cosine, -sine, centre_x + (cosine * offset_x - sine * offset_y)
        row_y[0], row_y[1], row_y[2] = sine, cosine, centre_y + (sine * offset_x + cosine * offset_y)
        if flip_x:
            row_x[0], row_x[1], row_x[2] = -row_x[0], -row_x[1], width - 1 - row_x[2]
        if flip_y:
            row_y[0], row_y[1], row_y[2] = -row_y[0], -row_y[1], height - 1 - row_y[2]
    return maps


@njit(nogil=True, cache=True)
def positions(affine, height, width):  # type: ignore[no-untyped-def]
    """Return the source positions of a quadrant's pixels, in 1/1024 pixel, as sums of a row's and a column's part.

    Pixel (y, x) shows the position ``(row_y[y] + step_y[x], row_x[y] + step_x[x])`` of its grid image.

    Returns
    -------
    step_x, step_y : (width,) int32
        The parts of the columns.
    row_x, row_y : (height,) int64
        The parts of the rows.
    """
    step_x, step_y = np.empty(width, np.int32), np.empty(width, np.int32)
    for x in range(width):
        step_x[x], step_y[x] = np.rint(affine[0, 0] * x * ONE), np.rint(affine[1, 0] * x * ONE)
    row_x, row_y = np.empty(height, np.int64), np.empty(height, np.int64)
    for y in range(height):
        row_x[y] = np.rint((affine[0, 1] * y + affine[0, 2]) * ONE)
        row_y[y] = np.rint((affine[1, 1] * y + affine[1, 2]) * ONE)
    return step_x, step_y, row_x, row_y


@njit(nogil=True, cache=True)
def paste_curve(image, mask, back, front, corners, edgy, radius, bernstein):  # type: ignore[no-untyped-def]
    """Fill `image` and `mask` with `back`, and with `front` where the centre of a pixel is inside the closed curve.

    Parameters
    ----------
    image, mask : (H * W * 3,) and (H * W,) uint8
        The composite.
    back, front : (H, W) uint32
        Packed pixels.
    corners : (n, 2) float64
        The curve's corners in the unit square, which is scaled to the canvas.
    edgy, radius : float
        Constants of the tangents; see `reference.control_polygons`.
    bernstein : (4, samples) float64
        Weights of a cubic segment's control points.
    """
    height, width = back.shape
    xs, ys = outline(corners, edgy, radius, bernstein, height, width)
    first, columns = crossings(xs, ys, height, width)
    row = np.empty(width, np.uint32)  # unpacking whole rows is twice as fast as unpacking many short runs
    for y in range(height):
        _copy(row, back[y])
        for number in range(first[y], first[y + 1], 2):
            start, stop = columns[number], columns[number + 1]
            _copy(row[start:stop], front[y, start:stop])
        unpack(row, image[3 * y * width : 3 * (y + 1) * width], mask[y * width : (y + 1) * width])


@njit(nogil=True, cache=True)
def render_mosaics(images, masks, rows, bank, chosen, tiles, tile, grid, maps, windows):  # type: ignore[no-untyped-def]
    """Render Mosaics.

    Parameters
    ----------
    images, masks : (M, H * W * 3) and (M, H * W) uint8
        Receive the composites.
    rows, chosen : (N,) int64
        For each composite to render, its row in `images` and `masks`, and its index in the arrays below.
    bank, tiles, tile, grid, maps, windows
        As for `warp_quadrants`, with four quadrants for each composite. `maps` has affine maps.
    """
    canvas = np.empty((windows[2, 0] + windows[2, 2], windows[1, 1] + windows[1, 3]), np.uint32)
    for n in range(len(rows)):
        part = slice(4 * chosen[n], 4 * chosen[n] + 4)
        warp_quadrants(canvas, bank, tiles[part], tile, grid, maps[part], windows[part])
        unpack(canvas.reshape(-1), images[rows[n]], masks[rows[n]])


@njit(nogil=True, cache=True)
def render_beziers(images, masks, rows, bank, fitted, chosen, starts, size, points, curve):  # type: ignore[no-untyped-def]
    """Render Beziers.

    Parameters
    ----------
    images, masks, rows, chosen
        As for `render_mosaics`.
    bank, fitted : (P,) uint32
        Packed pixels of all donors, and of those that are resized to the canvas.
    starts : (N, 2) int64
        Index of the first pixel of background and foreground in `bank` followed by `fitted`.
    size : tuple of two int
        Height and width of the canvas.
    points : (N, n, 2) float64
        The corners of each curve.
    curve : tuple
        `edgy`, `radius` and `bernstein` of `paste_curve`.
    """
    edgy, radius, bernstein = curve
    for n in range(len(rows)):
        back = _pixels_at(bank, fitted, starts[chosen[n], 0], size)
        front = _pixels_at(bank, fitted, starts[chosen[n], 1], size)
        paste_curve(images[rows[n]], masks[rows[n]], back, front, points[chosen[n]], edgy, radius, bernstein)


@njit(nogil=True, cache=True)
def _pixels_at(bank, fitted, start, size):  # type: ignore[no-untyped-def]
    """Return (H, W) uint32: the packed pixels from index `start` of `bank` followed by `fitted`."""
    pixels = bank
    if start >= bank.size:
        start, pixels = start - bank.size, fitted
    return pixels[start : start + size[0] * size[1]].reshape(size)


@njit(nogil=True, cache=True)
def unpack(packed, image, mask):  # type: ignore[no-untyped-def]
    """Split (N,) uint32 packed pixels into (N, 3) uint8 `image` and (N,) uint8 `mask`."""
    for n in range(packed.size):
        pixel = packed[n]
        image[3 * n] = pixel
        image[3 * n + 1] = pixel >> 8
        image[3 * n + 2] = pixel >> 16
        mask[n] = pixel >> 24


@njit(nogil=True, cache=True)
def count_classes(mask, counts):  # type: ignore[no-untyped-def]
    """Write the number of pixels of each class in (N,) uint8 `mask` into (C,) int32 `counts`."""
    counts[:] = 0
    words = mask[: mask.size // 8 * 8].view(np.uint64)
    label, run = np.uint64(0), 0
    for n in range(words.size):
        if words[n] == label * _EACH_BYTE:  # nearly always true: eight more pixels of one class
            run += 8
            continue
        counts[label] += run
        label, run = words[n] & _LAST_BYTE, 0
        if words[n] == label * _EACH_BYTE:
            run = 8
        else:
            for k in range(8 * n, 8 * n + 8):
                counts[mask[k]] += 1
    counts[label] += run
    for k in range(8 * words.size, mask.size):
        counts[mask[k]] += 1


@njit(nogil=True, cache=True)
def count_all_classes(masks, counts):  # type: ignore[no-untyped-def]
    """Write the number of pixels of each class in each row of (N, P) uint8 `masks` into (N, C) int32 `counts`."""
    for n in range(len(masks)):
        count_classes(masks[n], counts[n])


@njit(nogil=True, cache=True)
def _warp_quadrant(canvas, bank, tiles, tile, grid, affine, window):  # type: ignore[no-untyped-def]
    """Fill one quadrant; see `warp_quadrants`."""
    top, left, height, width = window
    step_x, step_y, row_x, row_y = positions(affine, height, width)
    # steps and rows are monotonic, so the corners bound all positions; bilinear interpolation also needs the next pixel
    low_x, high_x = bounds(row_x, step_x)
    low_y, high_y = bounds(row_y, step_y)
    pitch = high_x - low_x + 1
    source = np.empty((high_y - low_y + 1) * pitch, np.uint32)
    _assemble(source, pitch, low_y, low_x, bank, tiles, tile, grid)

    # unsigned indices and slices that begin at 0 need no check for negative indices, which would prevent vectorising
    offset = np.empty(width, np.uint32)
    one, down = np.uint64(1), np.uint64(pitch)
    part_x, part_y = np.empty(width, np.int32), np.empty(width, np.int32)
    near_x, near_y = np.empty(width, np.int32), np.empty(width, np.int32)
    corner, right = np.empty(width, np.uint32), np.empty(width, np.uint32)
    below, across = np.empty(width, np.uint32), np.empty(width, np.uint32)
    whole = _is_whole(affine)
    for y in range(height):
        # separate simple loops: all are vectorised but the one that gathers pixels
        start_x, start_y = row_x[y] - low_x * ONE, row_y[y] - low_y * ONE
        target = canvas[top + y, left : left + width]
        for x in range(width):
            at_x, at_y = np.int32(start_x + step_x[x]), np.int32(start_y + step_y[x])
            low_at_x, low_at_y = np.int32(at_x + TO_STEP), np.int32(at_y + TO_STEP)
            pixel_x, pixel_y = low_at_x >> ONE_BITS, low_at_y >> ONE_BITS
            offset[x] = pixel_y * pitch + pixel_x
            part_x[x] = (low_at_x >> (ONE_BITS - STEP_BITS)) & (STEP - 1)
            part_y[x] = (low_at_y >> (ONE_BITS - STEP_BITS)) & (STEP - 1)
            near_x[x] = ((at_x + TO_PIXEL) >> ONE_BITS) - pixel_x
            near_y[x] = ((at_y + TO_PIXEL) >> ONE_BITS) - pixel_y
        if whole:
            for x in range(width):
                target[x] = source[np.uint64(offset[x])]
            continue
        for x in range(width):
            at = np.uint64(offset[x])
            corner[x] = source[at]
            right[x] = source[at + one]
            below[x] = source[at + down]
            across[x] = source[at + down + one]
        for x in range(width):
            fx, fy = np.float32(part_x[x]), np.float32(part_y[x])
            gx, gy = np.float32(STEP) - fx, np.float32(STEP) - fy
            a, b, c, d = gx * gy, fx * gy, gx * fy, fx * fy
            p, q, r, s = corner[x], right[x], below[x], across[x]
            red = _blend(p, q, r, s, 0, a, b, c, d)
            green = _blend(p, q, r, s, 8, a, b, c, d)
            blue = _blend(p, q, r, s, 16, a, b, c, d)
            upper = q if near_x[x] else p
            lower = s if near_x[x] else r
            nearest = lower if near_y[x] else upper
            target[x] = red | (green << 8) | (blue << 16) | (nearest & 0xFF000000)


@njit(nogil=True, cache=True, inline="always")
def _blend(p, q, r, s, shift, a, b, c, d):  # type: ignore[no-untyped-def]
    """Return the exact weighted mean of one channel of four packed pixels; sums are at most 255 * 1024 + 512."""
    total = (
        np.float32(np.int32((p >> shift) & 255)) * a
        + np.float32(np.int32((q >> shift) & 255)) * b
        + np.float32(np.int32((r >> shift) & 255)) * c
        + np.float32(np.int32((s >> shift) & 255)) * d
    )
    return np.uint32(np.int32(total + np.float32(ONE >> 1)) >> ONE_BITS)


@njit(nogil=True, cache=True)
def _is_whole(affine):  # type: ignore[no-untyped-def]
    """Return whether a map, such as a flip, a shift or a quarter turn, takes whole pixels to whole pixels."""
    for row in range(2):
        for column in range(3):
            if affine[row, column] != np.rint(affine[row, column]):
                return False
    return True


@njit(nogil=True, cache=True)
def bounds(rows, steps):  # type: ignore[no-untyped-def]
    """Return the first and the last source pixel that a quadrant needs along one axis."""
    low = min(rows[0], rows[-1]) + min(steps[0], steps[-1])
    high = max(rows[0], rows[-1]) + max(steps[0], steps[-1])
    return (low + TO_STEP) >> ONE_BITS, ((high + TO_STEP) >> ONE_BITS) + 1


@njit(nogil=True, cache=True)
def reflect(index, size):  # type: ignore[no-untyped-def]
    """Bring an index into [0, size) by reflection that does not repeat the edge."""
    if 0 <= index < size:
        return index
    if size == 1:
        return 0
    period = 2 * (size - 1)
    index %= period
    return index if index < size else period - index


@njit(nogil=True, cache=True)
def _assemble(target, pitch, low_y, low_x, bank, tiles, tile, grid):  # type: ignore[no-untyped-def]
    """Copy the part of a reflected grid image that begins at (low_y, low_x) into `target`, run by run."""
    tile_height, tile_width = tile
    columns, lengths, tile_columns = _runs(pitch, low_x, tile_width, grid[1])
    for row in range(target.size // pitch):
        y = reflect(low_y + row, tile_height * grid[0])
        tile_row = y // tile_height
        y -= tile_row * tile_height
        at = row * pitch
        for number in range(columns.size):
            start, height, width, crop_y, crop_x = tiles[tile_row * grid[1] + tile_columns[number]]
            x, length = columns[number], abs(lengths[number])
            forward = lengths[number] > 0
            run = target[at : at + length]
            at += length
            if height >= tile_height and width >= tile_width:
                origin = start + (crop_y + y) * width + crop_x + x
                if forward:
                    _copy(run, bank[origin : origin + length])
                else:
                    _copy_backwards(run, bank[origin - length + 1 : origin + 1])
            else:
                up, back = max(tile_height - height, 0) // 2, max(tile_width - width, 0) // 2
                base = start + reflect(crop_y + y - up, height) * width
                sign = 1 if forward else -1
                for n in range(length):
                    run[n] = bank[base + reflect(crop_x + x - back + sign * n, width)]


@njit(nogil=True, cache=True)
def _runs(pitch, low_x, tile_width, count):  # type: ignore[no-untyped-def]
    """Cut `pitch` columns of a reflected row of `count` tiles into runs that stay in one tile and one direction.

    Returns
    -------
    columns, lengths, tile_columns : (R,) int64
        For each run: its first column in its tile; its length, negative if it runs backwards; the tile's column.
    """
    columns, lengths, tile_columns = np.empty(pitch, np.int64), np.empty(pitch, np.int64), np.empty(pitch, np.int64)
    full_width = tile_width * count
    period = max(2 * (full_width - 1), 1)
    done = number = 0
    while done < pitch:
        x = (low_x + done) % period
        forward = x < full_width
        if not forward:
            x = period - x
        edge = x // tile_width * tile_width
        # to the end of the tile; a backward run stops before column 0, where the next forward run begins
        length = min(pitch - done, edge + tile_width - x if forward else x - max(edge, 1) + 1)
        columns[number], lengths[number] = x - edge, length if forward else -length
        tile_columns[number] = edge // tile_width
        done += length
        number += 1
    return columns[:number], lengths[:number], tile_columns[:number]


@njit(nogil=True, cache=True)
def _copy(target, source):  # type: ignore[no-untyped-def]
    for n in range(target.size):
        target[n] = source[n]


@njit(nogil=True, cache=True)
def _copy_backwards(target, source):  # type: ignore[no-untyped-def]
    for n in range(target.size):
        target[target.size - 1 - n] = source[n]


@njit(nogil=True, cache=True)
def outline(corners, edgy, radius, bernstein, height, width):  # type: ignore[no-untyped-def]
    """Return x and y of the closed curve's points, in pixels, by the same terms as `reference.outline`."""
    count, samples = len(corners), bernstein.shape[1]
    angles, lengths = np.empty(count), np.empty(count)
    for n in range(count):
        after = (n + 1) % count
        x, y = corners[after, 0] - corners[n, 0], corners[after, 1] - corners[n, 1]
        angles[n], lengths[n] = math.atan2(y, x), radius * math.hypot(x, y)
    weight = math.atan(edgy) / math.pi + 0.5
    cosines, sines = np.empty(count), np.empty(count)
    for n in range(count):
        turn = (angles[n] - angles[n - 1] + math.pi) % (2 * math.pi) - math.pi
        tangent = angles[n - 1] + weight * turn
        cosines[n], sines[n] = math.cos(tangent), math.sin(tangent)
    xs, ys = np.empty(count * samples), np.empty(count * samples)
    for n in range(count):
        after = (n + 1) % count
        from_x, from_y, to_x, to_y = corners[n, 0], corners[n, 1], corners[after, 0], corners[after, 1]
        out_x, out_y = from_x + lengths[n] * cosines[n], from_y + lengths[n] * sines[n]
        in_x, in_y = to_x - lengths[n] * cosines[after], to_y - lengths[n] * sines[after]
        for k in range(samples):
            a, b, c, d = bernstein[0, k], bernstein[1, k], bernstein[2, k], bernstein[3, k]
            xs[n * samples + k] = (((from_x * a + out_x * b) + in_x * c) + to_x * d) * width
            ys[n * samples + k] = (((from_y * a + out_y * b) + in_y * c) + to_y * d) * height
    return xs, ys


@njit(nogil=True, cache=True)
def crossings(xs, ys, height, width):  # type: ignore[no-untyped-def]
    """Find where a closed curve crosses the rows of pixel centres.

    Returns
    -------
    first : (H + 1,) int64
        Index of each row's first crossing in `columns`.
    columns : (K,) int64
        For each crossing, the first pixel whose centre is not left of it; ascending along a row.
    """
    rows = np.empty(xs.size + 1, np.int64)  # for each point, the first row whose centre is not above it
    for n in range(xs.size):
        rows[n + 1] = min(max(math.ceil(ys[n] - 0.5), 0), height)
    rows[0] = rows[xs.size]
    first = np.zeros(height + 1, np.int64)
    for n in range(xs.size):
        for row in range(min(rows[n], rows[n + 1]), max(rows[n], rows[n + 1])):
            first[row + 1] += 1
    for row in range(height):
        first[row + 1] += first[row]
    filled = first[:-1].copy()
    columns = np.empty(first[-1], np.int64)
    for n in range(xs.size):
        x, y = xs[n - 1], ys[n - 1]
        for row in range(min(rows[n], rows[n + 1]), max(rows[n], rows[n + 1])):
            at = x + (row + 0.5 - y) * (xs[n] - x) / (ys[n] - y)
            column = min(max(math.ceil(at - 0.5), 0), width)
            index = filled[row]
            while index > first[row] and columns[index - 1] > column:
                columns[index] = columns[index - 1]
                index -= 1
            columns[index] = column
            filled[row] += 1
    return first, columns
