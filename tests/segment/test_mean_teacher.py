from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from segmentation_models_pytorch.losses import DiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from synthpipe.cli.progress import LogReporter
from synthpipe.core.errors import ConfigError, StoreError
from synthpipe.pretrained.tensors import pack, unpack
from synthpipe.segment.augmentation import apply_views
from synthpipe.segment.batches import Steps
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.confidence import fit_confidence
from synthpipe.segment.mean_teacher import (
    MeanTeacher,
    Taught,
    class_mix,
    hide_blocks,
    pseudo_masks,
    sure_masks,
    taught_loss,
    teach,
)
from synthpipe.segment.network import SegmentationNetwork
from synthpipe.segment.settings import ConsistencySection, TrainSettings
from synthpipe.segment.training import train
from tests.segment.conftest import CPU, DataSet, settings
from tests.segment.test_training import command, rows, run

CLASSES = 3
ALL = {"form": "mean_teacher", "class_mix": True, "masked": 0.5, "block": 8, "warmup_steps": 1}


def labels(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


def patches(count: int = 3) -> Taught:
    """Real patches of class 0 alone, on which everything counts half."""
    torch.manual_seed(1)
    masks = torch.zeros(count, 32, 32, dtype=torch.int64)
    return Taught(torch.rand(count, 3, 32, 32), labels([1, 0, 0]).repeat(count, 1), masks, torch.full(masks.shape, 0.5))


def test_a_teacher_predicts_only_classes_of_the_label() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, CLASSES, 32, 32)
    masks, _ = pseudo_masks(logits, labels([1, 0, 1], [0, 1, 1], [1, 1, 1]), torch.zeros(3, 32, 32) > 0, 0.5)
    assert torch.equal(masks[0], torch.where(logits[0, 0] > logits[0, 2], 0, 2))
    assert torch.equal(masks[1], torch.where(logits[1, 1] > logits[1, 2], 1, 2))
    assert torch.equal(masks[2], logits[2].argmax(0))


def test_a_patch_of_one_class_is_supervised_whole_and_a_patch_without_a_class_not_at_all() -> None:
    torch.manual_seed(0)
    glass = torch.zeros(2, 32, 32) > 0
    glass[:, :8] = True
    masks, weights = pseudo_masks(torch.randn(2, CLASSES, 32, 32), labels([0, 1, 0], [0, 0, 0]), glass, 0.968)
    assert (masks[0, 8:] == 1).all() and (masks[0, :8] == CLASSES).all() and (weights[0] == 1).all()
    assert (masks[1] == CLASSES).all() and (weights[1] == 0).all()


def test_the_weight_of_a_patch_is_its_share_of_sure_pixels_without_glass() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0, :2] = 5  # a probability of 0.993; elsewhere it is 0.5
    glass = torch.zeros(1, 4, 4) > 0
    _, weights = pseudo_masks(logits, labels([1, 1]), glass, 0.968)
    assert (weights == 0.5).all()
    glass[:, 0] = True
    _, weights = pseudo_masks(logits, labels([1, 1]), glass, 0.968)
    torch.testing.assert_close(weights, torch.full_like(weights, 4 / 12))


def test_the_surest_pixels_of_balanced_classes_are_those_of_pseudo_label() -> None:
    torch.manual_seed(0)
    logits, of = 3 * torch.randn(4, CLASSES, 16, 16), labels([1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0])
    logits[:, 0] += 2  # the teacher favours a class
    glass = torch.zeros(4, 16, 16) > 0
    masks, weights = sure_masks(logits, of, glass, 0.6)
    probabilities = logits.softmax(1).numpy()
    points = probabilities[1:3].transpose(0, 2, 3, 1).reshape(-1, CLASSES)
    rule = fit_confidence(points, of[1:3].repeat_interleave(256, 0).numpy(), 0.6)
    assert np.array_equal(masks[:3].numpy(), rule.mask(probabilities[:3], of[:3].numpy(), CLASSES))
    assert (masks[0] == 0).all() and (masks[3] == CLASSES).all() and (weights == 1).all()
    assert float((masks[1:3] < CLASSES).float().mean()) == pytest.approx(0.6, abs=0.02)
    glass[1] = True
    assert (sure_masks(logits, of, glass, 0.6)[0][1] == CLASSES).all()
    alone, _ = sure_masks(logits[:1], of[:1], glass[:1], 0.6)  # no mixed patch, so nothing is balanced
    assert (alone == 0).all()


def test_class_mix_pastes_half_of_the_classes_of_a_composite() -> None:
    taught = patches()
    images, masks = torch.rand(2, 3, 32, 32) + 2, torch.randint(0, CLASSES + 1, (2, 32, 32), dtype=torch.uint8)
    masks[1].clamp_(min=1)  # classes 1 and 2, and ignored pixels
    found = class_mix(images, masks, taught)
    for index, partner, most in ((0, 0, 2), (1, 1, 1), (2, 0, 2)):
        pasted = (found.images[index] > 1.5).all(0)
        chosen = np.unique(masks[partner][pasted].numpy()).tolist()
        assert len(chosen) == most and CLASSES not in chosen
        assert torch.equal(pasted, torch.isin(masks[partner], torch.tensor(chosen)))
        assert torch.equal(found.images[index], torch.where(pasted, images[partner], taught.images[index]))
        assert torch.equal(found.masks[index], torch.where(pasted, masks[partner].long(), taught.masks[index]))
        assert torch.equal(found.weights[index], torch.where(pasted, 1.0, 0.5))
        assert set(found.labels[index].nonzero().flatten().tolist()) == {0, *chosen}


def test_hidden_blocks_have_one_colour_and_the_chosen_share() -> None:
    torch.manual_seed(0)
    fill = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    found = hide_blocks(torch.zeros(40, 3, 20, 36), 0.7, 8, fill)
    hidden = (found == fill).all(1)
    assert torch.equal(found, hidden[:, None] * fill)
    blocks = hidden[:, ::8, ::8]
    assert torch.equal(hidden, blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :20, :36])
    assert float(blocks.float().mean()) == pytest.approx(0.7, abs=0.05)


def test_masked_images_keep_the_masks_of_the_whole_images() -> None:
    torch.manual_seed(0)
    images, masks, of = torch.rand(4, 3, 32, 32) + 1, torch.zeros(4, 32, 32, dtype=torch.uint8), labels([1, 1, 0])
    logits, fill = torch.randn(4, CLASSES, 32, 32), torch.zeros(3, 1, 1)
    plain = teach(logits, images, masks, of.repeat(4, 1), fill, ConsistencySection(form="mean_teacher"))
    masked = teach(logits, images, masks, of.repeat(4, 1), fill, ConsistencySection(form="mean_teacher", masked=0.5))
    assert torch.equal(plain.images, images) and not torch.equal(masked.images, images)
    assert all(torch.equal(one, other) for one, other in zip(plain[1:], masked[1:], strict=True))


def test_the_loss_is_a_weighted_cross_entropy_without_ignored_pixels() -> None:
    taught = patches(2)
    taught.masks[1] = CLASSES
    logits = torch.randn(2, CLASSES, 32, 32)
    taught = taught._replace(weights=taught.weights / 2)
    expected = -0.25 * logits.log_softmax(1)[0, 0].mean()
    assert float(taught_loss(logits, taught)) == pytest.approx(float(expected), abs=1e-6)
    nothing = taught._replace(masks=torch.full_like(taught.masks, CLASSES))
    assert float(taught_loss(logits, nothing)) == 0


@pytest.mark.filterwarnings("ignore:The `srun` command is available")  # on login nodes; srun is not needed
def test_a_teacher_in_mixed_precision_gives_masks_and_weights_of_full_precision() -> None:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    network = SegmentationNetwork(settings().network, CLASSES)
    teacher = MeanTeacher(fabric, network, ConsistencySection.model_validate(ALL))
    before = {name: value.clone() for name, value in teacher.average.network.state_dict().items()}
    images, masks = 255 * torch.rand(4, 3, 32, 32), torch.zeros(4, 32, 32, dtype=torch.uint8)
    taught = teacher.teach(images, masks, labels([1, 1, 0], [0, 1, 1]))
    assert (taught.images.dtype, taught.masks.dtype, taught.weights.dtype) == (
        torch.float32, torch.int64, torch.float32,
    )  # fmt: skip
    with fabric.autocast():
        logits = network(taught.images).masks
    loss = taught_loss(logits, taught)
    assert logits.dtype == torch.bfloat16 and torch.equal(loss, taught_loss(logits.float(), taught))
    after = teacher.average.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), (
        "teaching must not change the teacher"
    )


def test_a_stopped_training_with_a_teacher_resumes_to_the_bit(data_set: DataSet, tmp_path: Path) -> None:
    chosen, data = settings(consistency=ALL), data_set.training_data()
    train(chosen, data, tmp_path / "whole", CPU, LogReporter())
    asked = iter(range(1, 100))
    for _ in range(2):  # in the middle of the first epoch and of the second
        train(chosen, data, tmp_path / "cut", CPU, LogReporter(), lambda: next(asked) in (2, 4))
    train(chosen, data, tmp_path / "cut", CPU, LogReporter())
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    consistency = [float(row["consistency"]) for row in rows(tmp_path / "whole")]
    assert consistency[0] == 0 and min(consistency[1:]) > 0, "the teacher begins after warmup_steps"
    one, other = (Checkpoint.load(tmp_path / name / "last.ckpt") for name in ("whole", "cut"))
    assert one.teacher and other.teacher
    for name, value in one.weights.items():
        assert torch.equal(other.weights[name], value) and torch.equal(other.teacher[name], one.teacher[name]), name
    assert any(not torch.equal(one.teacher[name], value) for name, value in one.weights.items())
    assert Checkpoint.load(tmp_path / "whole" / "best.ckpt").teacher is None


@pytest.mark.parametrize("change", ["remove", "add"])
def test_a_checkpoint_with_another_teacher_is_refused(data_set: DataSet, tmp_path: Path, change: str) -> None:
    chosen, data = settings(consistency=ALL), data_set.training_data()
    train(chosen, data, tmp_path, CPU, LogReporter(), lambda: True)
    path = tmp_path / "last.ckpt"
    about, tensors = unpack(path.read_bytes())
    if change == "remove":
        tensors = {name: value for name, value in tensors.items() if not name.startswith("teacher/")}
    else:
        tensors["teacher/more"] = torch.ones(1)
    path.write_bytes(pack(json.loads(about), tensors))
    message = "it has no weights of the teacher" if change == "remove" else "teacher/more is unknown"
    with pytest.raises(StoreError, match=rf"last\.ckpt: cannot be .*: {message}"):
        train(chosen, data, tmp_path, CPU, LogReporter())


def test_a_checkpoint_from_before_the_teacher_resumes(trained: Path, data_set: DataSet, tmp_path: Path) -> None:
    asked = iter([True])
    train(settings(), data_set.training_data(), tmp_path, CPU, LogReporter(), lambda: next(asked))
    path = tmp_path / "last.ckpt"
    text, tensors = unpack(path.read_bytes())
    about: dict[str, Any] = json.loads(text)
    new = ("form", "momentum", "threshold", "keep", "warmup_steps", "class_mix", "masked", "block")
    for key in new:
        del about["settings"]["consistency"][key]
    path.write_bytes(pack(about, tensors))
    train(settings(), data_set.training_data(), tmp_path, CPU, LogReporter())
    assert rows(tmp_path) == rows(trained)


def test_a_teacher_without_composites_is_refused(data_set: DataSet, tmp_path: Path) -> None:
    data = replace(data_set.training_data(), composites=None)
    with pytest.raises(ConfigError, match=r"consistency\.form: got mean_teacher without composites, whose masks"):
        train(settings(consistency=ALL), data, tmp_path, CPU, LogReporter())
    unused = settings(consistency=ALL, loss={"consistency": 0}, epochs=1)
    train(unused, data, tmp_path, CPU, LogReporter())
    assert Checkpoint.load(tmp_path / "last.ckpt").teacher is None


def test_the_published_form_takes_the_plain_steps_of_the_method(data_set: DataSet, tmp_path: Path) -> None:
    """A plain loop in this test gives the same weights, to the bit."""
    chosen, data = settings(epochs=1), data_set.training_data()
    train(chosen, data, tmp_path, CPU, LogReporter())
    ignore = data.description.taxonomy.background
    torch.manual_seed(_seed(0))
    network = SegmentationNetwork(chosen.network, len(data.description.taxonomy)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    steps = Steps(chosen, data.composites, data.real)
    for step in range(3):
        loss = _published_loss(network, steps, step, chosen, ignore)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = Checkpoint.load(tmp_path / "last.ckpt").weights
    for name, value in network.state_dict().items():
        assert torch.equal(found[name], value), name


def _published_loss(
    network: SegmentationNetwork, steps: Steps, step: int, chosen: TrainSettings, ignore: int
) -> torch.Tensor:
    batch, count = steps[step], chosen.composites
    torch.manual_seed(_seed(1 + step))
    images, masks = apply_views(batch["images"], batch["masks"], batch["views"], ignore)
    outputs, of = network(images.contiguous(memory_format=torch.channels_last)), batch["labels"].float()
    dice = DiceLoss("multiclass", ignore_index=ignore)(outputs.masks[:count], masks[:count].clamp(max=ignore).long())
    by_labels = binary_cross_entropy_with_logits(outputs.labels[:count], of[:count])
    by_labels = by_labels + binary_cross_entropy_with_logits(outputs.labels[count:], of[count:])
    cam = outputs.cam[count:].softmax(1)
    decoded = interpolate(outputs.masks[count:], cam.shape[-2:], mode="bilinear", align_corners=False).softmax(1)
    loss: torch.Tensor = dice + by_labels + (decoded - cam).abs().sum() / cam.numel()
    return loss


def _seed(word: int) -> int:
    return int(np.random.SeedSequence([0, word, 0]).generate_state(1, np.uint64)[0])


@pytest.mark.slow
def test_two_devices_have_one_teacher(data_set: DataSet, tmp_path: Path) -> None:
    """Only the first device's teacher is saved, so a resumed training differs if the other device has another one."""
    options = [f"--set=consistency.{key}={str(value).lower()}" for key, value in ALL.items()]
    for name, epochs in (("whole", 2), ("grown", 1), ("grown", 2)):
        asked = command(data_set, tmp_path / name, "--device", "cpu,cpu", f"--set=epochs={epochs}", *options)
        found = run(asked)
        assert found.returncode == 0, found.stderr
    assert rows(tmp_path / "grown") == rows(tmp_path / "whole")
    one, other = (Checkpoint.load(tmp_path / name / "last.ckpt") for name in ("whole", "grown"))
    assert one.teacher and other.teacher
    assert all(torch.equal(other.teacher[name], value) for name, value in one.teacher.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_teacher_on_a_gpu_draws_the_blocks_and_classes_of_the_cpu() -> None:
    torch.manual_seed(0)
    logits, images = torch.randn(3, CLASSES, 32, 32), torch.rand(5, 3, 32, 32)
    masks, of = torch.randint(0, CLASSES, (5, 32, 32), dtype=torch.uint8), labels([1, 1, 0], [1, 0, 1], [1, 1, 1])
    chosen, found = ConsistencySection.model_validate(ALL), []
    for device in ("cpu", "cuda"):
        torch.manual_seed(5)
        on = [each.to(device) for each in (logits, images, masks, of, torch.zeros(3, 1, 1))]
        taught = teach(on[0], on[1], on[2], on[3], on[4], chosen)
        found.append([each.cpu() for each in taught])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
