"""Validate a network at the end of an epoch: predict images with masks, and draw some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray

from synthpipe.core.records import Image, Mask
from synthpipe.core.spacing import evenly_spaced
from synthpipe.segment.board import EXAMPLES, triple
from synthpipe.segment.devices import share_buffers
from synthpipe.segment.metrics import confusion_matrix
from synthpipe.segment.network import SegmentationNetwork
from synthpipe.segment.settings import WindowSection
from synthpipe.segment.sliding_window import predict_mask
from synthpipe.segment.training_records import TrainingData

Pictures = Mapping[str, Sequence[Image]]
"""Pictures drawn at the end of an epoch, by title."""


class Validation:
    """Predict the validation images of a training.

    Parameters
    ----------
    fabric : Fabric
        The devices; each predicts its share of the images.
    module : SegmentationNetwork
        The network, on the device of this process.
    data : TrainingData
        Images, classes and canvas.
    windows : WindowSection or None
        Settings of sliding windows; by default, windows have the canvas's size and do not overlap.
    """

    def __init__(
        self, fabric: Fabric, module: SegmentationNetwork, data: TrainingData, windows: WindowSection | None
    ) -> None:
        self._fabric, self._module, self._data = fabric, module, data
        self._whole = WindowSection(size=data.description.size, stride=data.description.size)
        self._windows = windows or self._whole
        self._examples: list[tuple[Image, Mask]] | None = None  # composites for the pictures

    def run(self, draws: bool) -> tuple[NDArray[np.int64], Pictures]:
        """Return the (C, C) confusion matrix over all images; if `draws`, also pictures of a few images."""
        taxonomy, fabric = self._data.description.taxonomy, self._fabric
        confusion = np.zeros((len(taxonomy), len(taxonomy)), np.int64)
        share_buffers(fabric, self._module)  # the first process saves its own
        self._module.eval()
        with fabric.autocast():
            shown: list[Image] = []
            for source in self._data.validation[fabric.global_rank :: fabric.world_size]:
                image, truth = source.read(taxonomy)
                predicted = self._predict(image, self._windows)
                if draws and len(shown) < EXAMPLES:
                    shown.append(triple(image, truth, predicted, taxonomy))
                confusion += confusion_matrix(truth, predicted, len(taxonomy))
            pictures = {"validation: image, truth, prediction": shown, **(self._composites() if draws else {})}
        if fabric.world_size == 1:
            return confusion, pictures
        summed = fabric.all_reduce(torch.from_numpy(confusion).to(fabric.device), reduce_op="sum")
        return np.asarray(summed.cpu()), pictures  # type: ignore[union-attr]

    def _predict(self, image: Image, windows: WindowSection) -> Mask:
        by_cam, classes = self._data.composites is None, len(self._data.description.taxonomy)
        return predict_mask(
            lambda part: self._module.segment(part, by_cam), image, windows, classes, self._fabric.device
        )

    def _composites(self) -> Pictures:
        """Draw a few composites, the same ones in each epoch."""
        source = self._data.composites
        if source is None:
            return {}
        if self._examples is None:
            indices = evenly_spaced(len(source), EXAMPLES).tolist()
            images, masks, _ = source.read(indices, [np.random.default_rng(index) for index in indices])
            self._examples = list(zip(images, masks, strict=True))
        triples = ((image, mask, self._predict(image, self._whole)) for image, mask in self._examples)
        pictures = [triple(*each, self._data.description.taxonomy) for each in triples]
        return {"composites: image, mask, prediction": pictures}
