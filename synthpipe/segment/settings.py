"""Settings of the segmentation stage: all constants of method section 4, with the published values as defaults."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from synthpipe.config.fields import (
    LARGEST,
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
    """Settings of the network: an encoder and a decoder of segmentation-models-pytorch, and the CAM head."""

    architecture: Annotated[
        Text, Field(description="a name of segmentation-models-pytorch, such as Unet or Segformer")
    ] = "DeepLabV3Plus"
    encoder: Annotated[
        Text, Field(description="a name of segmentation-models-pytorch; timm's encoders begin with tu-")
    ] = "efficientnet-b6"
    weights: Annotated[
        Secretive | None,
        Field(
            description="initial weights of the encoder: a name of segmentation-models-pytorch, or a file's path, with "
            "a . or a / in it; null: random weights, which also replace named weights that are not available"
        ),
    ] = "imagenet"
    dropout: Annotated[Number, Field(ge=0, lt=1, description="rate of dropout before the CAM's convolution")] = 0.5
    mean: Annotated[
        tuple[Mean, Mean, Mean],
        Field(description="mean of RGB in 0-1, subtracted from images; a timm encoder with a weights file has its own"),
    ] = (0.485, 0.456, 0.406)
    std: Annotated[
        tuple[Deviation, Deviation, Deviation],
        Field(description="deviation of RGB in 0-1, divides images; a timm encoder with a weights file has its own"),
    ] = (0.229, 0.224, 0.225)

    @property
    def weights_file(self) -> str | None:
        """Path of the weights file; None if `weights` is not a path."""
        return self.weights if self.weights and set(self.weights) & {".", "/"} else None


class ConsistencySection(Section):
    """Settings of the consistency loss on real patches; defaults are the published form, other choices are better.

    `cam`, `stop_gradient`, `absent_classes` and `glass` belong to the published form, all other keys to `mean_teacher`.
    """

    form: Annotated[
        Literal["published", "mean_teacher"],
        Field(
            description="published: masks and CAM agree; mean_teacher: a moving average of the weights predicts the "
            "masks of real patches within their labels"
        ),
    ] = "published"
    cam: Annotated[
        Literal["softmax", "sigmoid"],
        Field(description="activation of the CAM; sigmoid fits patches with several classes"),
    ] = "softmax"
    stop_gradient: Annotated[
        Literal["none", "cam", "segmentation"], Field(description="the side that is a fixed target of the other side")
    ] = "none"
    absent_classes: Annotated[
        Literal["keep", "mask"], Field(description="mask: classes that are not in a patch's label do not count")
    ] = "keep"
    glass: Annotated[Literal["keep", "mask"], Field(description="mask: white background does not count")] = "keep"
    momentum: Annotated[
        Number, Field(gt=0, lt=1, description="decay per step of the teacher's moving average of the weights")
    ] = 0.99
    threshold: Annotated[
        Fraction,
        Field(description="probability of a sure pixel; without `keep`, a patch weighs as much as its share of them"),
    ] = 0.968
    keep: Annotated[
        Number | None,
        Field(
            gt=0,
            le=1,
            description="share of each class's pixels that count, the surest ones, after the classes are balanced; "
            "null: all pixels count, with the weight that `threshold` gives",
        ),
    ] = 0.6
    warmup_steps: Annotated[
        Whole, Field(ge=0, le=MOST, description="number of first steps in which the teacher does not teach yet")
    ] = 0
    class_mix: Annotated[
        Flag, Field(description="paste half of a composite's classes on each real patch (ClassMix)")
    ] = False
    masked: Annotated[
        Number,
        Field(ge=0, lt=1, description="probability that a block of a real patch is hidden from the network; 0: never"),
    ] = 0.0
    block: Annotated[Whole, Field(ge=1, le=LARGEST, description="side of a hidden block in pixels")] = 32


class LossSection(Section):
    """Weights of the terms of the loss; 0 switches a term off."""

    dice: Weight = 1.0
    labels: Annotated[
        Weight, Field(description="binary cross-entropy of image labels, on composites and on real patches")
    ] = 1.0
    consistency: Weight = 1.0


class AugmentationSection(Section):
    """Settings of the augmentation of images and masks; a single map combines all transforms."""

    crop: Annotated[tuple[Fraction, Fraction], Field(description="range of the crop's share of the area")] = (0.9, 1.0)
    flip: Annotated[Fraction, Field(description="probability of a flip, for each direction")] = 0.5
    affine: Annotated[Fraction, Field(description="probability of shift, scale and rotation")] = 0.5
    shift: Annotated[Fraction, Field(description="largest shift, as a share of height and width")] = 0.0625
    scale: Annotated[Number, Field(ge=0, lt=1, description="largest change of size, as a share of the size")] = 0.2
    rotation: Annotated[Number, Field(ge=0, le=180, description="largest rotation in degrees")] = 45.0
    distort: Annotated[Fraction, Field(description="probability of optical distortion")] = 0.5
    distortion: Annotated[Number, Field(ge=0, le=0.5, description="largest coefficient, barrel or pincushion")] = 0.05


class OptimizerSection(Section):
    """Settings of the optimizer AdamW and its learning rate."""

    learning_rate: Above0 = 1e-4
    weight_decay: Annotated[Number, Field(ge=0, le=1000)] = 0.05
    schedule: Annotated[
        Literal["constant", "cosine", "poly"],
        Field(description="schedule of the learning rate; poly falls with power 0.9"),
    ] = "constant"
    warmup_steps: Annotated[
        Whole, Field(ge=0, le=MOST, description="steps in which the learning rate rises from zero")
    ] = 0
    average: Annotated[
        Number | None,
        Field(
            gt=0,
            lt=1,
            description="decay per step of the moving average of the weights, which is validated and saved as the "
            "best, such as 0.99; null: no average",
        ),
    ] = None


class WindowSection(Section):
    """Settings of sliding windows: how they cut an image, and how their predictions are combined."""

    size: Annotated[Size, Field(description="height and width of a window in pixels")]
    stride: Annotated[Size, Field(description="pixels from one window to the next, at most the size")]
    scales: Annotated[
        tuple[Annotated[Number, Field(ge=0.125, le=8)], ...],
        Field(min_length=1, max_length=64, description="scales of the image; probabilities are averaged over scales"),
    ] = (1.0,)
    flips: Annotated[Flag, Field(description="average over the 8 flips and rotations of a square window")] = False
    blend: Annotated[
        Blend, Field(description="weights of a window's pixels; gaussian: around its centre, with sigma size / 8")
    ] = "gaussian"
    batch: Annotated[Whole, Field(ge=1, le=65_536, description="windows per call of the network; flips count")] = 16

    @field_validator("stride")
    @classmethod
    def _leaves_no_gap(cls, stride: tuple[int, int], info: ValidationInfo) -> tuple[int, int]:
        size = info.data.get("size", stride)
        if stride[0] > size[0] or stride[1] > size[1]:
            message = (
                "Expected at most the size, {size} as (height, width), so that windows leave no gaps; lower stride"
            )
            raise PydanticCustomError("stride", message, {"size": str(size)})
        return stride

    @field_validator("flips")
    @classmethod
    def _rotates_squares(cls, flips: bool, info: ValidationInfo) -> bool:
        height, width = info.data.get("size", (1, 1))
        if flips and height != width:
            message = "Expected a square size with flips, got {size} as (height, width); flips include rotations"
            raise PydanticCustomError("flips", message, {"size": str((height, width))})
        return flips


def default_windows(size: tuple[int, int]) -> WindowSection:
    """Return windows with the canvas's size and a stride of half the size; flips are on if the canvas is square."""
    height, width = size
    return WindowSection(size=size, stride=((height + 1) // 2, (width + 1) // 2), flips=height == width)


class TrainSettings(Section):
    """All settings of a training, as in its settings file."""

    _new_keys = ("fresh",)
    format_version: Version = 1
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0
    network: NetworkSection = NetworkSection()
    composites: Annotated[Whole, Field(ge=1, le=65_536, description="composites per step, over all devices")] = 32
    real: Annotated[Whole, Field(ge=0, le=65_536, description="real patches per step, over all devices; 0: none")] = 32
    fresh: Annotated[
        Literal["unfiltered", "filtered"] | None,
        Field(
            description="unfiltered: each pass renders composites that no other pass shows, like those of virtual "
            "sets; filtered: the same, and the filter of the build accepts them; null: the composites of the sets"
        ),
    ] = None
    epochs: Annotated[Positive, Field(description="number of passes over the composites")] = 25
    steps_per_epoch: Annotated[Positive | None, Field(description="null: the number of steps that a pass takes")] = None
    save_steps: Annotated[
        Positive | None,
        Field(description="steps between checkpoints for resuming; one is also saved at the end of each epoch"),
    ] = None
    loss: LossSection = LossSection()
    consistency: ConsistencySection = ConsistencySection()
    augmentation: AugmentationSection = AugmentationSection()
    optimizer: OptimizerSection = OptimizerSection()
    precision: Annotated[
        Precision, Field(description="mixed: bfloat16 on GPUs that have it (Ampere and later); weights stay float32")
    ] = "mixed"
    validation: Annotated[
        WindowSection | None,
        Field(description="sliding windows on validation images; null: windows of the canvas's size"),
    ] = None

    def dump(self) -> dict[str, Any]:
        """Return all settings as values that JSON can store."""
        return self.model_dump(mode="json")


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Return the learning rate of a step: it rises during the warm-up and then follows the schedule."""
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
