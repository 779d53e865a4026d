"""Curated sets: samples, subsets, splits, weights and the torch data set."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

import synthpipe
from synthpipe.core.errors import ConfigError, StoreError
from synthpipe.curated import CuratedSet
from synthpipe.curated.splits import Split, split_indices
from synthpipe.curated.torch_data import Epochs, ResumableLoader
from synthpipe.curated.weights import class_weights, sample_weights
from synthpipe.storage.schema import array, open_group
from synthpipe.storage.shard_writing import write_shard
from synthpipe.storage.shards import read_range, shard_size
from tests.segment.conftest import DataSet, data_set

__all__ = ["data_set"]


@pytest.fixture(scope="module")
def curated(data_set: DataSet) -> CuratedSet:
    return synthpipe.open_curated(data_set.curated)


def test_the_package_is_light_until_something_is_asked_of_it() -> None:
    code = "import sys, synthpipe; sys.exit(any(each in sys.modules for each in ('numpy', 'zarr', 'torch', 'dask')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'curate'"):
        _ = synthpipe.curate


def test_a_part_of_a_set_is_a_set(curated: CuratedSet) -> None:
    part = curated.subset([20, 3, 7]).subset([2, 0])
    assert len(part) == 2 and part.indices.tolist() == [7, 20] and part.taxonomy == curated.taxonomy
    for index, whole in enumerate((7, 20)):
        assert np.array_equal(part[index].image, curated[whole].image)
        assert np.array_equal(part[index].mask, curated[whole].mask)
        assert np.array_equal(part[index].labels, curated[whole].labels)
        assert part.origin(index) == curated.origin(whole)
        assert np.array_equal(part.class_pixels[index], curated.class_pixels[whole])
    assert all(map(np.array_equal, part.read([1, 0]), curated.read([20, 7])))
    assert part.digest != curated.digest == curated.subset(range(24)).digest
    assert np.array_equal(part.to_xarray().image.values, part.read([0, 1])[0])


def test_a_mask_chooses_samples_and_nothing_else_passes_for_indices(curated: CuratedSet) -> None:
    mask = curated.labels[:, 2] == 1
    part = curated.subset(mask)
    assert 0 < len(part) < len(curated) and part.labels[:, 2].all()
    assert part.digest == curated.subset(np.flatnonzero(mask)).digest
    assert len(curated.read(mask)[0]) == len(part)
    with pytest.raises(IndexError, match=r"a mask has shape \(23,\), expected \(24,\)"):
        curated.subset(mask[1:])
    with pytest.raises(IndexError, match="indices are float64, expected integers"):
        curated.subset(np.array([0.7, 1.9]))


def test_a_part_is_split_by_its_own_slides(curated: CuratedSet) -> None:
    left_out = 1
    part = curated.subset((curated.donor_groups != left_out).all(1))
    found = []
    for seed in range(8):
        with suppress(ConfigError), warnings.catch_warnings(action="ignore"):  # some parts may be empty
            found.append(part.split({"train": 0.5, "val": 0.5}, seed=seed).groups)
    assert found
    used = {curated.groups[number] for number in np.unique(part.donor_groups) if number >= 0}
    assert all({*groups["train"], *groups["val"]} == used for groups in found)
    assert curated.groups[left_out] not in used


@pytest.mark.filterwarnings("ignore:this split drops")
def test_a_split_by_group_has_no_slide_on_two_sides(curated: CuratedSet) -> None:
    split = curated.split({"train": 0.5, "val": 0.5}, seed=1)
    assert split.groups["train"] and set(split.groups["train"]).isdisjoint(split.groups["val"])
    used = {curated.groups[number] for number in np.unique(curated.donor_groups) if number >= 0}
    assert {*split.groups["train"], *split.groups["val"]} == used
    assert split.dropped == len(curated) - sum(len(split[name]) for name in split) > 0
    for name in split:
        numbers = set(split[name].donor_groups.ravel().tolist()) - {-1}
        assert {curated.groups[number] for number in numbers} <= set(split.groups[name])
    assert split["val"].indices.tolist() == curated.split({"train": 0.5, "val": 0.5}, seed=1)["val"].indices.tolist()


def test_a_split_that_loses_composites_says_what_is_left(curated: CuratedSet) -> None:
    with pytest.warns(UserWarning, match="this split drops ") as caught:
        split = curated.split({"train": 0.5, "val": 0.5}, seed=1)
    assert caught[0].filename == __file__
    text = str(caught[0].message)
    for name, part in split.parts.items():
        told = " and ".join(f"{count} {strategy}" for strategy, count in part.counts().items())
        assert f"{name}: {told}" in text and f"{name}: {told}" in repr(split)
    assert f"drops {split.dropped} of 24 samples" in text and "train on the whole set" in text
    assert repr(split).endswith(f"; dropped {split.dropped} of 24>")


def test_a_split_warns_of_a_tenth_and_of_a_strategy_that_a_part_lacks(curated: CuratedSet) -> None:
    assert curated.counts() == {"mosaic": 12, "bezier": 12}
    whole, beziers = curated.subset(range(24)), curated.subset(range(12, 24))
    assert not Split({"train": whole, "val": whole}, {}, 4).warning({"mosaic": 22, "bezier": 22})
    assert Split({"train": whole, "val": whole}, {}, 5).warning({"mosaic": 22, "bezier": 22})
    assert "val: 12 bezier" in Split({"train": whole, "val": beziers}, {}, 1).warning({"mosaic": 22, "bezier": 22})
    assert not Split({"train": whole, "val": beziers}, {}, 0).warning({"mosaic": 22, "bezier": 22})


@given(
    st.lists(st.lists(st.integers(-1, 5), min_size=3, max_size=3), min_size=4, max_size=40),
    st.sampled_from([{"a": 0.5, "b": 0.5}, {"a": 0.8, "b": 0.1, "c": 0.1}, {"a": 1.0}]),
    st.integers(0, 2**63),
)
def test_a_composite_is_on_the_side_of_all_its_donors(
    donors: list[list[int]], fractions: dict[str, float], seed: int
) -> None:
    numbers = np.array(donors, np.int32)
    numbers[:, 0] = np.abs(numbers[:, 0])  # everything has a donor
    try:
        found = split_indices(numbers, 6, fractions, "group", seed)
    except ConfigError as error:
        assert "no composite has all its donors in" in str(error)
        return
    side = {group: name for name, groups in found.groups.items() for group in groups}
    assert sorted(side) == list(range(6))
    whole = {name: set(indices.tolist()) for name, indices in found.parts.items()}
    for index, row in enumerate(numbers.tolist()):
        sides = {side[group] for group in row if group >= 0}
        assert {name for name, indices in whole.items() if index in indices} == (sides if len(sides) == 1 else set())
    assert found.dropped == len(numbers) - sum(map(len, whole.values()))


@given(st.integers(3, 200), st.integers(0, 9))
def test_a_split_by_sample_drops_nothing_and_keeps_to_its_fractions(count: int, seed: int) -> None:
    found = split_indices(np.zeros((count, 2), np.int32), 1, {"a": 0.7, "b": 0.2, "c": 0.1}, "sample", seed)
    assert sorted(np.concatenate(list(found.parts.values())).tolist()) == list(range(count)) and not found.dropped
    for name, share in (("a", 0.7), ("b", 0.2), ("c", 0.1)):
        assert abs(len(found.parts[name]) - share * count) <= 2


@pytest.mark.parametrize(
    ("fractions", "by", "message"),
    [
        ({}, "group", "expected positive numbers that add up to 1"),
        ({"a": 0.5, "b": 0.4}, "group", "expected positive numbers that add up to 1"),
        ({"a": 1.5, "b": -0.5}, "sample", "expected positive numbers that add up to 1"),
        ({"a": 0.5, "b": 0.5}, "slide", "by 'slide': expected 'group' or 'sample'"),
        ({str(part): 0.125 for part in range(8)}, "group", "4 groups cannot be split into 8 parts"),
        ({"a": 0.75, "b": 0.25}, "group", "part 'b' is empty: no composite has all its donors in its 1 of 4"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(fractions: dict[str, float], by: Any, message: str) -> None:
    donors = np.array([[0, 1], [1, 2], [2, 3], [3, 0]], np.int32)
    with pytest.raises(ConfigError, match=message):
        split_indices(donors, 4, fractions, by, 0)


def test_class_pixels_are_those_of_the_masks(curated: CuratedSet) -> None:
    masks = curated.read(range(24))[1]
    assert np.array_equal(
        curated.class_pixels, np.stack([[(mask == value).sum() for value in range(4)] for mask in masks])
    )
    assert (curated.class_pixels.sum(1) == 32 * 32).all()


def test_a_run_stands_for_its_curated_set(data_set: DataSet, curated: CuratedSet) -> None:
    found = synthpipe.open_curated(data_set.curated.parent)
    assert found.path == data_set.curated and found.digest == curated.digest


def test_a_run_that_is_not_finished_has_no_curated_set(data_set: DataSet, tmp_path: Path) -> None:
    run = Path(shutil.copytree(data_set.curated.parent, tmp_path / "run"))
    journal = json.loads((run / "build.json").read_text())
    del journal["finished"]
    (run / "build.json").write_text(json.dumps(journal))
    with pytest.raises(StoreError, match="this run is not finished, so it has no curated set yet; run its"):
        synthpipe.open_curated(run)


def test_a_set_is_printed_as_a_summary(curated: CuratedSet) -> None:
    text = str(curated)
    assert text.startswith("CuratedSet of 24 samples (12 mosaic, 12 bezier), 32 x 32 pixels\n")
    assert f"tumour (in {(curated.labels[:, 0] > 0).sum()}), stroma (in " in text
    assert text.endswith(f"slides or patients, which split() keeps apart\n  path     {curated.path}")
    assert "3 samples (3 mosaic), 32 x 32 pixels, a part of 24\n" in repr(curated[:3])
    assert "0 samples (none)" in str(curated[:0])


def test_a_run_is_printed_as_a_summary(data_set: DataSet) -> None:
    text = str(synthpipe.open_run(data_set.curated.parent))
    assert text.startswith("Run of demo, finished\n  classes      tumour, stroma, normal\n")
    assert text.endswith(f"\n  path         {data_set.curated.parent}")


def test_samples_are_indexed_as_a_list_is(curated: CuratedSet) -> None:
    last: Any = np.int64(23)
    assert curated[-1] == curated[23] == curated[last] != curated[22]
    for chosen in (slice(3, 9, 2), slice(None, None, -1), slice(-2, None), slice(50, 60)):
        part = curated[chosen]
        assert isinstance(part, CuratedSet) and part.indices.tolist() == list(range(24))[chosen]
    assert curated[4] in curated and curated[4] not in curated[:4]
    assert curated[-2:].subset([-1])[0] == curated[23]
    assert replace(curated[4], labels=1 - curated[4].labels) not in curated
    unread = curated[:]
    unread._pixels = None  # type: ignore[assignment]  # what is no sample of these classes needs no pixels
    assert 5 not in unread and None not in unread
    for index in (24, -25):
        for ask in (curated.__getitem__, lambda index: curated.subset([0, index]), lambda index: curated.read([index])):
            with pytest.raises(IndexError, match=f"^no sample {index}; there are 24, counted from 0$"):
                ask(index)
    wrong: Any
    for wrong in (1.0, "1", [1, 2], curated.labels[:, 0] > 0):
        with pytest.raises(TypeError, match="expected an integer or a slice; subset takes several"):
            curated[wrong]


def test_a_sample_is_a_mapping_of_its_arrays(curated: CuratedSet) -> None:
    sample = curated[3]
    assert list(sample) == ["image", "mask", "labels"] and len(sample) == 3 and "taxonomy" not in sample
    assert all(dict(sample)[name] is getattr(sample, name) for name in sample)
    assert str(sample).startswith("<Sample of 32 x 32 pixels: ") and "\n" not in str(sample)
    with pytest.raises(KeyError, match="no array 'img'; a sample has image, mask, labels"):
        sample["img"]
    batch = torch.utils.data.default_collate([curated[3], curated[5]])
    assert batch.keys() == set(sample) and np.array_equal(batch["mask"][1].numpy(), curated[5].mask)


def test_a_split_is_a_mapping_of_its_parts(curated: CuratedSet) -> None:
    split = curated.split({"train": 0.75, "val": 0.25}, by="sample")
    assert list(split) == ["train", "val"] and len(split) == 2 and "test" not in split
    assert {name: len(part) for name, part in split.items()} == {"train": 18, "val": 6}
    assert dict(split)["val"] is split["val"] and split.get("test") is None
    with pytest.raises(KeyError, match="no part 'vall'; the parts are train, val"):
        split["vall"]


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("donor_groups", 10**6, r"sample 3 has the value 1000000; expected -1 to \d+"),
        ("donor_groups", -2, "sample 3 has the value -2"),
        ("origin_strategy", 7, "sample 3 has the value 7; expected 0 to 1"),
        ("labels", 9, "sample 3 has the value 9; expected 0 to 1"),
    ],
)
def test_values_that_lead_nowhere_are_refused(
    data_set: DataSet, tmp_path: Path, name: str, value: int, message: str
) -> None:
    store = Path(shutil.copytree(data_set.curated, tmp_path / "curated.zarr"))
    each = array(open_group(store), name)
    values = np.resize(read_range(each, 0, each.shape[0]), (shard_size(each), *each.shape[1:]))
    values[3] = value
    write_shard(each, 0, values)
    with pytest.raises(StoreError, match=rf"{name}: damaged: {message}"):
        synthpipe.open_curated(store)


def test_arrays_of_another_length_and_attributes_of_another_kind_are_refused(data_set: DataSet, tmp_path: Path) -> None:
    store = Path(shutil.copytree(data_set.curated, tmp_path / "curated.zarr"))
    for key, value in (("patches", {"layout": "none"}), ("glass", 5), ("patches", [1])):
        metadata = store / "zarr.json"
        before = metadata.read_text()
        data = json.loads(before)
        data["attributes"][key] = value
        metadata.write_text(json.dumps(data))
        with pytest.raises(StoreError, match=rf"curated\.zarr/zarr\.json: damaged: attributes\.{key}"):
            synthpipe.open_curated(store)
        metadata.write_text(before)
    labels = store / "labels" / "zarr.json"
    labels.write_text(json.dumps(json.loads(labels.read_text()) | {"shape": [23, 3]}))
    with pytest.raises(StoreError, match=r"damaged: labels has 23 samples, image has 24; expected one length"):
        synthpipe.open_curated(store)


@pytest.mark.parametrize("name", ["is_train", "class_pixels"])
def test_arrays_of_its_user_are_no_part_of_a_set(data_set: DataSet, tmp_path: Path, name: str) -> None:
    """This also holds for names that other groups of synthpipe use."""
    store = Path(shutil.copytree(data_set.curated, tmp_path / "curated.zarr"))
    zarr.create_array(store / name, shape=(24, 2), chunks=(1, 2), dtype="int16")
    curated = synthpipe.open_curated(store)
    assert len(curated) == 24 and name not in curated.arrays


def test_weights_give_rare_classes_a_say() -> None:
    pixels = np.array([[90, 10, 0, 0], [50, 0, 0, 50]])
    assert class_weights(pixels, "inverse") == pytest.approx(np.array([2 / 15, 28 / 15, 0]))
    assert class_weights(pixels, "median") == pytest.approx(np.array([2 / 11, 20 / 11, 0]) * np.array([1, 1, 1]), rel=1)
    frequency = np.array([140 / 150, 10 / 100])  # Eigen and Fergus: of the pixels in images where the class occurs
    weights = np.median(frequency) / frequency
    assert class_weights(pixels, "median")[:2] == pytest.approx(weights / weights.mean())
    with pytest.raises(ConfigError, match="kind 'mean': expected one of inverse, median"):
        class_weights(pixels, "mean")  # type: ignore[arg-type]
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.uint8)
    assert sample_weights(labels) == pytest.approx(np.array([1 / 3, 1 / 3, 2 / 3, 0]) / (4 / 3))


def test_xarray_knows_classes_and_codes(curated: CuratedSet) -> None:
    dataset = curated.to_xarray()
    assert dataset["class"].values.tolist() == ["tumour", "stroma", "normal"] and dataset.sizes["sample"] == 24
    assert dataset.labels.sel({"class": "stroma"}).values.tolist() == curated.labels[:, 1].tolist()
    assert dataset.origin_strategy.attrs["flag_meanings"] == "mosaic bezier"
    chunked = curated.to_xarray(chunks={"sample": 8})
    assert chunked.image.chunks[0] == (8, 8, 8)
    assert np.array_equal(chunked.mask.mean("sample").values, curated.read(range(24))[1].mean(0))


def test_a_transform_gets_arrays_and_decides_what_is_put_together(curated: CuratedSet) -> None:
    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        sample["image"][:] = 255 - sample["image"]  # its own arrays
        return {"inverted": sample["image"], "tissue": (sample["mask"] < 3).mean(), "labels": sample["labels"]}

    loader = curated.to_torch(transform).loader(8, seed=3, workers=2)
    order = list(Epochs(24, 8, 3))
    for batch, indices in zip(loader, order, strict=True):
        images, masks = curated.read(indices)
        assert batch["inverted"].shape == (8, 32, 32, 3) and np.array_equal(batch["inverted"].numpy(), 255 - images)
        assert batch["tissue"].tolist() == pytest.approx((masks < 3).mean((1, 2)).tolist())
    assert np.array_equal(curated.to_torch(transform)[5]["inverted"], 255 - curated[5].image)  # type: ignore[typeddict-item]


_REST = """
import json, sys, synthpipe
loader = synthpipe.open_curated(sys.argv[1]).to_torch().loader(4, seed=5, workers=int(sys.argv[2]))
loader.load_state_dict(json.loads(sys.argv[3]))
found = []
for _ in range(2):
    found += [[loader.epoch, *batch["image"].sum((1, 2, 3)).tolist()] for batch in loader]
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("workers", "consumed"),
    [pytest.param(2, 0, marks=pytest.mark.slow), (0, 4), pytest.param(2, 6, marks=pytest.mark.slow)],
)
def test_another_process_goes_on_in_the_middle_of_an_epoch(curated: CuratedSet, workers: int, consumed: int) -> None:
    whole, loader = [], curated.to_torch().loader(4, seed=5)
    for _ in range(3):
        whole += [[loader.epoch, *batch["image"].sum((1, 2, 3)).tolist()] for batch in loader]
    assert len(whole) == 18 and len(loader) == 6 and loader.epoch == 2
    epochs = [sorted(chain.from_iterable(each[1:] for each in whole[6 * epoch : 6 * epoch + 6])) for epoch in range(3)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert whole[:6] != whole[6:12]
    loader = curated.to_torch().loader(4, seed=5, workers=workers)
    for number, _ in enumerate(loader, 1):
        if number >= consumed:
            break
    if not consumed:
        loader = curated.to_torch().loader(4, seed=5, workers=workers)
    state = json.dumps(loader.state_dict())
    command = [sys.executable, "-c", _REST, str(curated.path), str(workers), state]
    rest = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert rest == whole[consumed : consumed + len(rest)] and len(rest) >= 6


def test_a_loop_that_was_left_goes_on(curated: CuratedSet) -> None:
    loader, whole = curated.to_torch().loader(8, workers=1), list(curated.to_torch().loader(8))
    first = next(iter(loader))
    rest = list(loader)
    assert len(rest) == 2 and loader.epoch == 0
    for found, expected in zip([first, *rest], whole, strict=True):
        assert torch.equal(found["mask"], expected["mask"])


def test_a_loader_knows_which_epochs_are_left(curated: CuratedSet) -> None:
    loader = curated.to_torch().loader(8)
    assert loader.epochs(2) == range(2)
    seen = []
    for epoch in loader.epochs(2):
        for batch in loader:
            seen.append((epoch, loader.epoch, loader.epochs(2).start, len(batch["mask"])))
    assert [each[:3] for each in seen] == [(0, 0, 0), (0, 0, 0), (0, 0, 1), (1, 1, 1), (1, 1, 1), (1, 1, 2)]
    assert not loader.epochs(2) and loader.epochs(3) == range(2, 3)


def test_without_xarray_the_message_says_what_to_install(curated: CuratedSet) -> None:
    code = "import sys; sys.modules['xarray'] = None; import synthpipe; synthpipe.open_curated(sys.argv[1]).to_xarray()"
    result = subprocess.run(
        [sys.executable, "-c", code, str(curated.path)], capture_output=True, text=True, check=False
    )
    assert (
        "MissingPackageError: to_xarray needs xarray, which is not installed; install with: pip install x"
        in result.stderr
    )


def test_devices_share_an_epoch_out(curated: CuratedSet) -> None:
    parts = [list(Epochs(23, 3, seed=1, rank=rank, world=2)) for rank in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    seen = [index for part in parts for batch in part for index in batch]
    assert len(set(seen)) == 18


_SHARE = """
import json, sys, synthpipe, torch
meeting = f"file://{sys.argv[3]}"
torch.distributed.init_process_group("gloo", init_method=meeting, rank=int(sys.argv[2]), world_size=2)
loader = synthpipe.open_curated(sys.argv[1]).to_torch().loader(4, seed=5)
print(json.dumps([value for batch in loader for value in batch["image"].sum((1, 2, 3)).tolist()]))
"""


def sums(loader: ResumableLoader) -> list[int]:
    """Return the sum of the pixels of each sample that a loader yields."""
    return list(chain.from_iterable(batch["image"].sum((1, 2, 3)).tolist() for batch in loader))


@pytest.mark.slow
def test_processes_of_torch_get_different_samples(curated: CuratedSet, tmp_path: Path) -> None:
    commands = [
        [sys.executable, "-c", _SHARE, str(curated.path), str(rank), str(tmp_path / "meeting")] for rank in range(2)
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    seen = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [len(each) for each in seen] == [12, 12]
    assert sorted(seen[0] + seen[1]) == sorted(sums(curated.to_torch().loader(4)))


@pytest.mark.parametrize(
    ("rank", "variables"),
    [("RANK", {"WORLD_SIZE": "2"}), ("SLURM_PROCID", {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"})],
    ids=["torchrun", "slurm"],
)
def test_processes_of_a_launcher_get_different_samples(
    curated: CuratedSet, rank: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seen = sums(curated.to_torch().loader(4)), []
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for number in range(2):
        monkeypatch.setenv(rank, str(number))
        seen.append(sums(curated.to_torch().loader(4, seed=5)))
    assert [len(each) for each in seen] == [12, 12] and sorted(seen[0] + seen[1]) == sorted(whole)


def test_another_share_than_the_launchers_is_refused(curated: CuratedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = curated.to_torch()
    early = dataset.loader(4)
    monkeypatch.setenv("SLURM_PROCID", "0")  # in a job's script, which is one process of one
    monkeypatch.setenv("SLURM_NTASKS", "3")
    assert len(dataset.loader(4)) == 6
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"got rank 1 of 4, but by RANK and WORLD_SIZE it is 1 of 2; leave"):
        dataset.loader(2, world=4)
    with pytest.raises(ConfigError, match=r"got rank 0 of 1, but by RANK and WORLD_SIZE it is 1 of 2"):
        next(iter(early))
    assert len(dataset.loader(4, rank=1, world=2)) == 3


def test_another_number_of_processes_resumes_equal_steps(curated: CuratedSet) -> None:
    def left(loader: ResumableLoader, state: dict[str, Any]) -> list[list[int]]:
        loader.load_state_dict(json.loads(json.dumps(state)))
        return [sorted(batch["image"].sum((1, 2, 3)).tolist()) for batch in loader]

    dataset = curated.to_torch()
    one = dataset.loader(8, seed=5)
    next(iter(one))
    state = one.state_dict()
    expected = left(dataset.loader(8, seed=5), state)
    halves = [left(dataset.loader(4, seed=5, rank=rank, world=2), state) for rank in range(2)]
    assert [sorted(first + second) for first, second in zip(*halves, strict=True)] == expected and len(expected) == 2
    state = dataset.loader(4, seed=5, rank=1, world=2).state_dict()
    assert len(left(dataset.loader(8, seed=5), state)) == 3


def test_weighted_epochs_draw_rare_samples_more_often() -> None:
    weights = np.array([0.7, *[0.3 / 99] * 99])
    epochs, drawn = Epochs(100, 10, 0, weights=weights), list[int]()
    for epochs.epoch in range(20):
        drawn += chain.from_iterable(epochs)
    assert len(drawn) == 2000 and drawn.count(0) == pytest.approx(1400, abs=100)
    rounded = np.full(12, 1 / 12, np.float32)  # whose sum is 1 in float32
    assert len(list(Epochs(12, 4, 0, weights=rounded))) == 3  # type: ignore[arg-type]


def test_a_state_of_another_loader_is_refused(curated: CuratedSet) -> None:
    state = curated.to_torch().loader(4, seed=5).state_dict()
    with pytest.raises(ConfigError, match="another curated, seed"):
        curated.subset(range(20)).to_torch().loader(4, seed=6).load_state_dict(state)
    weights = curated.sample_weights()
    with pytest.raises(ConfigError, match=r"another samples a step, weights, so the next"):
        curated.to_torch().loader(3, seed=5, world=2, weights=weights).load_state_dict(state)
    weighted = curated.to_torch().loader(4, weights=weights)
    weighted.load_state_dict(curated.to_torch().loader(4, weights=weights.copy()).state_dict())
    for wrong in ([0.5] * 24, [0.5, 0.5], [-1.0, 2.0, *[0.0] * 22]):
        with pytest.raises(ConfigError, match="expected 24 probabilities with the sum 1, such as those of `CuratedSet"):
            curated.to_torch().loader(4, weights=np.array(wrong))
    with pytest.raises(ConfigError, match="24 samples, batch_size 25, rank 0 of 1: expected at least one batch"):
        curated.to_torch().loader(25)
