"""How large everything is: full size for a GPU, or small enough to check all of it on a CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is.

    Attributes
    ----------
    canvas : int
        Height and width of composites in pixels, where speed is measured.
    candidates, shard : int
        Composites that are scored, and how many of them a shard holds.
    training, epochs, batch, network
        Composites that train the filter, and as many others against them; its epochs, batch and timm network.
    seconds : float
        For which the filter's bare network is timed, at least.
    steps, workers : int
        Steps of a segmentation training, and the processes that prepare its batches.
    training_set, demo_set, build_set : tuple of str
        Settings to replace: of segmentation trainings, of those of the demo's network, and of the demo's pipeline.
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
"""On a GPU: networks that fill it more than the demo's."""
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
"""With `--cpu`."""
