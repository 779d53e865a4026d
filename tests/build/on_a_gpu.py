"""Tests of builds and loaders that render on a GPU, or in numba's simulator of one; `test_virtual` runs the latter."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from numba import cuda

from synthpipe.core.errors import GpuError
from synthpipe.curated import CuratedSet
from synthpipe.curated.device_batches import DeviceBatches
from synthpipe.curated.torch_data import Epochs
from synthpipe.filtering.rendering import RenderedImages
from tests.build.test_virtual import make, tree
from tests.compose.on_a_gpu import FullMemory
from tests.conftest import SMALL

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = (
    *(*SMALL, "canvas=[10, 12]", "mosaic.tile=[5, 6]", "store.pixels=virtual", "store.shard=4", "patches.min_side=10"),
    *("curation.wanted=4", "curation.candidates=8", "curation.max_candidates=8"),
)


@pytest.fixture(scope="session")
def rendered_on_gpu(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual run whose candidates were rendered on the GPU, in one process."""
    rendered: list[int] = []
    render = RenderedImages.render

    def count(self: RenderedImages, *given: object) -> None:
        rendered.append(1)
        render(self, *given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RenderedImages, "render", count)
        run = make(tmp_path_factory.mktemp("gpu") / "run", *TINY, f"patches.root={phantom}")
    assert rendered
    return run


def test_a_gpu_and_a_cpu_make_the_same_run_and_a_full_gpu_leaves_it_to_the_cpu(
    rendered_on_gpu: Path,
    phantom: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = FullMemory(5)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "synthpipe"):
        patch.setattr(cuda, "current_context", lambda: memory)
        cpu = make(tmp_path / "cpu", *TINY, f"patches.root={phantom}")
    (note,) = [each.getMessage() for each in caplog.records if "on the CPU" in each.getMessage()]
    assert note.startswith("virtual composites are rendered on the CPU: the bank of ") and "may take 50%" in note
    parts = "candidates.zarr", "curated.zarr"
    assert tree(cpu, *parts) == tree(rendered_on_gpu, *parts)


def test_batches_of_a_loader_are_rendered_on_the_device(rendered_on_gpu: Path) -> None:
    curated = CuratedSet(rendered_on_gpu)
    for part in (curated, curated.subset(range(len(curated))[::-1])):  # both strategies in a batch
        data = part.to_torch()
        expected = list(data.loader(3, seed=5))
        batches = list(DeviceBatches(data, Epochs(len(part), 3, seed=5), DEVICE))
        assert len(batches) == len(expected) == 2
        for one, other in zip(batches, expected, strict=True):
            assert all(torch.equal(one[name].cpu(), other[name]) for name in ("image", "mask", "labels"))
            assert one["image"].stride() == other["image"].stride() and one["image"].device.type == DEVICE.type


def test_a_loader_without_room_names_the_cure(rendered_on_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = CuratedSet(rendered_on_gpu).to_torch()
    memory = FullMemory(5)
    monkeypatch.setattr(cuda, "current_context", lambda: memory)
    with pytest.raises(GpuError, match=r"donors needs \d+ MiB, but the GPU has .*; in a loader, leave out device="):
        DeviceBatches(data, Epochs(len(data), 2), DEVICE)
