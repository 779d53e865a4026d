"""Write a training's curves, its settings and a few pictures per epoch for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from synthpipe.core.pictures import colors_of
from synthpipe.core.records import Image, Mask
from synthpipe.core.taxonomy import Taxonomy

EXAMPLES = 3
"""Number of composites, and number of validation images, shown after each epoch."""

_SIDE = 192  # pixels of a picture's longer side
_GAP = 4
_STEP = {
    "loss": "training step/loss",
    "dice": "training step/Dice loss of composites",
    "labels": "training step/image-label loss",
    "consistency": "training step/consistency loss of real patches",
    "learning_rate": "training step/learning rate",
    "seconds": "speed/seconds a step",
    "waiting": "speed/seconds of waiting for images",
}
_EPOCH = {
    **{f"train_{key}": name.replace(" step/", " epoch/") for key, name in list(_STEP.items())[:4]},
    "val_miou": "validation/mIoU",
    "val_fwiou": "validation/frequency-weighted IoU",
}


class Board:
    """Write files for TensorBoard into a folder, or do nothing if the package tensorboard is not installed.

    Parameters
    ----------
    directory : Path
        The folder.
    step : int
        The step at which training begins or resumes; TensorBoard drops its data of this step and of later steps.
    settings : str
        The training's settings as YAML.

    Attributes
    ----------
    on : bool
        Whether the package tensorboard is installed.
    """

    def __init__(self, directory: Path, step: int, settings: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._writer = None
            self.on = False
            return
        self.on = True
        self._writer = SummaryWriter(str(directory), purge_step=step)
        self._writer.add_text("settings", f"```yaml\n{settings}```", step)

    def add_step(self, row: Mapping[str, float]) -> None:
        """Show the losses of a step; the row must have ``step``, its number."""
        self._add(row, _STEP, int(row["step"]))

    def add_epoch(self, row: Mapping[str, float]) -> None:
        """Show the metrics of an epoch; the row must have ``step``, the number of steps done at its end."""
        by_class = {key: f"validation IoU/{key.removeprefix('iou/')}" for key in row if key.startswith("iou/")}
        self._add(row, _EPOCH | by_class, int(row["step"]) - 1)

    def add_pictures(self, name: str, pictures: Sequence[Image], step: int) -> None:
        """Show (H, W, 3) uint8 pictures as ``name/1``, ``name/2`` and so on, at the step before `step`."""
        for number, picture in enumerate(pictures, 1):
            if self._writer:
                self._writer.add_image(f"{name}/{number}", picture, step - 1, dataformats="HWC")

    def flush(self) -> None:
        """Write everything that is still buffered."""
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        """Write everything that is still buffered, and close the files."""
        if self._writer:
            self._writer.close()

    def _add(self, row: Mapping[str, float], names: Mapping[str, str], step: int) -> None:
        for key, name in names.items():
            if self._writer and key in row:
                self._writer.add_scalar(name, row[key], step)


def triple(image: Image, truth: Mask, prediction: Mask, taxonomy: Taxonomy) -> Image:
    """Return one small picture with an image, its mask and the predicted mask side by side.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    truth, prediction : (H, W) uint8
        Class indices; background and lost pixels also have colours.
    taxonomy : Taxonomy
        The classes and their colours in the masks.
    """
    height, width = truth.shape
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    masks = (cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) for mask in (truth, prediction))
    colors = colors_of(taxonomy)
    shown = [cv2.resize(image, size, interpolation=cv2.INTER_AREA), *(colors[mask] for mask in masks)]
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    return np.hstack([shown[0], gap, shown[1], gap, shown[2]])
