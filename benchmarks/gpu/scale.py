"""Sizes of the measurement: full size for a GPU, and a small size for a check on a CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of all parts.

    Attributes
    ----------
    canvas : int
        Height and width in pixels of the composites that measure speed.
    candidates, shard : int
        The number of composites that are scored, and their number per shard.
    training : int
        The number of composites that train the filter; as many others stand for real patches.
    epochs, batch, network : int, int and str
        The filter's epochs, batch size and timm network.
    seconds : float
        The shortest time of measuring the filter's bare network.
    steps, workers : int
        The steps of a segmentation training, and the processes that prepare its batches.
    training_set, demo_set, build_set : tuple of str
        Settings to replace in the segmentation trainings, in the trainings of the demo's network, and in the demo's
        pipeline.
    """

    canvas: int = 224
    candidates: int = 8192
    shard: int = 512
    training: int = 2048
    epochs: int = 4
    batch: int = 256
    network: str = "resnet18"
    seconds: float = 3.0
    steps: int = 100
    workers: int = 8
    training_set: tuple[str, ...] = ()
    demo_set: tuple[str, ...] = ()
    build_set: tuple[str, ...] = ()


FULL = Scale(
    demo_set=("network.architecture=Unet", "network.encoder=resnet18"),
    build_set=("filter.network=resnet18", "filter.batch=32"),
)
"""The sizes on a GPU, with larger networks than the demo's."""
_SMALL_NETWORK = ("network.encoder=tu-test_resnet", "network.architecture=Unet", "composites=2", "real=2")
SMALL = Scale(
    canvas=48,
    candidates=64,
    shard=16,
    training=32,
    epochs=2,
    batch=16,
    network="test_resnet",
    seconds=0.2,
    steps=6,
    workers=0,
    training_set=_SMALL_NETWORK,
    demo_set=_SMALL_NETWORK,
    build_set=(
        *("canvas=32", "mosaic.tile=16", "filter.network=test_resnet", "filter.candidates=40", "filter.epochs=1"),
        *("curation.wanted=12", "curation.candidates=20", "curation.max_candidates=80", "store.shard=8"),
    ),
)
"""The sizes with `--cpu`."""
