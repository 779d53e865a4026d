"""Predict pseudo-masks of real patches, for the second stage of training (method section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from synthpipe.config.pipeline import GlassSection
from synthpipe.core.progress import Reporter
from synthpipe.core.records import Image, Mask, PatchRef
from synthpipe.curated import begin_pseudo_labelled, write_pseudo_labelled
from synthpipe.files.locations import Location
from synthpipe.segment.checkpoint import Checkpoint, file_digest
from synthpipe.segment.confidence import Confidence, fit_confidence
from synthpipe.segment.settings import WindowSection
from synthpipe.segment.sliding_window import window_probabilities
from synthpipe.segment.sources import RealPatches

_FITTED = 1000  # largest number of patches for fitting `Confidence`
_SIDE = 32  # number of points along the longer side of such a patch


def pseudo_label(
    checkpoint: Path,
    patches: tuple[PatchRef, ...],
    digest: str,
    path: Location,
    device: torch.device,
    batch: int,
    reporter: Reporter,
    glass: GlassSection | None = None,
    share: float | None = None,
) -> int:
    """Predict masks of real patches, store them as a curated set, and return the number of new masks.

    Patches are resized to the canvas. If the canvas is square, probabilities are averaged over its 8 flips and
    rotations. Each pixel gets the most probable class of the patch's label, so all pixels of a patch with a single
    class get this class. Glass gets the background index; with `share`, unsure pixels get it too. A store that was
    begun with the same arguments is resumed.

    Parameters
    ----------
    checkpoint : Path
        Checkpoint of the network.
    patches : tuple of PatchRef
        The patches.
    digest : str
        Digest of the patches' catalog.
    path : Path or UPath
        The store to write.
    device : torch.device
        The device that runs the network.
    batch : int
        Number of images per call of the network; flips count.
    reporter : Reporter
        Reports the progress.
    glass : GlassSection, optional
        Settings of glass detection (`Description.ignored_glass`); by default, no pixel counts as glass.
    share : float, optional
        Share of each class's pixels that keep the class, in patches with several classes. The surest pixels keep it,
        after the classes are balanced (`fit_confidence`). By default, all pixels keep their class.

    Raises
    ------
    StaleRunError
        The store was begun with another checkpoint or with other patches.
    """
    loaded = Checkpoint.load(checkpoint)
    description = replace(loaded.description, glass=glass)
    source = {"checkpoint": file_digest(checkpoint), "patches": digest} | ({"share": str(share)} if share else {})
    missing = begin_pseudo_labelled(path, description, source, patches)
    real = RealPatches(patches, description)
    total = sum(map(len, missing.values()))
    probabilities, background = _network_probabilities(loaded, device, batch), description.taxonomy.background
    confidence = fit_to_patches(real, probabilities, share, batch, reporter) if share and total else None
    with reporter.stage("pseudo-masks", total) as advance:
        for shard, part in missing.items():
            images, masks = _predict_shard(real, part, probabilities, confidence, batch, background, advance)
            write_pseudo_labelled(path, shard, [patches[index] for index in part], images, masks)
    return total


def _predict_shard(
    real: RealPatches,
    part: Sequence[int],
    probabilities: Callable[[Image], NDArray[np.float32]],
    confidence: Confidence | None,
    batch: int,
    background: int,
    advance: Callable[[int], None],
) -> tuple[Image, Mask]:
    """Return the images and masks of a shard of patches; glass has the background index."""
    images, ignored, labels = real.read(part, [])
    masks = np.empty(ignored.shape, np.uint8)
    for start in range(0, len(part), batch):
        some = slice(start, start + batch)
        found = probabilities(images[some])
        if confidence:
            masks[some] = confidence.mask(found, labels[some], background)
        else:
            masks[some] = restrict_to_labels(found, labels[some])
        advance(len(found))
    masks[ignored == background] = background
    return images, masks


def _network_probabilities(
    checkpoint: Checkpoint, device: torch.device, batch: int
) -> Callable[[Image], NDArray[np.float32]]:
    """Return a function that computes (N, C, H, W) probabilities of at most `batch` images, (N, H, W, 3)."""
    network, size, classes = checkpoint.network(device), checkpoint.description.size, checkpoint.description.taxonomy
    windows = WindowSection(size=size, stride=size, flips=size[0] == size[1], batch=batch)

    def probabilities(images: Image) -> NDArray[np.float32]:
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
        found = window_probabilities(
            lambda part: network.segment(part, checkpoint.by_cam), pixels, windows, len(classes)
        )
        predicted: NDArray[np.float32] = found.cpu().numpy()
        return predicted

    return probabilities


def fit_to_patches(
    real: RealPatches,
    probabilities: Callable[[Image], NDArray[np.float32]],
    share: float,
    batch: int,
    reporter: Reporter,
) -> Confidence | None:
    """Fit a `Confidence` to patches with several classes; return None if these patches show no tissue.

    Uses at most 1000 patches, evenly spaced. `probabilities` maps (N, H, W, 3) images to (N, C, H, W) probabilities; N
    is at most `batch`.
    """
    mixed = np.flatnonzero(real.labels.sum(1) > 1)
    # cut, not rounded as in `core.spacing`: the choice decides the bytes of stored masks
    chosen = mixed[np.linspace(0, len(mixed) - 1, min(_FITTED, len(mixed))).astype(int)].tolist()
    if not chosen:
        return None
    found, owners = [], []
    with reporter.stage("confidence", len(chosen)) as advance:
        for start in range(0, len(chosen), batch):
            images, ignored, labels = real.read(chosen[start : start + batch], [])
            step = math.ceil(max(images.shape[1:3]) / _SIDE)
            tissue = ignored[:, ::step, ::step] == 0
            found.append(np.moveaxis(probabilities(images)[:, :, ::step, ::step], 1, -1)[tissue])
            owners.append(labels[tissue.nonzero()[0]])
            advance(len(images))
    points = np.concatenate(found)
    return fit_confidence(points, np.concatenate(owners), share) if len(points) else None


def restrict_to_labels(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> Mask:
    """Return (N, H, W) masks: the most probable class of each pixel among the classes of the image's label.

    Parameters
    ----------
    probabilities : (N, C, H, W) float32
        Class probabilities.
    labels : (N, C) uint8
        1 where a class occurs; if an image has a single class, all its pixels get it.
    """
    allowed = np.where(labels[:, :, None, None] > 0, probabilities, -1)
    mask: Mask = allowed.argmax(1).astype(np.uint8)
    return mask
