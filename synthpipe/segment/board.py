"""What a training shows in TensorBoard: curves, a few pictures an epoch, and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from synthpipe.core.pictures import colors_of
from synthpipe.core.records import Image, Mask
from synthpipe.core.taxonomy import Taxonomy

EXAMPLES = 3
"""Composites, and validation images, that are shown after each epoch."""

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
    """Writes for TensorBoard into a folder; does nothing where the package tensorboard is not installed.

    Parameters
    ----------
    directory : Path
        The folder.
    step : int
        Where training begins or resumes; TensorBoard forgets what was written of later steps.
    settings : str
        The training's settings as YAML.

    Attributes
    ----------
    on : bool
        Whether there is the package.
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
        """Show the losses of a step; its row has ``step``."""
        self._add(row, _STEP, int(row["step"]))

    def add_epoch(self, row: Mapping[str, float]) -> None:
        """Show the metrics of an epoch; its row has ``step``, where the epoch ended."""
        by_class = {key: f"validation IoU/{key.removeprefix('iou/')}" for key in row if key.startswith("iou/")}
        self._add(row, _EPOCH | by_class, int(row["step"]) - 1)

    def add_pictures(self, name: str, pictures: Sequence[Image], step: int) -> None:
        """Show (H, W, 3) uint8 pictures, numbered below a name, at the last step before `step`."""
        for number, picture in enumerate(pictures, 1):
            if self._writer:
                self._writer.add_image(f"{name}/{number}", picture, step - 1, dataformats="HWC")

    def flush(self) -> None:
        """Write what is held back."""
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        """Write what is held back, and end."""
        if self._writer:
            self._writer.close()

    def _add(self, row: Mapping[str, float], names: Mapping[str, str], step: int) -> None:
        for key, name in names.items():
            if self._writer and key in row:
                self._writer.add_scalar(name, row[key], step)


def triple(image: Image, truth: Mask, prediction: Mask, taxonomy: Taxonomy) -> Image:
    """Return an image, its mask and the predicted mask beside each other, in the colours of the classes; shrunk.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    truth, prediction : (H, W) uint8
        Class indices; background and lost pixels have their own colours.
    taxonomy : Taxonomy
        Classes and their colours.
    """
    height, width = truth.shape
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    masks = (cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) for mask in (truth, prediction))
    colors = colors_of(taxonomy)
    shown = [cv2.resize(image, size, interpolation=cv2.INTER_AREA), *(colors[mask] for mask in masks)]
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    return np.hstack([shown[0], gap, shown[1], gap, shown[2]])
