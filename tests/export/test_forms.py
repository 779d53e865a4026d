"""Every form: its own library reads the same pixels, and equal sets give equal bytes."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image as Pillow
from pycocotools import mask as pycoco
from pycocotools.coco import COCO

from synthpipe.config.pipeline import Layout, PatchesSection
from synthpipe.core.progress import Silent
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.curated import CuratedSet
from synthpipe.export import FORMS, form_of
from synthpipe.export.coco import from_runs, runs_of
from synthpipe.export.entries import Part, entry, part_of
from synthpipe.export.work import reader_of
from synthpipe.patches.layouts import read_layout
from synthpipe.segment.mask_check import check_masks
from synthpipe.segment.masks import masked_images
from tests.export.conftest import exported, noise

Exports = Callable[[str], Path]


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def by_key(curated: CuratedSet) -> dict[str, int]:
    return {entry(curated, position).key: position for position in range(len(curated))}


@pytest.mark.parametrize("form", FORMS)
def test_equal_sets_give_equal_bytes_whatever_the_workers(
    form: str, curated: CuratedSet, exports: Exports, tmp_path: Path
) -> None:
    found = exported(curated, form, tmp_path, workers=2)
    assert found.composites == len(curated) == 22 and found.parts == 3 and found.kept == 0
    (reader,) = found.read_back
    library = {"webdataset": "webdataset", "hf": "datasets", "coco": "pycocotools"}.get(form, "pillow")
    assert reader.split()[0] == ("nnunetv2" if form == "nnunet" and find_spec("nnunetv2") else library)
    assert digests(tmp_path) == digests(exports(form))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("form", FORMS)
def test_both_readers_find_every_pixel(form: str, tmp_path: Path) -> None:
    curated = noise(tmp_path / "set.zarr")
    exported(curated, form, tmp_path / "out", part=5)
    writer = form_of(form, curated.description)
    positions = by_key(curated)
    for read in (writer.read, reader_of(writer, tmp_path)[0]):
        found = [copy for number in range(3) for copy in read(tmp_path / "out", part_of(curated, number, 5))]
        assert [positions[copy.key] for copy in found] == list(range(12))
        for sample, copy in zip(curated, found, strict=True):
            assert np.array_equal(copy.image, sample.image) and np.array_equal(copy.mask, sample.mask)
            assert copy.labels in (None, tuple(sample.labels))


def test_keys_say_where_composites_come_from(curated: CuratedSet, tmp_path: Path) -> None:
    found = entry(curated, 12)
    origin = curated.origin(12)
    assert origin and (found.strategy, found.index) == origin and found.key == f"{origin[0]}{origin[1]:07}"
    assert found.labels == tuple(curated.labels[12]) and found.p_real is None
    donors = {curated.groups[number] for number in curated.donor_groups[12] if number >= 0}
    assert set(found.groups) == donors and list(found.groups) == sorted(donors)
    assert len(by_key(curated)) == len(curated)
    assert entry(noise(tmp_path / "set.zarr"), 7).to_json() == {
        **{"groups": ["slide1"], "index": 7, "labels": found_labels(tmp_path), "p_real": None, "strategy": None}
    }


def found_labels(tmp_path: Path) -> list[int]:
    return [int(digit) for digit in CuratedSet(tmp_path / "set.zarr").labels[7]]


@pytest.mark.parametrize(
    ("layout", "classes", "name", "group"),
    [
        ("wsss4luad", 3, "patch0000001-[0, 1, 0].png", "patch0000001"),
        ("bcss-wsss", 4, "patch0000001+0[0100].png", "patch0000001"),
        ("luad-histoseg", 4, "patch0000001-[0 1 0 0].png", "patch0000001"),
        ("folders", 3, "patch0000001-[0, 1, 0].png", ""),
        ("pattern", 3, "patch0000001-[0, 1, 0].png", ""),
        ("csv", 3, "patch0000001-[0, 1, 0].png", ""),
    ],
)
def test_png_names_are_those_of_the_published_data_set(
    layout: Layout, classes: int, name: str, group: str, tmp_path: Path
) -> None:
    curated = noise(tmp_path / "set.zarr", layout, classes=classes)
    form = form_of("png", curated.description)
    lone = Part(0, 1, (entry_with(curated, 1, tuple(int(label == 1) for label in range(classes))),))
    assert list(form.names(lone)) == [f"mask/{name}", f"img/{name}"]
    exported(curated, "png", tmp_path / "out")
    if not group:
        return
    pattern = r"^(\w+)\+" if layout == "bcss-wsss" else None  # the published one is of TCGA's patients
    patches = PatchesSection(root=str(tmp_path / "out" / "img"), layout=layout, group_pattern=pattern)
    # whatever its classes are called
    taxonomy = Taxonomy(tuple(replace(each, name=f"a {each.name}") for each in curated.taxonomy.classes))
    claims = read_layout(patches, taxonomy)
    assert [claim.problems for claim in claims] == [()] * 12
    labels = [tuple(np.flatnonzero(digits).tolist()) for digits in curated.labels]
    assert [claim.classes for claim in claims] == labels and claims[1].group == group


def entry_with(curated: CuratedSet, position: int, labels: tuple[int, ...]) -> Any:
    return replace(entry(curated, position), labels=labels)


def test_png_masks_are_palettes_of_class_indices(tmp_path: Path) -> None:
    curated = noise(tmp_path / "set.zarr", "bcss-wsss")
    exported(curated, "png", tmp_path / "out")
    images = masked_images(tmp_path / "out")
    check_masks(images, curated.taxonomy, Silent())
    masks = sorted((tmp_path / "out" / "mask").iterdir())
    assert [path.name for path in masks] == sorted(path.name for path in (tmp_path / "out" / "img").iterdir())
    with Pillow.open(masks[0]) as picture:
        assert picture.mode == "P" and np.array_equal(np.asarray(picture), curated[0].mask)
        palette = picture.getpalette()
    assert palette and palette[:15] == [255, 0, 0, 0, 255, 0, 0, 0, 255, 153, 0, 255, 255, 255, 255]
    meaning = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert meaning["classes"][2] == "lymphocytic infiltrate" and meaning["palette"][3] == [153, 0, 255]
    assert meaning["ignore_index"] == 4 and meaning["reduce_zero_label"] is False


def test_webdataset_streams_shards(curated: CuratedSet, exports: Exports) -> None:
    folder = exports("webdataset")
    shards = str(folder / "shard-{000000..000002}.tar")
    positions = by_key(curated)
    dataset = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")
    for sample in dataset:
        position = positions.pop(sample["__key__"])
        assert np.array_equal(sample["image.png"], curated[position].image)
        assert np.array_equal(sample["mask.png"][..., 0], curated[position].mask)
        assert sample["json"]["labels"] == curated.labels[position].tolist()
    assert not positions
    with tarfile.open(folder / "shard-000000.tar") as tar:
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in tar} == {(0, 0, "", 0o644)}


def test_hugging_face_loads_the_folder(curated: CuratedSet, exports: Exports, tmp_path: Path) -> None:
    dataset = load_dataset(str(exports("hf")), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(dataset) == 22
    assert dataset.features["labels"].feature.names == ["tumour", "stroma", "normal"]
    positions = by_key(curated)
    for row in dataset:
        position = positions.pop(row["key"])
        assert row["image"].mode == "RGB" and row["mask"].mode == "P"
        assert np.array_equal(np.asarray(row["image"]), curated[position].image)
        assert np.array_equal(np.asarray(row["mask"]), curated[position].mask)
        assert row["labels"] == np.flatnonzero(curated.labels[position]).tolist()
        assert (row["strategy"], row["index"]) == curated.origin(position) and row["p_real"] is None
    assert not positions


def test_pycocotools_reads_the_whole_file(curated: CuratedSet, exports: Exports) -> None:
    coco = COCO(str(exports("coco") / "annotations" / "instances.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["tumour", "stroma", "normal"]
    positions = by_key(curated)
    for image in coco.loadImgs(coco.getImgIds()):
        position = positions.pop(image["key"])
        mask = np.full((32, 36), 3)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        for each in annotations:
            inside = coco.annToMask(each) == 1
            mask[inside] = each["category_id"] - 1
            encoded = pycoco.encode(np.asfortranarray(inside))
            assert each["area"] == pycoco.area(encoded) and each["bbox"] == pycoco.toBbox(encoded).tolist()
        assert np.array_equal(mask, curated[position].mask)
        assert {each["category_id"] - 1 for each in annotations} == set(
            np.flatnonzero(curated.labels[position]).tolist()
        )
        assert (image["height"], image["width"]) == (32, 36)
    assert not positions
    assert len(set(coco.getAnnIds())) == len(coco.dataset["annotations"])
    coco.info()
    predictions = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]
    assert len(coco.loadRes(predictions).dataset["annotations"]) == 1  # where an evaluation begins


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_runs_are_those_of_pycocotools(inside: NDArray[np.bool_]) -> None:
    counts = runs_of(inside)
    assert np.array_equal(from_runs(counts, (inside.shape[0], inside.shape[1])), inside)
    compressed = pycoco.frPyObjects({"size": list(inside.shape), "counts": counts}, *inside.shape)
    assert compressed == pycoco.encode(np.asfortranarray(inside.astype(np.uint8)))
