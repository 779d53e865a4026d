"""The settings of the segmentation stage: every constant of method section 4, with the published values as defaults."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from synthpipe.config.fields import (
    MOST,
    Above0,
    Deviation,
    Flag,
    Fraction,
    Mean,
    Number,
    Positive,
    Precision,
    Secretive,
    Section,
    Size,
    Text,
    Version,
    Whole,
)

Blend = Literal["gaussian", "uniform"]
Weight = Annotated[Number, Field(ge=0, le=1e6)]


class NetworkSection(Section):
    """The network: a decoder and an encoder of segmentation-models-pytorch, and the CAM head."""

    architecture: Annotated[Text, Field(description="of segmentation-models-pytorch, such as Unet or Segformer")] = (
        "DeepLabV3Plus"
    )
    encoder: Annotated[Text, Field(description="of segmentation-models-pytorch; timm's begin with tu-")] = (
        "efficientnet-b6"
    )
    weights: Annotated[
        Secretive | None,
        Field(
            description="the encoder starts from these: a name of segmentation-models-pytorch, or a file, named by a "
            "path with a . or a /; null: random weights, which also replace named ones that are not available"
        ),
    ] = "imagenet"
    dropout: Annotated[Number, Field(ge=0, lt=1, description="before the CAM's convolution")] = 0.5
    mean: Annotated[
        tuple[Mean, Mean, Mean],
        Field(description="of RGB in 0-1, subtracted; a timm encoder with weights of a file has its own"),
    ] = (0.485, 0.456, 0.406)
    std: Annotated[
        tuple[Deviation, Deviation, Deviation],
        Field(description="of RGB in 0-1, divided by; a timm encoder with weights of a file has its own"),
    ] = (0.229, 0.224, 0.225)

    @property
    def weights_file(self) -> str | None:
        """The file that `weights` names, where it names one."""
        return self.weights if self.weights and set(self.weights) & {".", "/"} else None


class ConsistencySection(Section):
    """The consistency loss on real patches; the defaults are the published form, the other choices better ones."""

    cam: Annotated[
        Literal["softmax", "sigmoid"], Field(description="of the CAM; patches have several labels: sigmoid fits them")
    ] = "softmax"
    stop_gradient: Annotated[
        Literal["none", "cam", "segmentation"], Field(description="which side is a fixed target of the other")
    ] = "none"
    absent_classes: Annotated[
        Literal["keep", "mask"], Field(description="whether classes that a patch's label excludes count")
    ] = "keep"
    glass: Annotated[Literal["keep", "mask"], Field(description="whether white background counts")] = "keep"


class LossSection(Section):
    """Weights of the loss's terms; 0 switches a term off."""

    dice: Weight = 1.0
    labels: Annotated[
        Weight, Field(description="binary cross-entropy of image labels, composites and real patches")
    ] = 1.0
    consistency: Weight = 1.0


class AugmentationSection(Section):
    """What is done to images and masks: one map of coordinates, so that pixels are interpolated once."""

    crop: Annotated[tuple[Fraction, Fraction], Field(description="range of the crop's share of the area")] = (0.9, 1.0)
    flip: Annotated[Fraction, Field(description="probability, of either direction")] = 0.5
    affine: Annotated[Fraction, Field(description="probability of shift, scale and rotation")] = 0.5
    shift: Annotated[Fraction, Field(description="largest, of height and of width")] = 0.0625
    scale: Annotated[Number, Field(ge=0, lt=1, description="largest change of size, as a share of it")] = 0.2
    rotation: Annotated[Number, Field(ge=0, le=180, description="largest, in degrees")] = 45.0
    distort: Annotated[Fraction, Field(description="probability of optical distortion")] = 0.5
    distortion: Annotated[Number, Field(ge=0, le=0.5, description="largest coefficient, barrel or pincushion")] = 0.05


class OptimizerSection(Section):
    """AdamW and its learning rate."""

    learning_rate: Above0 = 1e-4
    weight_decay: Annotated[Number, Field(ge=0, le=1000)] = 0.05
    schedule: Annotated[
        Literal["constant", "cosine", "poly"], Field(description="of the learning rate; poly falls with power 0.9")
    ] = "constant"
    warmup_steps: Annotated[Whole, Field(ge=0, le=MOST, description="over which the learning rate rises from zero")] = 0


class WindowSection(Section):
    """How an image is cut into windows and their predictions are put together."""

    size: Annotated[Size, Field(description="pixels of a window")]
    stride: Annotated[Size, Field(description="pixels from one window to the next, at most the size")]
    scales: Annotated[
        tuple[Annotated[Number, Field(ge=0.125, le=8)], ...],
        Field(min_length=1, max_length=64, description="of the image; probabilities are averaged over them"),
    ] = (1.0,)
    flips: Annotated[Flag, Field(description="average over the square's 8 flips and rotations")] = False
    blend: Annotated[
        Blend, Field(description="weight of a window's pixels; gaussian: sigma of size / 8 about its centre")
    ] = "gaussian"
    batch: Annotated[Whole, Field(ge=1, le=65_536, description="windows a call of the network; flips count")] = 16

    @field_validator("stride")
    @classmethod
    def _leaves_no_gap(cls, stride: tuple[int, int], info: ValidationInfo) -> tuple[int, int]:
        size = info.data.get("size", stride)
        if stride[0] > size[0] or stride[1] > size[1]:
            message = "Expected at most the size, {size} as (height, width): windows would leave gaps; lower stride"
            raise PydanticCustomError("stride", message, {"size": str(size)})
        return stride

    @field_validator("flips")
    @classmethod
    def _rotates_squares(cls, flips: bool, info: ValidationInfo) -> bool:
        height, width = info.data.get("size", (1, 1))
        if flips and height != width:
            message = "Expected a square size with flips, got {size} as (height, width): it is rotated too"
            raise PydanticCustomError("flips", message, {"size": str((height, width))})
        return flips


def default_windows(size: tuple[int, int]) -> WindowSection:
    """Return windows of the canvas at half its stride, with the mean over flips where it is a square."""
    height, width = size
    return WindowSection(size=size, stride=((height + 1) // 2, (width + 1) // 2), flips=height == width)


class TrainSettings(Section):
    """A whole settings file of training."""

    format_version: Version = 1
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0
    network: NetworkSection = NetworkSection()
    composites: Annotated[Whole, Field(ge=1, le=65_536, description="a step, over all devices")] = 32
    real: Annotated[Whole, Field(ge=0, le=65_536, description="real patches a step, over all devices; 0: none")] = 32
    epochs: Annotated[Positive, Field(description="passes over the composites")] = 25
    steps_per_epoch: Annotated[Positive | None, Field(description="null: as many as a pass takes")] = None
    save_steps: Annotated[
        Positive | None, Field(description="a checkpoint to go on from every so many steps, besides every epoch's end")
    ] = None
    loss: LossSection = LossSection()
    consistency: ConsistencySection = ConsistencySection()
    augmentation: AugmentationSection = AugmentationSection()
    optimizer: OptimizerSection = OptimizerSection()
    precision: Annotated[
        Precision, Field(description="mixed: bfloat16 on GPUs that have it (Ampere and later); weights stay float32")
    ] = "mixed"
    validation: Annotated[
        WindowSection | None, Field(description="how validation images are predicted; null: windows of the canvas")
    ] = None

    def dump(self) -> dict[str, Any]:
        """Return all settings, JSON-ready."""
        return self.model_dump(mode="json")


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Return the learning rate of a step: it rises over the warm-up, then follows the schedule to the last step."""
    chosen = settings.optimizer
    rate = chosen.learning_rate
    if step < chosen.warmup_steps:
        return rate * (step + 1) / chosen.warmup_steps
    done = (step - chosen.warmup_steps) / max(1, steps - chosen.warmup_steps)
    if chosen.schedule == "cosine":
        return rate * (1 + math.cos(math.pi * done)) / 2
    if chosen.schedule == "poly":
        return float(rate * (1 - done) ** 0.9)
    return rate
