from __future__ import annotations

import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from synthpipe.core.errors import StoreError
from synthpipe.curated import CuratedSet
from synthpipe.curated.torch_data import CuratedDataset, Tensors
from synthpipe.storage.schema import open_group
from tests.conftest import pipeline


@pytest.fixture(scope="module")
def dataset(curated: Path) -> CuratedDataset:
    return CuratedSet(curated).to_torch()


def test_the_curated_set_is_what_zarr_reads(curated: Path) -> None:
    opened, group = CuratedSet(curated), open_group(curated)
    assert len(opened) == 24 and opened.size == (32, 32)
    for name, found in (
        ("image", np.stack([sample.image for sample in opened])),
        ("mask", np.stack([sample.mask for sample in opened])),
        ("labels", np.stack([sample.labels for sample in opened])),
        ("p_real", opened.p_real),
        ("donor_groups", opened.donor_groups),
    ):
        assert np.array_equal(found, np.asarray(group[name][:]), equal_nan=name == "p_real")  # type: ignore[index]
    assert opened.taxonomy == pipeline().taxonomy
    indices = np.asarray(group["origin_index"][:]).tolist()  # type: ignore[index]
    expected = [("mosaic" if place < 12 else "bezier", index) for place, index in enumerate(indices)]
    assert [opened.origin(place) for place in range(24)] == expected
    assert opened.fingerprint == group.attrs["fingerprint"] and list(opened.groups) == group.attrs["groups"]
    settings = {"layout", "group_pattern", "exclude", "on_error"}  # how many pixels are allowed is the reader's own
    stored = group.attrs["patches"]
    assert isinstance(stored, dict) and settings == set(stored) == set(opened.description.to_json()["patches"])
    images, masks = opened.read([5, 2])
    assert np.array_equal(images, np.asarray(group["image"][:])[[5, 2]])  # type: ignore[index]
    assert np.array_equal(masks, np.asarray(group["mask"][:])[[5, 2]])  # type: ignore[index]


def test_what_is_no_finished_curated_set_is_refused(curated: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a curated set; expected curated\.zarr of a run"):
        CuratedSet(curated.parent / "candidates.zarr")
    with pytest.raises(StoreError, match="no Zarr v3 group"):
        CuratedSet(tmp_path)
    shutil.copytree(curated, tmp_path / "part.zarr")
    for number in (0, 1):
        (tmp_path / "part.zarr" / "labels" / f"c.{number}.0").unlink()
    with pytest.raises(StoreError, match=r"is not complete: 2 objects are missing, for example labels/c\.0\.0; run"):
        CuratedSet(tmp_path / "part.zarr")


def check(batches: list[Tensors], curated: CuratedSet) -> None:
    images = torch.cat([batch["image"] for batch in batches])
    expected = torch.from_numpy(np.stack([sample.image for sample in curated])).permute(0, 3, 1, 2)
    assert images.dtype == torch.uint8 and torch.equal(images, expected)
    masks = torch.cat([batch["mask"] for batch in batches])
    assert torch.equal(masks, torch.from_numpy(np.stack([sample.mask for sample in curated])))
    assert torch.equal(torch.cat([batch["labels"] for batch in batches]), torch.from_numpy(curated.labels))


@pytest.mark.parametrize(
    "method", [None, "fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("spawn", "forkserver"))]
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_loader_gives_the_set_in_any_kind_of_worker(dataset: CuratedDataset, method: str | None) -> None:
    dataset[0]  # what is open here is no use there
    context = method and multiprocessing.get_context(method)
    loader: DataLoader[Tensors] = DataLoader(
        dataset, 5, num_workers=2 if method else 0, collate_fn=dataset.collate, multiprocessing_context=context
    )
    batches: list[Tensors] = list(loader)
    check(batches, dataset.curated)
    assert [len(batch["mask"]) for batch in batches] == [5, 5, 5, 5, 4]
    assert batches[0]["image"].is_contiguous(memory_format=torch.channels_last)


def test_the_default_collation_and_single_samples_give_the_same(dataset: CuratedDataset) -> None:
    check(list(DataLoader(dataset, 7)), dataset.curated)
    check([dataset.collate([dataset[index] for index in range(len(dataset))])], dataset.curated)
    samples = dataset.__getitems__([4, 1])
    assert len(samples) == 2 and torch.equal(samples[1]["image"], dataset[1]["image"])
    assert [torch.equal(sample["mask"], dataset[index]["mask"]) for sample, index in zip(samples, (4, 1), strict=True)]
    with pytest.raises(IndexError):
        samples[2]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3]["image"], dataset[3]["image"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_read_into_pinned_memory(dataset: CuratedDataset) -> None:
    batch = dataset.collate(dataset.__getitems__([0, 1]))
    assert all(tensor.is_pinned() for tensor in (batch["image"], batch["mask"], batch["labels"]))
