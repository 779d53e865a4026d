"""Measure the pixels of one patch: sharpness, glass, pen marks, folds, colour and texture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from synthpipe.config.pipeline import GlassSection
from synthpipe.core.records import Image
from synthpipe.patches.glass import glass_mask

THUMBNAIL = 32
"""Height and width of a thumbnail in pixels."""
FEATURES = 140
"""Number of features of colour and texture."""
_REBLUR = 2.0  # standard deviation in pixels; this blur changes a patch that is out of focus only a little
_ROUNDING = 20 / 12  # variance of the Laplacian of rounding errors; the Laplacian's squared weights sum to 20
_FOLD_EXCESS = 0.2  # saturation minus value of a fold, after smoothing
_FOLD_SIZE = 32  # the smoothing's standard deviation is the patch's height divided by this
_PERCENTILES = (5, 25, 50, 75, 95)
_SCALES = (1, 2, 4, 8, 16)  # standard deviations in pixels
_RADII = (1, 2, 4)  # of the local patterns, in pixels
_RIM = 5
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Absorption of red, green and blue by haematoxylin, eosin and DAB (Ruifrok and Johnston 2001)."""

Floats = NDArray[np.float32]
Plane = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class PatchMeasures:
    """The measures of one patch.

    Attributes
    ----------
    variance : float
        Variance of the Laplacian of the grey levels.
    fineness : float
        `variance` without the part of rounding errors, divided by the variance after a Gaussian blur.
    glass, pen, fold : float
        Shares of the pixels, 0-1.
    thumbnail : (32, 32, 3) uint8
        The whole patch in RGB.
    features : (F,) float32
        Features of colour and texture.
    """

    variance: float
    fineness: float
    glass: float
    pen: float
    fold: float
    thumbnail: Image
    features: Floats


def measure(image: Image, glass: GlassSection) -> PatchMeasures:
    """Return the measures of a patch, (H, W, 3) uint8 RGB. `glass` has the settings of glass detection."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    variance = _laplacian_variance(grey)
    coarse = _laplacian_variance(cv2.GaussianBlur(grey, (0, 0), _REBLUR))
    return PatchMeasures(
        variance,
        max(variance - _ROUNDING, 0.0) / (coarse + 0.01),
        float(glass_mask(image, glass).mean()),
        pen_share(image),
        fold_share(image),
        thumbnail(image),
        np.fromiter(_features(image), np.float32),
    )


def thumbnail(image: Image) -> Image:
    """Return a whole patch as (32, 32, 3) uint8."""
    return np.asarray(cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.uint8)


def pen_share(image: Image) -> float:
    """Return the share of pixels with the colour of green, blue or black ink. Single pixels do not count.

    Hue is in degrees; saturation and value are in 0-255. Green has a hue of 70-170 and saturation from 60. Blue has a
    hue of 171-230 and saturation from 110. Black has a value up to 50 and saturation up to 110. Red ink is not
    detected, because blood has the same colour.
    """
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))  # hue in steps of two degrees
    green = (hue >= 35) & (hue <= 85) & (saturation >= 60)
    blue = (hue > 85) & (hue <= 115) & (saturation >= 110)
    black = (value <= 50) & (saturation <= 110)
    ink = (green | blue | black).astype(np.uint8)
    return float(cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)).mean())


def fold_share(image: Image) -> float:
    """Return the share of pixels in areas that are more saturated than bright, such as folded tissue.

    Saturation minus value, both in 0-1, must be above 0.2. This difference is smoothed first, so that single dark
    nuclei do not count.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32) / 255
    excess = cv2.GaussianBlur(hsv[..., 1] - hsv[..., 2], (0, 0), max(1.0, len(image) / _FOLD_SIZE))
    return float((excess > _FOLD_EXCESS).mean())


def _laplacian_variance(grey: Plane) -> float:
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _features(image: Image) -> Iterator[float]:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    directions = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    density = -np.log((image.astype(np.float64) + 1) / 256)
    stains = (density @ np.linalg.inv(directions)).astype(np.float32)
    planes = [np.ascontiguousarray(each) for each in (*np.moveaxis(lab, -1, 0), stains[..., 0], stains[..., 1])]
    for plane in planes:
        yield from (plane.mean(), plane.std(), *np.percentile(plane, _PERCENTILES))
    for plane in (planes[0], planes[3], planes[4]):
        yield from _scale_features(plane)
    for radius in _RADII:
        yield from _pattern_shares(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), radius)


def _scale_features(plane: Plane) -> Iterator[float]:
    """Yield five features per scale: three of the detail, then the gradient's coherence and its log strength."""
    finer = plane
    for scale in _SCALES:
        blurred = cv2.GaussianBlur(plane, (0, 0), scale)
        detail, finer = finer - blurred, blurred
        deviation = float(detail.std())
        yield from (np.log(deviation + 1e-3), np.log(np.abs(detail).mean() + 1e-3))
        yield float((detail**3).mean()) / (deviation + 1e-3) ** 3
        right, down = cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1)
        products = (right * right, down * down, right * down)
        first, second, mixed = (cv2.GaussianBlur(each, (0, 0), 2 * scale) for each in products)
        energy = first + second
        yield float((np.sqrt((first - second) ** 2 + 4 * mixed**2) / (energy + 1e-6)).mean())
        yield float(np.log(np.sqrt(energy).mean() + 1e-3))


def _pattern_shares(grey: Plane, radius: int) -> Iterator[float]:
    """Yield the square root of the share of each uniform local binary pattern at a radius (Ojala 2002)."""
    smooth = np.pad(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), radius / 2 + 0.1), _RIM, mode="reflect")
    height, width = grey.shape
    angles = np.arange(8) * np.pi / 4
    steps = np.rint(radius * np.stack([np.sin(angles), np.cos(angles)], 1)).astype(int) + _RIM
    centre = smooth[_RIM : _RIM + height, _RIM : _RIM + width]
    bits = np.stack([smooth[y : y + height, x : x + width] >= centre for y, x in steps.tolist()])
    changes = (bits != np.roll(bits, 1, axis=0)).sum(0)
    patterns = np.where(changes <= 2, bits.sum(0), 9)
    yield from np.sqrt(np.bincount(patterns.ravel(), minlength=10) / patterns.size).tolist()
