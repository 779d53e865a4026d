from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from synthpipe.build import build
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline import FilterSection
from synthpipe.core.errors import ConfigError, FilterError, StaleRunError
from synthpipe.core.records import Image
from synthpipe.filtering.network import Architecture, FilterNetwork, initial_network
from synthpipe.filtering.scoring import Scorer
from synthpipe.filtering.training import train_filter
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from tests.conftest import SMALL, pipeline
from tests.filtering.test_filter import data, settings
from tests.imagenet import LITE0

CPU = torch.device("cpu")
ONE_EPOCH = {"mosaic": 1, "bezier": 1}


def beginning_with(path: str | Path, **changes: object) -> FilterSection:
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return settings(**({"weights": str(path), "weights_sha256": digest} | changes))


def saved(path: Path, seed: int = 3, network: str = "test_resnet") -> Path:
    """Write the weights of an untrained network; one seed gives the same bytes under any name."""
    torch.manual_seed(seed)
    content = io.BytesIO()
    torch.save(timm.create_model(network).state_dict(), content)
    path.write_bytes(content.getvalue())
    return path


def test_a_filter_begins_with_published_weights_and_their_normalisation(tmp_path: Path) -> None:
    chosen = beginning_with(LITE0, network="tf_efficientnet_lite0", epochs=ONE_EPOCH)
    stored = torch.load(LITE0, weights_only=True)
    torch.manual_seed(0)
    network = initial_network(chosen, CPU)
    assert torch.equal(network.module.state_dict()["conv_stem.weight"], stored["_conv_stem.weight"])
    assert network.module.state_dict()["classifier.weight"].shape == (2, 1280)
    notes: list[str] = []
    train_filter(chosen, "mosaic", data(16), 5, tmp_path, on_note=notes.append)
    assert notes == [
        "note: the mosaic filter normalises images by mean [0.5, 0.5, 0.5] and std [0.5, 0.5, 0.5], as the weights of "
        "tf_efficientnet_lite0 expect"
    ]
    found = Scorer.load(tmp_path / "mosaic.safetensors").network.architecture
    assert found == Architecture("tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_the_weights_decide_and_not_where_they_lie(tmp_path: Path) -> None:
    def train(path: Path) -> str:
        chosen = beginning_with(path, epochs=ONE_EPOCH)
        return train_filter(chosen, "mosaic", data(16), 5, tmp_path / path.stem).model_sha256

    first = train(saved(tmp_path / "a.pth"))
    assert train(saved(tmp_path / "b.pth")) == first != train(saved(tmp_path / "c.pth", seed=4))


def test_an_interrupted_training_resumes_where_the_weights_have_moved(tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    first, moved = (beginning_with(saved(tmp_path / name)) for name in ("a.pth", "b.pth"))
    with pytest.raises(KeyboardInterrupt):
        train_filter(first, "mosaic", data(16), 5, tmp_path / "run", stop)
    (tmp_path / "a.pth").unlink()
    trained, sound = list[int](), data(16)

    def watched(epoch: int) -> Image:
        trained.append(epoch)
        return sound.real_train(epoch)

    resumed = train_filter(moved, "mosaic", replace(sound, real_train=watched), 5, tmp_path / "run")
    assert trained == [1, 2]
    assert resumed.model_sha256 == train_filter(moved, "mosaic", sound, 5, tmp_path / "whole").model_sha256


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    chosen = beginning_with(saved(tmp_path / "a.pth"))
    saved(tmp_path / "a.pth", seed=4)
    with pytest.raises(FilterError, match=r"a\.pth: its SHA-256 is .*, expected filter\.weights_sha256 .*; restore"):
        initial_network(chosen, CPU)


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_and_scores_in_float32(tmp_path: Path) -> None:
    chosen = settings(precision="mixed")
    report = train_filter(chosen, "mosaic", data(), 5, tmp_path)
    assert report.accuracy > 0.9 and train_filter(chosen, "mosaic", data(), 5, tmp_path).model_sha256 == (
        report.model_sha256
    )
    path, images = tmp_path / "mosaic.safetensors", data().synthetic_val
    mixed, full = Scorer.load(path, mixed=True), Scorer.load(path)
    kinds: list[torch.dtype] = []
    mixed.network.module.register_forward_hook(lambda module, arguments, logits: kinds.append(logits.dtype))
    scores = mixed.score(images, 16)
    assert set(kinds) == {torch.bfloat16} and scores.dtype == np.float32
    assert all(each.dtype == torch.float32 for each in mixed.network.module.parameters())
    assert np.allclose(scores, full.score(images, 16), atol=0.05) and not np.array_equal(scores, full.score(images, 16))
    assert np.array_equal(mixed.score(images[5:], 16), scores[5:])


def test_a_gpu_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such GPU is where tests run, so the test replaces what torch says of it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    architecture = Architecture("test_resnet", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(
        FilterError, match=r"filter\.precision: got mixed, but Tesla T4 does not support bfloat16; .*'32'"
    ):
        FilterNetwork(architecture, torch.device("cuda"), mixed=True)


def test_a_build_takes_the_same_weights_at_another_path_and_refuses_others(tmp_path: Path) -> None:
    write_phantom(tmp_path / "phantom", PhantomSpec(slides=4, patches=40, size=48, images=2))
    run, cluster = tmp_path / "run", ClusterSettings(Local(0))
    keys = (*SMALL, "glass.min_area=80", "bezier=null", f"patches.root={tmp_path / 'phantom'}")

    def with_weights(path: Path, *more: str) -> None:
        build(pipeline(*keys, f"filter.weights={path}", *more), run, cluster, LogReporter())

    with pytest.raises(ConfigError, match=r"filter\.weights: .*18\.pth: does not fit test_resnet of timm"):
        with_weights(saved(tmp_path / "18.pth", network="resnet18"))
    assert not (run / "filter" / "training.zarr").exists()  # nothing is rendered for a filter that cannot be trained
    with_weights(saved(tmp_path / "a.pth"))
    (tmp_path / "a.pth").unlink()
    with_weights(saved(tmp_path / "b.pth"), "curation.wanted=12")
    with pytest.raises(StaleRunError, match=r'filter\.weights_sha256: "[0-9a-f]{64}" -> "[0-9a-f]{64}"$'):
        with_weights(saved(tmp_path / "c.pth", seed=4))
