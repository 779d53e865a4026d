"""Form ``fiftyone``: the written files, and their import by FiftyOne, if it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from synthpipe.export.entries import entry
from tests.export.conftest import exported, noise
from tests.export.test_forms import by_key

IMPORT = """
import json, sys
import fiftyone as fo
from PIL import Image

dataset = fo.Dataset.from_dir(sys.argv[1], dataset_type=fo.types.FiftyOneDataset)
found = {
    sample.key: {
        "image": list(Image.open(sample.filepath).tobytes()),
        "mask": sample.ground_truth.get_mask().tolist(),
        "about": [sample.labels, sample.groups, sample.index, sample.strategy, sample.p_real],
        "size": [sample.metadata.height, sample.metadata.width],
    }
    for sample in dataset
}
targets = {str(value): name for value, name in dataset.default_mask_targets.items()}
print(json.dumps({"samples": found, "targets": targets, "counts": dataset.count_values("labels")}))
dataset.delete()
"""
TARGETS = {"0": "background", "1": "tumour", "2": "stroma", "3": "lymphocytic infiltrate", "4": "necrosis"}


def test_background_is_value_0_and_classes_follow(tmp_path: Path) -> None:
    curated, out = noise(tmp_path / "set.zarr"), tmp_path / "out"
    exported(curated, "fiftyone", out, part=5)
    about = json.loads((out / "metadata.json").read_text())
    assert about["default_mask_targets"] == TARGETS and about["default_classes"] == list(curated.taxonomy.names)
    colors = about["app_config"]["color_scheme"]["default_mask_targets_colors"]
    assert colors[3] == {"intTarget": 4, "color": "#9900ff"} and len(colors) == 4
    fields = {field["name"] for field in about["sample_fields"]}
    identities = set()
    for key, position in by_key(curated).items():
        sample = json.loads((out / "samples" / f"{key}.json").read_text())
        assert sample.keys() <= fields | {"_id"}
        assert sample["metadata"]["size_bytes"] == (out / sample["filepath"]).stat().st_size
        identities |= {sample["_id"]["$oid"], sample["ground_truth"]["_id"]["$oid"]}
        with Pillow.open(out / sample["ground_truth"]["mask_path"]) as values:
            mask = curated[position].mask
            assert values.mode == "L" and np.array_equal(np.asarray(values), np.where(mask == 4, 0, mask + 1))
    assert len(identities) == 24


@pytest.mark.skipif(find_spec("fiftyone") is None, reason="fiftyone is not installed")
def test_fiftyone_imports_every_pixel_and_field(tmp_path: Path) -> None:
    curated = noise(tmp_path / "set.zarr")
    exported(curated, "fiftyone", tmp_path / "out", part=5)
    command = [sys.executable, "-c", IMPORT, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["targets"] == TARGETS and found["samples"].keys() == by_key(curated).keys()
    counts = curated.labels.sum(axis=0).tolist()
    assert found["counts"] == dict(zip(curated.taxonomy.names, counts, strict=True))
    for key, position in by_key(curated).items():
        sample, expected = found["samples"][key], entry(curated, position)
        assert bytes(sample["image"]) == curated[position].image.tobytes() and sample["size"] == [24, 20]
        mask = curated[position].mask
        assert np.array_equal(sample["mask"], np.where(mask == 4, 0, mask + 1))
        names = [name for name, occurs in zip(curated.taxonomy.names, expected.labels, strict=True) if occurs]
        assert sample["about"] == [names, list(expected.groups), expected.index, None, None]
