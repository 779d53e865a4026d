"""The loaders in docs/export.md run unchanged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synthpipe.curated import CuratedSet
from synthpipe.export import FORMS
from synthpipe.export.entries import entry
from tests.conftest import ROOT
from tests.export.test_forms import Exports, by_key

SECTION = re.compile(r"^## `(\w+)`\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def loaders() -> list[Any]:
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    sections = dict(SECTION.findall(text))
    assert sections.keys() == set(FORMS)
    return [
        pytest.param(form, code, id=f"{form}-{number}")
        for form, section in sections.items()
        for number, code in enumerate(BLOCK.findall(section))
    ]


@pytest.fixture(scope="module")
def home(curated: CuratedSet, exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "exports").mkdir()
    for form in FORMS:
        (folder / "exports" / {"nnunet": "Dataset501_demo"}.get(form, form)).symlink_to(exports(form))
    (folder / "runs").mkdir()
    (folder / "runs" / "demo").symlink_to(str(curated.path.parent))
    return folder


@pytest.mark.filterwarnings("ignore:this split drops")
@pytest.mark.parametrize(("form", "code"), loaders())
def test_loaders_read_what_was_exported(
    form: str, code: str, curated: CuratedSet, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    if "import fiftyone" in code:
        pytest.importorskip("fiftyone")
    names: dict[str, Any] = {}
    exec(compile(code, f"docs/export.md, {form}", "exec"), names)
    if "train_dataset" in names:
        check_mmsegmentation(names["train_dataset"], curated)
        return
    if "fold" in names:
        check_fold(names["fold"], curated)
        return
    key = {
        "png": lambda: names["path"].name.split("-")[0],
        "webdataset": lambda: names["sample"]["__key__"],
        "hf": lambda: names["row"]["key"],
        "coco": lambda: names["about"]["key"],
        "nnunet": lambda: names["path"].stem,
        "fiftyone": lambda: names["sample"].key,
    }[form]()
    sample = curated[by_key(curated)[key]]
    if form == "fiftyone":
        assert np.array_equal(names["mask"], (sample.mask + 1) % 4)
        return
    assert np.array_equal(names["image"], sample.image) and np.array_equal(names["mask"], sample.mask)


def check_fold(fold: dict[str, list[str]], curated: CuratedSet) -> None:
    """No slide is in both parts."""
    positions = by_key(curated)
    groups = {
        name: {group for key in keys for group in entry(curated, positions[key]).groups} for name, keys in fold.items()
    }
    assert groups["train"] and groups["val"] and not groups["train"] & groups["val"]


def check_mmsegmentation(dataset: dict[str, Any], curated: CuratedSet) -> None:
    """Pair images and masks by their names without suffixes, as `BaseSegDataset` does."""
    root = Path(dataset["data_root"])
    images, masks = (root / dataset["data_prefix"][key] for key in ("img_path", "seg_map_path"))
    positions = by_key(curated)
    for image in images.glob(f"*{dataset['img_suffix']}"):
        mask = masks / (image.name.removesuffix(dataset["img_suffix"]) + dataset["seg_map_suffix"])
        position = positions.pop(image.name.split("-")[0])
        with Image.open(mask) as picture:
            assert np.array_equal(np.asarray(picture), curated[position].mask)
    assert not positions
    assert dataset["metainfo"]["classes"] == ["tumour", "stroma", "normal"]
    assert dataset["metainfo"]["palette"][0] == [0, 64, 128] and dataset["ignore_index"] == 3
