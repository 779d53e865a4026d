"""Augment training images and their masks (method section 4): flips, crop, shift, scale, rotation and distortion.

One map combines all of them: it maps each pixel of the result to a position in the source. So pixels are interpolated
only once, on the network's device. Where the map leaves the source, the image is reflected and the mask gets the ignore
index, so no loss counts the borders that a transform opens.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from synthpipe.segment.settings import AugmentationSection

Views = NDArray[np.float32]
"""(N, 7) float32: transforms of N images. A row has the six numbers of an affine map, row by row, and a distortion k.

The map takes positions (x, y) in the result to positions (x, y) in the source. Both are measured from the centre in
units of half the width and height, so -1 and 1 are the borders. Before the map, a position p is moved to
``p * (1 + k r^2 + k r^4)``, where r is its distance from the centre in units of the width and height.
"""

IDENTITY = np.array([1, 0, 0, 0, 1, 0, 0], np.float32)


def draw_view(rng: np.random.Generator, settings: AugmentationSection, size: tuple[int, int]) -> Views:
    """Draw a random transform for an image of `size` (height, width): (7,) float32, a row of `Views`."""
    u = rng.random(14)
    signed = 2 * u - 1
    height, width = size
    # half the width and height in pixels: rotation must happen in pixels, because the units of `Views` are not square
    units = np.diag([width / 2, height / 2, 1.0])
    turn = np.eye(3)
    if u[0] < settings.affine:
        angle = np.deg2rad(settings.rotation) * signed[1]
        zoom = 1 + settings.scale * signed[2]
        cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
        shift = 2 * settings.shift * signed[3:5]
        turn = np.linalg.inv(units) @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ units
        turn = turn @ np.array([[1, 0, -shift[0]], [0, 1, -shift[1]], [0, 0, 1]])
    low, high = settings.crop
    side = np.sqrt(low + (high - low) * u[5])
    flips = np.where(u[6:8] < settings.flip, -1.0, 1.0)
    crop = np.array([[side, 0, (1 - side) * signed[8]], [0, side, (1 - side) * signed[9]], [0, 0, 1]])
    view = turn @ crop @ np.diag([*flips, 1.0])
    distortion = settings.distortion * signed[11] if u[10] < settings.distort else 0.0
    return np.array([*view[:2].ravel(), distortion], np.float32)


def apply_views(images: Tensor, masks: Tensor, views: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """Return the images and masks, transformed by `views`.

    Parameters
    ----------
    images : (N, 3, H, W) uint8 or float
        Values from 0 to 255.
    masks : (N, H, W) uint8
        Class indices.
    views : (N, 7) float32
        See `Views`.
    ignore : int
        The mask value where a view leaves the source.

    Returns
    -------
    images : (N, 3, H, W) float32
        Interpolated bilinearly; reflected beyond the borders.
    masks : (N, H, W) uint8
        Class indices of the nearest pixels, or `ignore` beyond the borders.
    """
    height, width = images.shape[-2:]
    y = (torch.arange(height, device=images.device) * 2 + 1) / height - 1
    x = (torch.arange(width, device=images.device) * 2 + 1) / width - 1
    grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1)  # (H, W, 2)
    radius = (grid**2).sum(-1) / 4
    factor = 1 + views[:, 6, None, None] * (radius + radius**2)
    affine = views[:, :6].view(-1, 2, 3)
    points = torch.einsum("nij,nhwj->nhwi", affine[..., :2], grid * factor[..., None]) + affine[:, None, None, :, 2]
    seen = grid_sample(images.float(), points, mode="bilinear", padding_mode="reflection", align_corners=False)
    labels = grid_sample(masks[:, None].float(), points, mode="nearest", padding_mode="border", align_corners=False)
    outside = (points.abs() > 1).any(-1)
    return seen, labels[:, 0].to(torch.uint8).masked_fill_(outside, ignore)
