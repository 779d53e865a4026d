from __future__ import annotations

import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthpipe.config.pipeline import FilterSection
from synthpipe.core.errors import FilterError, StoreError
from synthpipe.core.records import Image
from synthpipe.filtering.epoch import FilterData, balanced_batches, best_threshold
from synthpipe.filtering.reproducible import reproducible
from synthpipe.filtering.scoring import Scorer
from synthpipe.filtering.training import FilterReport, load_report, train_filter
from synthpipe.pretrained.devices import choose_device
from tests.conftest import pipeline


def settings(**changes: object) -> FilterSection:
    changes = {"network": "test_resnet", "batch": 16, "epochs": {"mosaic": 3, "bezier": 1}} | changes
    return pipeline().filter.model_copy(update=changes)


def views(count: int, seamed: bool, seed: int) -> Image:
    """Noise, with a seam of two brightnesses where it is synthetic."""
    rng = np.random.default_rng(seed)
    images = rng.integers(80, 160, (count, 32, 32, 3), dtype=np.uint8)
    if seamed:
        images[:, :, 16:] += 60
    return images


def data(count: int = 96) -> FilterData:
    return FilterData(
        synthetic_train=views(count, True, 1),
        synthetic_val=views(40, True, 2),
        real_train=lambda epoch: views(count // 2, False, 10 + epoch),
        real_val=views(30, False, 3),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FilterReport]:
    directory = tmp_path_factory.mktemp("filter")
    return directory, train_filter(settings(), "mosaic", data(), 5, directory)


def test_it_learns_and_its_report_says_so(trained: tuple[Path, FilterReport]) -> None:
    directory, report = trained
    assert report.accuracy > 0.9 and report.auroc > 0.95
    counts = report.synthetic_train, report.synthetic_val, report.real_train, report.real_val
    assert counts == (96, 40, 48, 30)
    assert [epoch.epoch for epoch in report.epochs] == [0, 1, 2]
    assert report.epochs[-1].train_loss < report.epochs[0].train_loss
    assert load_report(directory / "mosaic.json") == report


def test_the_epoch_with_the_best_accuracy_is_kept(trained: tuple[Path, FilterReport]) -> None:
    directory, report = trained
    accuracies = [epoch.val_accuracy for epoch in report.epochs]
    assert report.accuracy == max(accuracies) and report.best_epoch == accuracies.index(max(accuracies))
    scorer = Scorer.load(directory / "mosaic.safetensors")
    found = [(scorer.score(images, 16) > 0.5) for images in (data().synthetic_val, data().real_val)]
    assert (1 - found[0].mean() + found[1].mean()) / 2 == pytest.approx(report.accuracy, abs=1e-6)
    assert scorer.sha256 == report.model_sha256


@given(
    st.lists(st.integers(0, 16), min_size=1, max_size=12),
    st.lists(st.integers(0, 16), min_size=1, max_size=12),
)
def test_the_best_threshold_is_the_one_that_separates_best(composites: list[int], patches: list[int]) -> None:
    synthetic, real = ((np.array(scores) / 16).astype(np.float32) for scores in (composites, patches))
    accuracy, threshold = best_threshold(synthetic, real)
    assert accuracy == pytest.approx(((synthetic <= threshold).mean() + (real > threshold).mean()) / 2)
    tried = [((synthetic <= each).mean() + (real > each).mean()) / 2 for each in np.arange(33) / 32]
    assert accuracy == pytest.approx(max(tried))


def test_scores_in_the_right_order_around_another_threshold() -> None:
    synthetic, real = np.array([0.01, 0.02, 0.1], np.float32), np.array([0.2, 0.3, 0.4], np.float32)
    accuracy, threshold = best_threshold(synthetic, real)
    assert accuracy == 1 and threshold == pytest.approx(0.15)
    assert best_threshold(real, 1 - real)[1] == 0.5


def test_the_same_seed_gives_the_same_weights(trained: tuple[Path, FilterReport], tmp_path: Path) -> None:
    torch.manual_seed(99)  # no global generator has a say
    again = train_filter(settings(), "mosaic", data(), 5, tmp_path)
    assert again.model_sha256 == trained[1].model_sha256
    assert train_filter(settings(), "mosaic", data(), 6, tmp_path).model_sha256 != again.model_sha256


@pytest.mark.slow
def test_another_process_gives_the_same_weights(trained: tuple[Path, FilterReport], tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.filtering.test_filter import *\n"
        f"print(train_filter(settings(), 'mosaic', data(), 5, Path({str(tmp_path)!r})).model_sha256)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == trained[1].model_sha256


def test_a_score_does_not_depend_on_what_else_is_scored(trained: tuple[Path, FilterReport]) -> None:
    scorer = Scorer.load(trained[0] / "mosaic.safetensors")
    images = np.concatenate([views(9, True, 20), views(8, False, 21)])
    whole = scorer.score(images, 8)
    assert whole.dtype == np.float32 and whole.min() >= 0 and whole.max() <= 1
    one_by_one = np.concatenate([scorer.score(images[number : number + 1], 8) for number in range(17)])
    assert np.array_equal(one_by_one, whole)
    assert np.array_equal(scorer.score(images[5:], 8), whole[5:])
    assert np.array_equal(scorer.score(images[::-1], 8)[::-1], whole)
    assert np.array_equal(scorer.score(images, 5), whole)
    assert len(scorer.score(images[:0], 8)) == 0


def test_images_are_read_while_others_are_computed(trained: tuple[Path, FilterReport]) -> None:
    scorer = Scorer.load(trained[0] / "mosaic.safetensors")
    images = views(200, True, 22)
    begun: defaultdict[int, threading.Event] = defaultdict(threading.Event)

    def fill(start: int, out: Image) -> None:
        begun[start].set()
        out[:] = images[start : start + len(out)]

    hook = scorer.network.module.register_forward_pre_hook(lambda *_: ahead.append(begun[32].wait(60)))
    ahead: list[bool] = []
    try:
        found = scorer.score_filled(fill, 200, (32, 32), 64)
    finally:
        hook.remove()
    assert all(ahead), "the second batch is read before the first is computed"
    assert sorted(begun) == list(range(0, 200, 32))
    assert np.array_equal(found, scorer.score(images, 64))


def test_an_error_of_reading_is_raised(trained: tuple[Path, FilterReport]) -> None:
    scorer = Scorer.load(trained[0] / "mosaic.safetensors")

    def fill(start: int, out: Image) -> None:
        out[:] = 0
        if start == 64:
            raise StoreError("sample 64 is damaged")

    with pytest.raises(StoreError, match="sample 64 is damaged"):
        scorer.score_filled(fill, 128, (32, 32), 64)


def test_an_epoch_shows_both_sides_alike_and_every_image_as_often_as_any_other() -> None:
    batches = list(balanced_batches(np.random.default_rng(0), 40, 7, 9))
    sizes = [len(synthetic) + len(real) for synthetic, real in batches]
    assert sum(sizes) == 80 and max(sizes) <= 9 and min(sizes) >= 8
    synthetic, real = (np.concatenate(indices) for indices in zip(*batches, strict=True))
    assert sorted(synthetic) == list(range(40))
    counts = np.bincount(real)
    assert len(real) == 40 and len(counts) == 7 and set(counts) == {5, 6}


def test_torch_is_left_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    with reproducible(1, choose_device("cpu"), 7):
        assert torch.initial_seed() == 7
        assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
    train_filter(settings(), "bezier", data(16), 0, tmp_path)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_device_whose_memory_is_full_is_explained(trained: tuple[Path, FilterReport], error: Exception) -> None:
    def full(*_: object) -> None:
        raise error

    scorer = Scorer.load(trained[0] / "mosaic.safetensors")
    scorer.network.module.register_forward_pre_hook(full)
    with pytest.raises(FilterError, match=r"full while filter\.batch 8 images of 32 x 32 are scored: .*fewer workers"):
        scorer.score(views(9, True, 1), 8)


def test_a_device_that_has_no_room_for_a_filter_is_explained(
    trained: tuple[Path, FilterReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FULL[0]

    monkeypatch.setattr("synthpipe.filtering.scoring.load_network", full)
    with pytest.raises(FilterError, match=r"full while .*mosaic\.safetensors is loaded: .*fewer workers"):
        Scorer.load(trained[0] / "mosaic.safetensors")


def test_an_operation_without_a_deterministic_form_is_explained(trained: tuple[Path, FilterReport]) -> None:
    scorer = Scorer.load(trained[0] / "mosaic.safetensors")
    twice, values = torch.tensor([0, 0]), torch.tensor([1.0, 2.0])
    scorer.network.module.register_forward_pre_hook(lambda *_: torch.zeros(4).put_(twice, values) and None)
    with pytest.raises(
        FilterError, match=r"filter\.network: on cpu put_ does not have a deterministic.*choose another"
    ):
        scorer.score(views(9, True, 1), 8)


def test_another_error_of_torch_stays_what_it_is(trained: tuple[Path, FilterReport]) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    scorer = Scorer.load(trained[0] / "mosaic.safetensors")
    scorer.network.module.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        scorer.score(views(9, True, 1), 8)


def test_errors_say_what_to_do(trained: tuple[Path, FilterReport], tmp_path: Path) -> None:
    with pytest.raises(FilterError, match=r"no network 'resnet81'; did you mean resnet"):
        train_filter(settings(network="resnet81"), "mosaic", data(16), 0, tmp_path)
    with pytest.raises(FilterError, match=r"(?s)loss in epoch 0 is .*(nan|inf).*lower filter\.learning_rate"):
        train_filter(settings(learning_rate=1e30), "mosaic", data(64), 0, tmp_path)
    assert not list(tmp_path.iterdir())
    weights = (trained[0] / "mosaic.safetensors").read_bytes()
    for content in (b"", weights[:1000], weights[: len(weights) // 2], b"x" * 100):
        (tmp_path / "damaged.safetensors").write_bytes(content)
        with pytest.raises(FilterError, match=r"damaged\.safetensors: is (not a filter's|damaged)"):
            Scorer.load(tmp_path / "damaged.safetensors")
    with pytest.raises(FilterError, match=r"gone\.safetensors: not found"):
        Scorer.load(tmp_path / "gone.safetensors")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(FilterError, match=r"report\.json: is damaged, or is not the report of a filter"):
        load_report(tmp_path / "report.json")
