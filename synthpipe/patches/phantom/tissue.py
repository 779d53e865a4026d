"""Procedural H&E-like lung tissue with its mask: tumour, stroma, normal alveoli, and glass around them.

Pixels follow the Beer-Lambert law: maps of haematoxylin and eosin are mixed by the slide's own stain vectors. The three
classes have the same colours but different textures. As in `fields`, no operation has a result that depends on the
machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import ConfigError
from synthpipe.core.records import Image, Mask
from synthpipe.patches.phantom.fields import Field, grain, smooth_field, strands
from synthpipe.patches.phantom.nuclei import (
    CODES,
    Nucleus,
    Points,
    across,
    any_way,
    at,
    draw_nuclei,
    scatter,
    stain_nuclei,
)

TUMOUR, STROMA, NORMAL, GLASS = range(4)

# Optical densities (red, green, blue) of pure haematoxylin and eosin, and their largest deviation on a slide.
HAEMATOXYLIN, EOSIN = (0.54, 0.75, 0.38), (0.20, 0.86, 0.46)
STAIN_JITTER = 0.07

# Nuclei that look the same on every slide, and the haematoxylin and eosin of septa.
SPINDLE = Nucleus(radius=(1.4, 2.3), elongation=(2.6, 4.5), haematoxylin=(0.7, 1.15))
LYMPHOCYTE = Nucleus(radius=(2.3, 3.0), elongation=(1, 1.2), haematoxylin=(0.95, 1.3), ragged=0.1)
PNEUMOCYTE = Nucleus(radius=(1.5, 2.3), elongation=(1.1, 1.9), haematoxylin=(0.65, 1.1))
MACROPHAGE = Nucleus(radius=(3.2, 4.5), elongation=(1, 1.2), haematoxylin=(0.4, 0.6))
MACROPHAGE_NUCLEUS = Nucleus(radius=(1.6, 2.2), elongation=(1, 1.2), haematoxylin=(0.7, 1.0))
SEPTUM = (0.27, 0.62)

SMALLEST = 48
"""Shortest side of a slide, in pixels. A smaller slide may hold no complete alveolus."""


@dataclass(frozen=True, slots=True)
class Habit:
    """Appearance of one slide, drawn once per slide. Lengths are in pixels, concentrations in optical density.

    Attributes
    ----------
    haematoxylin, eosin : tuple of float
        Optical density of a unit of the stain in red, green and blue.
    white : float
        Level of bare glass, 0-255.
    blur : float
        Standard deviation of the lens's blur.
    spacing, chromatin : float
        Distance between neighbouring tumour nuclei; haematoxylin of the nuclei.
    cytoplasm : tuple of float
        Haematoxylin and eosin between tumour nuclei.
    period, slant : float
        Width of a stromal fibre; direction of the fibres in radians.
    matrix : tuple of float
        Haematoxylin and eosin of stromal fibres.
    alveolus, septum, flooded, haze : float
        Distance between neighbouring alveoli; thickness of their septa (0-1); share of alveoli with fluid; eosin in
        the air of the others.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    white: float
    blur: float
    spacing: float
    chromatin: float
    cytoplasm: tuple[float, float]
    period: float
    slant: float
    matrix: tuple[float, float]
    alveolus: float
    septum: float
    flooded: float
    haze: float


def render_slide(seed: int, slide: int, height: int, width: int, territory: float = 220.0) -> tuple[Image, Mask]:
    """Render one slide. Equal arguments give equal bytes on every machine with the same version of OpenCV.

    Parameters
    ----------
    seed, slide : int
        Key of the random numbers, each 0 to 2**64 - 1. Slides differ in stain, tissue habit and layout.
    height, width : int
        Size in pixels.
    territory : float
        Approximate width of an area of one class, in pixels. It does not change the scale of textures.

    Returns
    -------
    image : (H, W, 3) uint8
        RGB.
    mask : (H, W) uint8
        0 tumour, 1 stroma, 2 normal (including the air in alveoli), 3 glass outside the tissue.

    Raises
    ------
    ConfigError
        A side is too short to hold an alveolus.
    """
    if min(height, width) < SMALLEST:
        raise ConfigError(f"a phantom slide of {height} x {width} pixels: each side must be at least {SMALLEST}")
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, slide], dtype=np.uint64)))
    habit = _draw_habit(rng)
    mask = _lay_out(rng, height, width, territory)
    layers = [_tumour(rng, habit, mask), _stroma(rng, habit, mask), _normal(rng, habit, mask)]
    blue, pink = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
    for index, (haematoxylin, eosin) in enumerate(layers):
        np.copyto(blue, haematoxylin, where=mask == index)
        np.copyto(pink, eosin, where=mask == index)
    hue, depth = (smooth_field(rng, mask.shape, territory * share) for share in (0.3, 0.5))
    blue *= np.clip(1 + 0.22 * hue + 0.16 * depth, 0.4, 1.8)
    pink *= np.clip(1 - 0.20 * hue + 0.16 * depth, 0.4, 1.8)
    return _stain(rng, habit, blue, pink), mask


def _draw_habit(rng: np.random.Generator) -> Habit:
    def vector(pure: tuple[float, float, float], strength: float) -> tuple[float, float, float]:
        red, green, blue = (density + rng.uniform(-STAIN_JITTER, STAIN_JITTER) for density in pure)
        length = math.sqrt(red * red + green * green + blue * blue)
        return (strength * red / length, strength * green / length, strength * blue / length)

    return Habit(
        haematoxylin=vector(HAEMATOXYLIN, rng.uniform(0.85, 1.25)),
        eosin=vector(EOSIN, rng.uniform(0.75, 1.2)),
        white=rng.uniform(238, 251),
        blur=rng.uniform(0.55, 0.9),
        spacing=rng.uniform(10.5, 13.5),
        chromatin=rng.uniform(0.6, 0.95),
        cytoplasm=(rng.uniform(0.08, 0.24), rng.uniform(0.45, 0.75)),
        period=rng.uniform(5.0, 8.0),
        slant=rng.uniform(0, math.pi),
        matrix=(rng.uniform(0.16, 0.42), rng.uniform(0.45, 0.75)),
        alveolus=rng.uniform(27, 36),
        septum=rng.uniform(0.3, 0.7),
        flooded=rng.uniform(0.25, 0.6),
        haze=rng.uniform(0.02, 0.12),
    )


def _lay_out(rng: np.random.Generator, height: int, width: int, territory: float) -> Mask:
    """Return the class of each pixel. The largest of three fields decides inside the tissue; outside is glass."""
    shape = (height, width)
    octaves = ((1.0, 1.0), (0.4, 0.3), (0.13, 0.1), (0.05, 0.03))
    scores = []
    for _ in range(3):
        score = np.zeros(shape, np.float32)
        for amplitude, share in octaves:
            score += np.float32(amplitude) * smooth_field(rng, shape, max(4.0, territory * share * 0.7))
        # Centre the field, so that no slide lacks a class. The sum of integers does not depend on their order.
        thousandths = int((score * 1000).astype(np.int64).sum())
        scores.append(score - np.float32(thousandths / (1000 * height * width)))
    mask = np.where(scores[0] > scores[1], TUMOUR, STROMA).astype(np.uint8)
    mask[scores[2] > np.maximum(scores[0], scores[1])] = NORMAL
    angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.72, 1.25)
    rightward = (np.arange(width) * (2 / width) - 1) * math.cos(angle)
    downward = (np.arange(height) * (2 / height) - 1) * math.sin(angle)
    outward = (downward[:, None] + rightward[None, :]).astype(np.float32)
    ragged = smooth_field(rng, shape, territory * 0.5) + 0.4 * smooth_field(rng, shape, territory * 0.12)
    mask[outward + 0.13 * ragged > reach] = GLASS
    return mask


def _tumour(rng: np.random.Generator, habit: Habit, mask: Mask) -> tuple[Field, Field]:
    """Return haematoxylin and eosin of tumour: sheets of crowded, irregular nuclei with coarse chromatin."""
    shape = mask.shape
    points = scatter(rng, shape, habit.spacing, 0.32)
    crowded = at(smooth_field(rng, shape, 45.0), points) * 0.22 + rng.random(len(points)) > 0.02
    points = points[(at(mask, points) == TUMOUR) & crowded]
    kind = Nucleus(
        radius=(habit.spacing * 0.27, habit.spacing * 0.44),
        elongation=(1, 1.6),
        haematoxylin=(habit.chromatin * 0.75, habit.chromatin * 1.2),
        ragged=0.3,
        vesicular=True,
    )
    nuclei = np.zeros(shape, np.uint8)
    draw_nuclei(rng, nuclei, kind, points, any_way(rng, points))
    specks, clouds = grain(rng, shape, 1.1), grain(rng, shape, 2.2)
    ground, eosin = habit.cytoplasm[0] * (1 + 0.3 * clouds), habit.cytoplasm[1] * (1 + 0.16 * clouds)
    blue, pink = stain_nuclei(nuclei, ground, eosin, specks, 0.28)
    lumen = smooth_field(rng, shape, 20.0) + 0.3 * smooth_field(rng, shape, 6.0) > 2.0
    return _hollow(blue, pink, lumen & (nuclei < 30))


def _stroma(rng: np.random.Generator, habit: Habit, mask: Mask) -> tuple[Field, Field]:
    """Return haematoxylin and eosin of stroma: wavy fibres with clefts, spindle nuclei and some lymphocytes."""
    shape = mask.shape
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    athwart = (y * math.cos(habit.slant) + x * math.sin(habit.slant)).astype(np.float32)
    for scale, amplitude in ((90.0, 24.0), (30.0, 4.5), (11.0, 1.0)):
        athwart += np.float32(amplitude) * smooth_field(rng, shape, scale)
    along = (x * math.cos(habit.slant) - y * math.sin(habit.slant)).astype(np.float32)
    along += 8 * smooth_field(rng, shape, 40.0)
    bundles = strands(rng, athwart / np.float32(habit.period), along / np.float32(28))
    fibrils = strands(rng, athwart / np.float32(habit.period / 2.7), along / np.float32(14))
    fibres = 0.6 * bundles + 0.4 * fibrils

    nuclei = np.zeros(shape, np.uint8)
    points = scatter(rng, shape, 15.0, 0.45)
    cellular = at(smooth_field(rng, shape, 60.0), points) * 0.2 + rng.random(len(points)) > 0.45
    points = points[(at(mask, points) == STROMA) & cellular]
    here = at(athwart, points)
    slope = np.stack([at(athwart, points + step) - here for step in ((1, 0), (0, 1))], axis=-1).astype(np.float64)
    draw_nuclei(rng, nuclei, SPINDLE, points, across(slope))
    points = scatter(rng, shape, 7.5, 0.3)
    inflamed = at(smooth_field(rng, shape, 24.0), points) > 1.75
    points = points[(at(mask, points) == STROMA) & inflamed]
    draw_nuclei(rng, nuclei, LYMPHOCYTE, points, any_way(rng, points))

    specks = grain(rng, shape, 1.0)
    ground = habit.matrix[0] * (1 + 0.3 * fibres + 0.12 * specks)
    blue, pink = stain_nuclei(nuclei, ground, habit.matrix[1] * (1 + 0.34 * fibres + 0.1 * specks), specks, 0.12)
    cleft = bundles + 0.3 * fibrils + 0.45 * smooth_field(rng, shape, 30.0) < -1.75
    return _hollow(blue, pink, cleft & (nuclei < 30))


def _normal(rng: np.random.Generator, habit: Habit, mask: Mask) -> tuple[Field, Field]:
    """Return haematoxylin and eosin of normal lung: septa with small nuclei, and airy, flooded or collapsed alveoli."""
    shape = mask.shape
    alveolus, centres, joined = _alveoli(rng, habit, shape)
    walls = _walls(alveolus, joined)
    collapse = smooth_field(rng, shape, 50.0)
    thickness = np.clip(1 + 0.5 * collapse + 0.25 * smooth_field(rng, shape, 7.0), 0.85, 2.5)
    septum = walls * thickness > 34 - 22 * habit.septum
    septum |= collapse + 0.35 * smooth_field(rng, shape, 9.0) > 2.1 - habit.septum

    nuclei, cells = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    points = scatter(rng, shape, 7.5, 0.4)
    points = points[(at(mask, points) == NORMAL) & at(septum, points) & (rng.random(len(points)) < 0.6)]
    draw_nuclei(rng, nuclei, PNEUMOCYTE, points, across(points - centres[at(alveolus, points)]))
    points = scatter(rng, shape, 13.0, 0.45)
    airy = (at(mask, points) == NORMAL) & (at(walls, points) < 2) & ~at(septum, points)
    points = points[airy & (rng.random(len(points)) < 0.3)]
    for canvas, kind in ((cells, MACROPHAGE), (nuclei, MACROPHAGE_NUCLEUS)):
        draw_nuclei(rng, canvas, kind, points, any_way(rng, points))

    specks = grain(rng, shape, 1.3)
    flooded = ~joined & (rng.random(len(joined)) < habit.flooded)
    fluid = np.where(flooded, rng.uniform(0.15, 0.6, len(joined)), habit.haze).astype(np.float32)
    filling = np.maximum(fluid[alveolus], cells / np.float32(CODES))
    ground = np.where(septum, np.float32(SEPTUM[0]), filling * np.float32(0.45)) * (1 + 0.2 * specks)
    eosin = np.where(septum, np.float32(SEPTUM[1]), filling) * (1 + 0.14 * specks)
    return stain_nuclei(nuclei, ground, eosin, specks, 0.12)


def _alveoli(
    rng: np.random.Generator, habit: Habit, shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], Points, NDArray[np.bool_]]:
    """Return the alveolus of each pixel, the centre of each alveolus, and whether each alveolus is open.

    Two open neighbours have no wall between them.
    """
    sites = scatter(rng, shape, habit.alveolus, 0.38)
    seeds = np.full(shape, 255, np.uint8)
    rows, columns = sites.astype(np.intp).T
    seeds[rows, columns] = 0
    nearest = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    centres = np.zeros((int(nearest.max()) + 1, 2))
    centres[nearest[rows, columns]] = sites
    sway = np.float32(habit.alveolus * 0.07)
    y, x = (np.arange(length).reshape(form) for length, form in zip(shape, ((-1, 1), (1, -1)), strict=True))
    y, x = (index + sway * smooth_field(rng, shape, habit.alveolus * 0.45) for index in (y, x))
    y, x = (np.clip(index, 0, length - 1).astype(np.intp) for index, length in zip((y, x), shape, strict=True))
    return nearest[y, x].astype(np.intp), centres, rng.random(len(centres)) < 0.3


def _walls(alveolus: NDArray[np.intp], joined: NDArray[np.bool_]) -> Field:
    """Return the nearness of each pixel to a wall between alveoli, 0-255. Open neighbours have no wall."""
    opens = joined[alveolus]
    walls = np.zeros(alveolus.shape, np.uint8)
    for here, there in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
        walls[here][(alveolus[here] != alveolus[there]) & ~(opens[here] & opens[there])] = 255
    return cv2.GaussianBlur(walls, (0, 0), 2.6).astype(np.float32)


def _hollow(haematoxylin: Field, eosin: Field, where: NDArray[np.bool_]) -> tuple[Field, Field]:
    """Remove both stains at tears and lumens."""
    haematoxylin[where], eosin[where] = 0.02, 0.06
    return haematoxylin, eosin


def _stain(rng: np.random.Generator, habit: Habit, haematoxylin: Field, eosin: Field) -> Image:
    """Mix the stains by the Beer-Lambert law, then add lens blur, uneven light and camera noise."""
    shape = haematoxylin.shape
    blue, pink = (
        cv2.GaussianBlur(np.clip(field * CODES, 0, 255).astype(np.uint8), (0, 0), habit.blur).astype(np.int32)
        for field in (haematoxylin, eosin)
    )
    light = (smooth_field(rng, shape, 300.0) * 10).astype(np.int32)
    # Densities are integers in thousandths, so the law is a table look-up.
    table = np.array([round(habit.white * math.exp(-density / 1000)) for density in range(8192)], np.int16)
    noise = rng.integers(-3, 4, (*shape, 3), dtype=np.int16)
    image = np.empty((*shape, 3), np.uint8)
    for channel in range(3):
        by_blue, by_pink = (round(stain[channel] * 1000 / CODES * 1024) for stain in (habit.haematoxylin, habit.eosin))
        density = ((blue * by_blue + pink * by_pink) >> 10) + light
        image[..., channel] = np.clip(table[np.clip(density, 0, len(table) - 1)] + noise[..., channel], 0, 255)
    return image
