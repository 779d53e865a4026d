from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from synthpipe.core.errors import ConfigError
from synthpipe.segment.network import SegmentationNetwork, outline, pretrained_network, with_own_normalisation
from synthpipe.segment.settings import NetworkSection
from tests.imagenet import LITE0

SMALL = NetworkSection(architecture="Unet", encoder="resnet18", weights=None)


@pytest.mark.parametrize(
    "architecture",
    ["Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer"],
)
def test_every_architecture_gives_masks_cam_and_labels(architecture: str) -> None:
    network = SegmentationNetwork(SMALL.model_copy(update={"architecture": architecture}), 3).eval()
    with torch.inference_mode():
        found = network(torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8))
    assert found.masks.shape == (2, 3, 64, 96) and found.labels.shape == (2, 3)
    assert found.cam.shape[:2] == (2, 3) and found.cam.shape[2] < 32
    assert torch.allclose(found.cam.mean((2, 3)), found.labels)


def test_timms_encoders_and_those_with_prefix_tokens_work() -> None:
    for architecture, encoder, size in (
        ("Unet", "tu-mobilenetv3_small_050", 64),
        ("DPT", "tu-vit_tiny_patch16_224", 224),
    ):
        settings = NetworkSection(architecture=architecture, encoder=encoder, weights=None)
        with torch.inference_mode():
            found = SegmentationNetwork(settings, 4).eval()(torch.zeros(1, 3, size, size))
        assert found.masks.shape == (1, 4, size, size) and found.cam.shape[1] == 4


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 64), (50, 70)])
def test_images_of_any_size_are_taken_and_padding_is_cut_away(size: tuple[int, int]) -> None:
    network = SegmentationNetwork(SMALL, 3).eval()
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        assert network(images).masks.shape == (1, 3, *size)
        assert network.segment(images, by_cam=True).shape == (1, 3, *size)
        assert torch.equal(network.segment(images), network(images).masks)


def test_pixels_are_normalised_in_the_network() -> None:
    settings = SMALL.model_copy(update={"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 1.0)})
    network = SegmentationNetwork(settings, 3).eval()
    seen: list[torch.Tensor] = []
    network.segmentation.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    network(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert torch.allclose(seen[0][0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "DeepLab"}, r"network.architecture: .* has no 'DeepLab'; did you mean DeepLabV3"),
        ({"encoder": "efficientnet_b6"}, r"network.encoder: .* has no 'efficientnet_b6'; did you mean efficientnet-b6"),
        ({"weights": "nothing"}, r"network.weights: .* has no 'nothing'; expected one of imagenet"),
        ({"encoder": "tu-resnet19"}, r"network.encoder: timm .* has no 'tu-resnet19'; did you mean tu-resnet"),
        ({"encoder": "tu-hf-hub:timm/resnet18"}, r"network.encoder: timm .* has no 'tu-hf-hub:timm/resnet18'"),
        ({"architecture": "DPT"}, r"segmentation-models-pytorch .* cannot make DPT"),
    ],
)
def test_a_network_that_there_is_not_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrained_network(SMALL.model_copy(update=changes), 3)


def test_timms_encoders_begin_with_a_file_of_the_whole_network() -> None:
    stored = torch.load(LITE0, weights_only=True)
    for architecture, encoder, first in (
        ("Unet", "tu-tf_efficientnet_lite0", "model.conv_stem.weight"),
        ("DeepLabV3Plus", "timm-tf_efficientnet_lite0", "conv_stem.weight"),
    ):
        settings = NetworkSection(architecture=architecture, encoder=encoder, weights=LITE0)
        found, why = pretrained_network(settings, 3)
        encoder_state = found.segmentation.encoder.state_dict()
        assert why is None and torch.equal(encoder_state[first], stored["_conv_stem.weight"])
        last = next(name for name in reversed(encoder_state) if name.endswith("blocks.6.0.bn3.running_var"))
        assert torch.equal(encoder_state[last], stored["_blocks.15._bn2.running_var"])


@pytest.mark.parametrize(("architecture", "name"), [("Unet", "convnext_atto"), ("DPT", "vit_tiny_patch16_224")])
def test_encoders_that_name_their_tensors_otherwise_get_all_of_them(
    architecture: str, name: str, tmp_path: Path
) -> None:
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    settings = NetworkSection(architecture=architecture, encoder=f"tu-{name}", weights=str(tmp_path / "w.pth"))
    encoder = pretrained_network(settings, 3)[0].segmentation.encoder
    stored = list(whole.state_dict().values())
    for each in encoder.state_dict().values():
        assert any(each.shape == other.shape and torch.equal(each, other) for other in stored)


def test_other_encoders_begin_with_a_file_too_and_its_head_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = SegmentationNetwork(SMALL, 3).segmentation.encoder.state_dict()
    torch.save(source | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, tmp_path / "w.pth")
    settings = SMALL.model_copy(update={"weights": str(tmp_path / "w.pth")})
    found = pretrained_network(settings, 3)[0].segmentation.encoder.state_dict()
    assert all(torch.equal(each, source[name]) for name, each in found.items())
    with pytest.raises(
        ConfigError, match=r"network\.weights: .*: does not fit resnet18 of segmentation-models-pytorch"
    ):
        pretrained_network(settings.model_copy(update={"weights": LITE0}), 3)


def test_a_timm_encoder_with_a_file_has_its_own_normalisation() -> None:
    settings = NetworkSection(architecture="Unet", encoder="tu-tf_efficientnet_lite0", weights=LITE0)
    assert with_own_normalisation(settings).mean == with_own_normalisation(settings).std == (0.5, 0.5, 0.5)
    for other in (SMALL, NetworkSection(), settings.model_copy(update={"weights": "imagenet"})):
        assert with_own_normalisation(other) == other


def test_no_name_of_weights_looks_like_a_path() -> None:
    for encoder in smp.encoders.encoders.values():
        assert not any(NetworkSection(weights=name).weights_file for name in encoder["pretrained_settings"])
    assert NetworkSection(weights="a.pth").weights_file == "a.pth"


def test_an_outline_has_the_tensors_of_its_network_and_takes_no_memory() -> None:
    for architecture, encoder in (("DeepLabV3Plus", "efficientnet-b0"), ("Segformer", "mit_b0"), ("Unet", "resnet18")):
        settings = NetworkSection(architecture=architecture, encoder=encoder, weights=None)
        found, real = outline(settings, 3).state_dict(), SegmentationNetwork(settings, 3).state_dict()
        assert all(each.is_meta for each in found.values())
        assert {name: (each.dtype, each.shape, each.stride()) for name, each in found.items()} == {
            name: (each.dtype, each.shape, each.stride()) for name, each in real.items()
        }
