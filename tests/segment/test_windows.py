from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from synthpipe.config.settings_file import load_settings
from synthpipe.core.errors import ConfigError
from synthpipe.core.records import Image
from synthpipe.segment.settings import TrainSettings, WindowSection
from synthpipe.segment.sliding_window import Block, Segment, predict, predict_mask, window_probabilities

CLASSES = 4
Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def image_of(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def network(*layers: tuple[int, int, int]) -> Segment:
    """Convolutions (in, out, kernel size), with zeros around the window: a window's edge shows."""
    torch.manual_seed(3)
    modules: list[nn.Module] = []
    for inputs, outputs, size in layers:
        modules += [nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.Tanh()]
    module = nn.Sequential(*modules).eval()
    return lambda windows: 3 * module(windows / 64 - 2)


per_pixel = network((3, CLASSES, 1))
with_borders = network((3, 6, 5), (6, CLASSES, 3))


def whole(image: Image, segment: Segment = per_pixel) -> NDArray[np.float32]:
    """One pass over the whole image."""
    with torch.inference_mode():
        return segment(torch.from_numpy(image).permute(2, 0, 1)[None].float()).softmax(1)[0].numpy()


def assemble(
    image: Image, windows: WindowSection, segment: Segment = per_pixel, block: int = 64, classes: int = CLASSES
) -> NDArray[np.float32]:
    """Put blocks together; each pixel must be in one of them."""
    found = np.full((classes, *image.shape[:2]), np.nan, np.float32)
    for part in predict(segment, image, windows, classes, "cpu", block):
        probabilities = part.probabilities.numpy()
        assert max(probabilities.shape[1:]) <= block and probabilities.dtype == np.float32
        target = found[:, part.y : part.y + probabilities.shape[1], part.x : part.x + probabilities.shape[2]]
        assert target.shape == probabilities.shape and np.isnan(target).all()
        target[...] = probabilities
    assert not np.isnan(found).any()
    return found


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Sizes of an image and of windows, and a stride."""
    size = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    stride = draw(st.integers(1, size[0])), draw(st.integers(1, size[1]))
    return (draw(st.integers(1, 40)), draw(st.integers(1, 40))), size, stride


@settings(max_examples=30, deadline=None)
@given(geometries(), st.sampled_from(["gaussian", "uniform"]), st.integers(1, 50), st.integers(1, 5))
@example(((1, 1), (12, 7), (5, 7)), "gaussian", 3, 1)  # much smaller than half a window
@example(((19, 20), (9, 9), (1, 1)), "uniform", 1, 1)  # each pixel in 81 windows
@example(((13, 40), (12, 12), (12, 12)), "gaussian", 12, 2)  # the last row of windows nearly covers the one before
def test_windows_of_a_network_without_borders_make_up_the_whole(
    geometry: Geometry, blend: str, block: int, batch: int
) -> None:
    shape, size, stride = geometry
    image = image_of(*shape)
    windows = WindowSection(size=size, stride=stride, blend=blend, batch=batch)
    # a pixel is the mean of up to 144 windows in float32, each of which may round by 6e-8
    assert np.allclose(assemble(image, windows, block=block), whole(image), rtol=0, atol=144 * 6e-8)


@settings(max_examples=20, deadline=None)
@given(geometries(), st.integers(1, 20))
def test_so_do_transformed_windows(geometry: Geometry, batch: int) -> None:
    shape, (size, _), (stride, _) = geometry
    image = image_of(*shape)

    def look(seen: Tensor) -> Tensor:
        assert len(seen) <= batch
        return per_pixel(seen)

    windows = WindowSection(size=size, stride=stride, flips=True, batch=batch)
    assert np.allclose(assemble(image, windows, look), whole(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("scales", "flips"), [((1.0,), False), ((1.5,), False), ((0.6,), False), ((1.0, 1.5), False), ((1.0, 1.5), True)]
)
@pytest.mark.parametrize("shape", [(41, 63), (9, 40)])
def test_the_result_does_not_depend_on_blocks(shape: tuple[int, int], scales: tuple[float, ...], flips: bool) -> None:
    image = image_of(*shape)
    windows = WindowSection(size=16, stride=6, scales=scales, flips=flips)
    expected = assemble(image, windows, with_borders, 1000)
    assert np.abs(expected - whole(image, with_borders)).max() > 1e-3, "windows must matter here"
    for block in (7, 16, 31):
        assert np.allclose(assemble(image, windows, with_borders, block), expected, rtol=0, atol=1e-5), block


def test_windows_overlap_with_the_weights_of_the_blend() -> None:
    image = np.zeros((8, 12, 3), np.uint8)

    def number(windows: Tensor) -> Tensor:  # the first window is of class 0, the second of class 1
        logits = torch.full((len(windows), 2, 8, 8), -50.0)
        logits[0, 0] = logits[1, 1] = 50.0
        return logits

    for blend, weight in (("uniform", np.ones(8)), ("gaussian", np.exp(-0.5 * (np.arange(8) - 3.5) ** 2))):
        found = assemble(image, WindowSection(size=8, stride=4, blend=blend), number, classes=2)
        expected = np.concatenate([np.zeros(4), weight[:4] / (weight[4:] + weight[:4]), np.ones(4)])
        assert np.allclose(found[1], expected, rtol=0, atol=1e-6)
        assert np.allclose(found.sum(0), 1, rtol=0, atol=1e-6)


def test_pixels_at_scale_1_and_calls_are_as_promised() -> None:
    image = image_of(30, 20)
    seen: list[Tensor] = []

    def look(windows: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        seen.append(windows.clone())
        return torch.zeros(len(windows), 2, 10, 12, dtype=torch.bfloat16)

    image.flags.writeable = False  # as of a memory map
    windows = WindowSection(size=(10, 12), stride=(10, 8), batch=4)
    assert (assemble(image, windows, look, classes=2) == 0.5).all()
    assert [len(batch) for batch in seen] == [4, 2]
    corners = list(itertools.product((0, 10, 20), (0, 8)))
    expected = np.stack([image[y : y + 10, x : x + 12].transpose(2, 0, 1) for y, x in corners])
    assert torch.cat(seen).dtype == torch.float32 and np.array_equal(torch.cat(seen).numpy(), expected)


def test_a_small_image_is_mirrored_around_and_cropped_again() -> None:
    image = image_of(3, 40)
    seen: list[Tensor] = []

    def look(windows: Tensor) -> Tensor:
        seen.append(windows.clone())
        return per_pixel(windows)

    found = assemble(image, WindowSection(size=16, stride=16), look)
    expected = np.pad(image, ((7, 6), (0, 0), (0, 0)), mode="symmetric")[:, :16].transpose(2, 0, 1)
    assert np.array_equal(seen[0][0].numpy(), expected)
    assert np.allclose(found, whole(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5, 1.5)])
def test_flips_make_the_prediction_turn_with_the_image(scales: tuple[float, ...]) -> None:
    image = image_of(48, 48)
    windows = WindowSection(size=16, stride=8, scales=scales, flips=True, batch=5)
    expected = assemble(image, windows, with_borders)
    turns: list[Callable[[NDArray[Any], tuple[int, int]], NDArray[Any]]] = [
        lambda pixels, axes: np.rot90(pixels, 1, axes),
        lambda pixels, axes: np.rot90(pixels, 2, axes),
        lambda pixels, axes: np.flip(pixels, axes[1]),
        lambda pixels, axes: np.rot90(np.flip(pixels, axes[0]), 1, axes),
    ]
    without = windows.model_copy(update={"flips": False})
    for turn in turns:
        turned = assemble(turn(image, (0, 1)), windows, with_borders)
        assert np.allclose(turned, turn(expected, (1, 2)), rtol=0, atol=1e-5)
        plain = turn(assemble(image, without, with_borders), (1, 2))
        assert np.abs(assemble(turn(image, (0, 1)), without, with_borders) - plain).max() > 1e-3


def test_only_the_mean_over_the_square_is_taken() -> None:
    image = image_of(12, 12)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    views = [(quarter, mirror) for quarter in range(4) for mirror in (False, True)]
    expected = torch.zeros(CLASSES, 12, 12)
    with torch.inference_mode():
        for quarter, mirror in views:
            turned = torch.rot90(pixels.flip(-1) if mirror else pixels, quarter, (-2, -1))
            back = torch.rot90(with_borders(turned).softmax(1)[0], -quarter, (-2, -1))
            expected += (back.flip(-1) if mirror else back) / 8
    found = assemble(image, WindowSection(size=12, stride=12, flips=True), with_borders)
    assert np.allclose(found, expected.numpy(), rtol=0, atol=1e-6)


def test_windows_are_predicted_as_images_of_their_size() -> None:
    windows = WindowSection(size=12, stride=12, flips=True, batch=5)
    images = [image_of(12, 12, seed) for seed in range(3)]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    found = window_probabilities(with_borders, pixels, windows, CLASSES).numpy()
    assert np.allclose(found, [assemble(image, windows, with_borders) for image in images], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.75, 1.25, 1.5, 2.0, 3.3])
@pytest.mark.parametrize("shape", [(60, 100), (61, 97)])
def test_a_ramp_comes_back_where_it_was_at_any_scale(shape: tuple[int, int], scale: float) -> None:
    rows, columns = np.indices(shape)
    image = np.stack([2 * columns, 3 * rows, np.full(shape, 60)], -1).astype(np.uint8)

    def colors(windows: Tensor) -> Tensor:
        return windows / 50

    found = assemble(image, WindowSection(size=24, stride=12, scales=(scale,)), colors, 33, 3)
    logits = np.log(found)
    ramps = 50 * (logits[:2] - logits[2]) + 60  # a shift by half a pixel would be 1 and 1.5
    edge = int(np.ceil(2 / min(scale, 1)))  # beside the border the mirrored image is no ramp
    error = np.abs(ramps - image.transpose(2, 0, 1)[:2])[:, edge:-edge, edge:-edge]
    assert error.max() < 0.1 / min(scale, 1)  # the softmax of an average of pixels is not quite a ramp
    assert np.abs(found - whole(image, colors)).max() < 0.03 / min(scale, 1)


def test_scales_are_averaged() -> None:
    image = image_of(40, 30)
    found = [
        assemble(image, WindowSection(size=16, stride=8, scales=scales), with_borders)
        for scales in ((1.0,), (1.7,), (1.0, 1.7))
    ]
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.allclose(found[2], (found[0] + found[1]) / 2, rtol=0, atol=1e-6)


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((80, 80, 3), np.uint8)
    stripes[:, ::2] = 255
    seen: list[Tensor] = []

    def look(windows: Tensor) -> Tensor:
        seen.append(windows.clone())
        return windows[:, :1]

    assemble(stripes, WindowSection(size=16, stride=16, scales=(0.2,)), look, classes=1)
    assert torch.cat(seen)[..., 1:-1].sub(127.5).abs().max() < 8


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest tensor that any operation returns, in bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def test_memory_follows_the_block_and_not_the_image() -> None:
    windows = WindowSection(size=128, stride=128, scales=(1.0, 2.0), batch=4)

    def begin(side: int) -> None:
        image = np.broadcast_to(np.uint8(7), (side, side, 3))  # takes no memory itself
        for block in itertools.islice(predict(lambda seen: seen, image, windows, 3, "cpu", 256), 2):
            assert block.probabilities.shape == (3, 256, 256)

    largest = {}
    for side in (1024, 6000):
        with _Largest() as tensors:
            begin(side)
        largest[side] = tensors.bytes
    assert largest[1024] == largest[6000] <= 12 * (2 * 256 + 2 * 128) ** 2

    tracemalloc.start()  # NumPy's arrays; torch has memory of its own
    begin(20000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6, "20000 x 20000 pixels are 1200e6 bytes"


def test_few_windows_are_computed_twice() -> None:
    calls: list[int] = []

    def count(windows: Tensor) -> Tensor:
        calls.append(len(windows))
        return windows

    image = np.zeros((672, 672, 3), np.uint8)
    windows = WindowSection(size=32, stride=16, batch=100)
    for block, expected in ((1000, 41**2), (340, 42**2)):  # 340 becomes 336, and one window a side lies across
        calls.clear()
        assemble(image, windows, count, block, 3)
        assert sum(calls) == expected


def test_the_mask_is_the_most_probable_class() -> None:
    image = image_of(50, 40)
    windows = WindowSection(size=16, stride=8)
    mask = predict_mask(with_borders, image, windows, CLASSES, "cpu", 20)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, assemble(image, windows, with_borders, 20).argmax(0))
    assert len(np.unique(mask)) > 1
    flat = predict_mask(lambda seen: torch.zeros_like(seen), image, windows, 3, "cpu")
    assert not flat.any(), "the first of equals"


def test_the_caller_may_change_a_block() -> None:
    block = next(predict(per_pixel, image_of(9, 9), WindowSection(size=8, stride=4), CLASSES, "cpu"))
    assert isinstance(block, Block) and (block.y, block.x) == (0, 0)
    block.probabilities[0] = 0  # a class that the label excludes


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size": 8, "stride": 9}, r"at most the size, \(8, 8\) as \(height, width\), so that windows leave no gaps"),
        ({"size": [8, 16], "stride": [4, 17]}, r"at most the size, \(8, 16\)"),
        ({"size": [8, 16], "stride": 8, "flips": True}, r"a square size with flips, got \(8, 16\)"),
        ({"size": 0, "stride": 1}, "greater than or equal to 1"),
        ({"size": 8, "stride": 8, "scales": []}, "at least 1 item"),
        ({"size": 8, "stride": 8, "scales": [0.0]}, r"greater than or equal to 0\.125"),
        ({"size": 8, "stride": 8, "batch": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_explained(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WindowSection.model_validate(keys)


def test_a_settings_file_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"validation\.stride: got 9; expected at most the size, \(8, 8\)"):
        load_settings(TrainSettings, None, ("validation.size=8", "validation.stride=9"))


def test_wrong_arguments_are_explained() -> None:
    windows = WindowSection(size=8, stride=8)
    image = image_of(20, 20)
    with pytest.raises(
        ValueError, match=r"image: got float32 of shape \(20, 20, 3\), expected a non-empty uint8 array"
    ):
        predict(per_pixel, image.astype(np.float32), windows, CLASSES, "cpu")
    for wrong in (image[..., 0], image[:0]):
        with pytest.raises(ValueError, match=r"expected a non-empty uint8 array of shape \(H, W, 3\)"):
            predict_mask(per_pixel, wrong, windows, CLASSES, "cpu")
    with pytest.raises(ValueError, match="got 4 classes and a block of 0 pixels, expected at least 1 of each"):
        predict(per_pixel, image, windows, CLASSES, "cpu", 0)
    with pytest.raises(ValueError, match="got 257 classes, expected at most 256"):
        predict_mask(per_pixel, image, windows, 257, "cpu")
    with pytest.raises(ValueError, match=r"logits of shape \(9, 4, 8, 8\), expected \(9, 3, 8, 8\)"):
        predict_mask(per_pixel, image, windows, 3, "cpu")
    with pytest.raises(ValueError, match="resize the logits to the window"):
        predict_mask(lambda seen: per_pixel(seen)[..., ::2, ::2], image, windows, CLASSES, "cpu")
