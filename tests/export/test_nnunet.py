"""Form ``nnunet``: its labels, and nnU-Net's own check of the data set, if nnunetv2 is installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from synthpipe.config.pipeline import PatchesSection
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.curated import Description
from synthpipe.export.nnunet import NnUNetRaw
from tests.export.conftest import exported, noise
from tests.export.test_forms import by_key


def test_nnunet_labels_begin_at_one_and_end_with_ignore(tmp_path: Path) -> None:
    curated = noise(tmp_path / "set.zarr")
    exported(curated, "nnunet", tmp_path / "out", part=5)
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    names = {"background": 0, "tumour": 1, "stroma": 2, "lymphocytic infiltrate": 3, "necrosis": 4, "ignore": 5}
    assert about["labels"] == names and about["numTraining"] == 12 and about["file_ending"] == ".png"
    for key, position in by_key(curated).items():
        with Pillow.open(tmp_path / "out" / "labelsTr" / f"{key}.png") as labels:
            assert labels.mode == "L" and np.array_equal(np.asarray(labels), curated[position].mask + 1)
        with Pillow.open(tmp_path / "out" / "imagesTr" / f"{key}_0000.png") as image:
            assert image.mode == "RGB" and np.array_equal(np.asarray(image), curated[position].image)


def test_nnunet_labels_keep_names_apart() -> None:
    classes = tuple(TissueClass(name, (0, 0, 0)) for name in ("ignore", "background", "background_"))
    found = NnUNetRaw(
        Description(Taxonomy(classes), (8, 8), "f", PatchesSection(root=".", layout="csv"), None)
    ).labels()
    assert found == {"background": 0, "ignore_": 1, "background_": 2, "background__": 3, "ignore": 4}


def test_nnunet_accepts_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nnunetv2")
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path))
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
    from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    curated = noise(tmp_path / "set.zarr", classes=3)
    exported(curated, "nnunet", tmp_path / "Dataset501_demo")
    assert convert_id_to_dataset_name(501) == "Dataset501_demo"
    verify_dataset_integrity(str(tmp_path / "Dataset501_demo"), num_processes=1)
    found = LabelManager(NnUNetRaw(curated.description).labels(), None)
    assert found.foreground_labels == [1, 2, 3] and found.ignore_label == 4
