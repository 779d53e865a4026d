"""Simple baselines: render from PNG files, and store each composite as two files, with Pillow and OpenCV calls."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import bezier
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor, from_numpy
from torch.utils.data import Dataset

from benchmarks.reference import control_polygons
from synthpipe.compose.geometry import source_map
from synthpipe.compose.mosaic import quadrant_windows
from synthpipe.core.records import BezierRecipe, Composite, Image, Mask, MosaicRecipe, PatchRef, Recipe


def render_from_files(recipe: Recipe, patches: Mapping[str, PatchRef]) -> Composite:
    """Render a composite from files: decode its donors, transform each whole grid image, blend by arithmetic."""
    if isinstance(recipe, MosaicRecipe):
        return _mosaic(recipe, patches)
    return _bezier(recipe, patches)


def write_files(composite: Composite, directory: Path) -> None:
    """Write a composite as two PNG files."""
    index = composite.recipe.index
    PillowImage.fromarray(composite.image).save(directory / f"{index}.png")
    PillowImage.fromarray(composite.mask).save(directory / f"{index}-mask.png")


def write_durably(path: Path, data: bytes) -> None:
    """Write bytes to a new file and force them to the disk, as for shards."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


class PngDataset(Dataset[tuple[Tensor, Tensor]]):
    """A torch data set of composites in PNG files."""

    def __init__(self, directory: Path, count: int) -> None:
        self._directory, self._count = directory, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = np.array(PillowImage.open(self._directory / f"{index}.png"))
        mask = np.array(PillowImage.open(self._directory / f"{index}-mask.png"))
        return from_numpy(image).permute(2, 0, 1), from_numpy(mask)


def _decode(patch: PatchRef) -> Image:
    with PillowImage.open(patch.path) as file:
        return np.array(file.convert("RGB"))


def _mosaic(recipe: MosaicRecipe, patches: Mapping[str, PatchRef]) -> Composite:
    image, mask = np.zeros((*recipe.canvas, 3), np.uint8), np.zeros(recipe.canvas, np.uint8)
    height, width = recipe.tile
    for quadrant, (top, left, tall, wide) in zip(
        recipe.quadrants, quadrant_windows(recipe.split, recipe.canvas), strict=True
    ):
        rows, label_rows = [], []
        for row in range(recipe.grid[0]):
            crops = quadrant.tiles[row * recipe.grid[1] : (row + 1) * recipe.grid[1]]
            rows.append([_decode(patches[c.patch])[c.y : c.y + height, c.x : c.x + width] for c in crops])
            label_rows.append([np.full((height, width), patches[c.patch].classes[0], np.uint8) for c in crops])
        grid = np.concatenate([np.concatenate(row, axis=1) for row in rows])
        labels = np.concatenate([np.concatenate(row, axis=1) for row in label_rows])
        whole = source_map(labels.shape, quadrant.flip, quadrant.warp, 0, 0)
        size, flags = labels.shape[::-1], cv2.WARP_INVERSE_MAP
        grid = cv2.warpAffine(grid, whole, size, flags=flags | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        labels = cv2.warpAffine(labels, whole, size, flags=flags | cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
        window = np.s_[quadrant.y : quadrant.y + tall, quadrant.x : quadrant.x + wide]
        image[top : top + tall, left : left + wide] = grid[window]
        mask[top : top + tall, left : left + wide] = labels[window]
    return Composite(recipe, image, mask)


def _bezier(recipe: BezierRecipe, patches: Mapping[str, PatchRef]) -> Composite:
    height, width = recipe.canvas
    back, front = (_fitted(patches[patch], recipe.canvas) for patch in (recipe.background, recipe.foreground))
    at = np.linspace(0.0, 1.0, recipe.samples)
    segments = control_polygons(np.array(recipe.points), recipe.edgy, recipe.radius)
    curve = np.concatenate([bezier.Curve(each.T, degree=3).evaluate_multi(at).T for each in segments])
    inside: NDArray[np.uint8] = np.zeros(recipe.canvas, np.uint8)
    cv2.fillPoly(inside, [np.rint(curve * (width, height)).astype(np.int32)], 1)
    labels = [patches[patch].classes[0] for patch in (recipe.background, recipe.foreground)]
    image = back * (1 - inside)[..., None] + front * inside[..., None]
    mask: Mask = (labels[0] * (1 - inside) + labels[1] * inside).astype(np.uint8)
    return Composite(recipe, image, mask)


def _fitted(patch: PatchRef, size: tuple[int, int]) -> Image:
    return np.asarray(cv2.resize(_decode(patch), size[::-1]))
