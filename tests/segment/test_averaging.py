from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from synthpipe.cli.progress import LogReporter
from synthpipe.core.errors import StoreError
from synthpipe.pretrained.tensors import pack, unpack
from synthpipe.segment.averaging import WeightAverage
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.network import SegmentationNetwork
from synthpipe.segment.settings import NetworkSection, OptimizerSection
from synthpipe.segment.training import train
from tests.segment.conftest import CPU, DataSet, settings

AVERAGED = settings(optimizer=OptimizerSection(learning_rate=1e-3, average=0.5))


def test_the_average_is_short_at_first_and_covers_running_means() -> None:
    network = SegmentationNetwork(NetworkSection(architecture="Unet", encoder="tu-test_resnet", weights=None), 2)
    average = WeightAverage(network, 0.15)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step, decay in enumerate((0.1, 0.15, 0.15)):  # (1 + 0) / (10 + 0), and then the smaller 0.15
        for value in network.state_dict().values():
            value += step + 1
        for name, value in network.state_dict().items():
            whole = not value.is_floating_point()
            expected[name] = value.clone() if whole else decay * expected[name] + (1 - decay) * value
        average.update(network, step)
    found = average.network.state_dict()
    assert any(not value.is_floating_point() for value in found.values()) and any("running" in name for name in found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert not any(weights.requires_grad for weights in average.network.parameters())


def test_an_average_changes_no_step_and_resumes_to_the_bit(data_set: DataSet, tmp_path: Path) -> None:
    for name, chosen in ("plain", settings()), ("whole", AVERAGED):
        train(chosen, data_set.training_data(), tmp_path / name, CPU, LogReporter())
    asked = iter(range(1, 100))
    for _ in range(2):  # in the middle of the first epoch and of the second
        train(AVERAGED, data_set.training_data(), tmp_path / "cut", CPU, LogReporter(), lambda: next(asked) in (2, 4))
    train(AVERAGED, data_set.training_data(), tmp_path / "cut", CPU, LogReporter())
    plain, whole, cut = (Checkpoint.load(tmp_path / name / "last.ckpt") for name in ("plain", "whole", "cut"))
    assert whole.trained and cut.trained and plain.trained is None
    for name, value in plain.weights.items():
        assert torch.equal(whole.trained[name], value) and torch.equal(cut.trained[name], value), name
        assert torch.equal(cut.weights[name], whole.weights[name]), name
    assert any(not torch.equal(whole.weights[name], value) for name, value in whole.trained.items())
    one, other = (Checkpoint.load(tmp_path / name / "best.ckpt") for name in ("whole", "cut"))
    assert one.trained is None and all(torch.equal(other.weights[name], value) for name, value in one.weights.items())

    # a checkpoint with an average cannot be resumed without the weights of the last step
    about, tensors = unpack((tmp_path / "whole" / "last.ckpt").read_bytes())
    for change, message in (("remove", "trained/.* is missing"), ("add", "trained/more is unknown")):
        changed = {name: value for name, value in tensors.items() if change == "add" or not name.startswith("trained/")}
        changed |= {"trained/more": torch.ones(1)} if change == "add" else {}
        (tmp_path / "forged.ckpt").write_bytes(pack(json.loads(about), changed))
        with pytest.raises(StoreError, match=message):
            Checkpoint.load(tmp_path / "forged.ckpt")
