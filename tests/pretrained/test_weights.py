from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import timm
import timm.data
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from synthpipe.core.errors import ConfigError
from synthpipe.pretrained.weights import Weights, heads, own_normalisation, read_weights
from tests.conftest import ROOT
from tests.imagenet import LITE0


def network(name: str = "test_resnet", seed: int = 1, **options: int) -> nn.Module:
    torch.manual_seed(seed)
    module: nn.Module = timm.create_model(name, **options)
    return module


def fit(path: Path, module: nn.Module) -> dict[str, Tensor]:
    return read_weights("filter.weights", str(path)).fit(module.state_dict(), heads(module), "the network")


def test_the_published_weights_of_another_package_see_what_is_in_pictures() -> None:
    """They are matched by order; daisy and palace are what ImageNet calls these pictures."""
    module = network("tf_efficientnet_lite0").eval()
    weights = read_weights("filter.weights", LITE0)
    assert weights.ordered and weights.sha256 == hashlib.sha256(Path(LITE0).read_bytes()).hexdigest()
    module.load_state_dict(weights.fit(module.state_dict(), heads(module), "it"), strict=False)
    assert own_normalisation("tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    prepare = timm.data.create_transform(**timm.data.resolve_data_config(model=module))
    for picture, label in (("flower.jpg", 985), ("china.jpg", 698)):
        with torch.inference_mode():
            logits = module(prepare(Image.fromarray(load_sample_image(picture)))[None])
        assert logits.argmax().item() == label


@pytest.mark.parametrize("form", ["safetensors", "archive", "stream", "checkpoint", "parallel", "half"])
def test_every_form_of_a_file_is_matched_by_name_and_its_head_left_out(form: str, tmp_path: Path) -> None:
    source, module, path = network().state_dict(), network(seed=2, num_classes=2), tmp_path / "weights"
    if form == "safetensors":
        safetensors.torch.save_file(source, path)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "state_dict": source}, path)
    elif form == "parallel":
        torch.save({f"module.{name}": each for name, each in reversed(source.items())}, path)
    elif form == "half":
        safetensors.torch.save_file({name: each.bfloat16() for name, each in source.items()}, path)
    else:
        torch.save(source, path, _use_new_zipfile_serialization=form == "archive")
    found = fit(path, module)
    expected = {name for name in source if not name.startswith("fc.") and not name.endswith("num_batches_tracked")}
    assert found.keys() == expected and all(each.dtype == torch.float32 for each in found.values())
    if form != "half":
        assert all(torch.equal(each, source[name]) for name, each in found.items())


def test_a_head_of_the_same_shape_is_taken_and_a_file_without_one_fits_too(tmp_path: Path) -> None:
    source, module = network(num_classes=2).state_dict(), network(seed=2, num_classes=2)
    torch.save(source, tmp_path / "whole")
    assert torch.equal(fit(tmp_path / "whole", module)["fc.weight"], source["fc.weight"])
    renamed = {f"my.{name}": each for name, each in source.items() if not name.startswith("fc.")}
    torch.save(renamed, tmp_path / "body")
    found = fit(tmp_path / "body", module)
    assert "fc.weight" not in found and torch.equal(found["conv1.0.weight"], source["conv1.0.weight"])


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w.pop("layer1.0.bn1.bias"), r"layer1\.0\.bn1\.bias is missing, expected shape \(\d+,\)"),
        (
            lambda w: w.update({"conv1.0.weight": torch.zeros(3, 3)}),
            r"conv1\.0\.weight has shape \(3, 3\), expected \(\d+, 3,",
        ),
        (lambda w: w.update(extra=torch.zeros(4)), r"extra of shape \(4,\) is not in the network"),
        (lambda w: w.update({"\x1b[31m": torch.zeros(4)}), r"\\x1b\[31m of shape"),
    ],
)
def test_weights_that_do_not_fit_are_named_with_both_shapes(change: Change, reason: str, tmp_path: Path) -> None:
    source, path = network().state_dict(), tmp_path / "w.pth"
    change(source)
    torch.save(source, path)
    with pytest.raises(
        ConfigError, match=rf"filter\.weights: .*w\.pth: does not fit the network: {reason}.*; give wei"
    ):
        fit(path, network())


def test_order_counts_only_where_shapes_and_kinds_agree_and_the_file_has_an_order(tmp_path: Path) -> None:
    source, path = network().state_dict(), tmp_path / "w"
    renamed = {f"a{number:03}.{name.rpartition('.')[2]}": each for number, (name, each) in enumerate(source.items())}
    torch.save(renamed, path)
    assert torch.equal(fit(path, network(seed=2))["fc.weight"], source["fc.weight"])
    names = [name for name in renamed if name.endswith((".weight", ".bias"))]
    swapped = dict(renamed)
    swapped[names[1]], swapped[names[2]] = renamed[names[2]], renamed[names[1]]
    torch.save({f"{name}x": each for name, each in swapped.items()}, path)
    with pytest.raises(ConfigError, match=r"found a000\.weightx of shape .*, expected conv1\.0\.weight of shape "):
        fit(path, network())
    torch.save(dict(list(renamed.items())[:-4]), path)
    with pytest.raises(ConfigError, match=r"it has \d+ tensors, expected \d+"):
        fit(path, network())
    safetensors.torch.save_file(renamed, path)
    with pytest.raises(ConfigError, match=r"conv1\.0\.weight is missing"):
        fit(path, network())


def test_order_does_not_count_against_names(tmp_path: Path) -> None:
    """Of two tensors of one shape in each other's place, order alone would take each for the other."""
    source, path = network().state_dict(), tmp_path / "w"
    names = [name for name in source if not name.endswith("num_batches_tracked")]
    one, other = "layer1.0.bn1.weight", "layer1.0.bn2.weight"
    assert source[one].shape == source[other].shape
    swapped = {one: other, other: one}
    renamed = {swapped.get(name, name): source[swapped.get(name, name)] for name in names if name != "conv1.0.weight"}
    torch.save({"my.weight": source["conv1.0.weight"], **renamed}, path)
    with pytest.raises(ConfigError, match=r"conv1\.0\.weight is missing"):
        fit(path, network(seed=2))


@pytest.mark.parametrize("method", [b"get", b"items"])
def test_attributes_in_the_place_of_methods_are_not_called(method: bytes, tmp_path: Path) -> None:
    source, path = network().state_dict(), tmp_path / "w"
    torch.save(source, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            state = b"}X" + len(method).to_bytes(4, "little") + method + b"K\x05sb."  # {method: 5}, of the OrderedDict
            archive.writestr(name, data.removesuffix(b".") + state if name.endswith("data.pkl") else data)
    found = fit(path, network(seed=2))
    assert torch.equal(found["conv1.0.weight"], source["conv1.0.weight"])


def test_files_that_are_no_sound_weights_are_refused(tmp_path: Path) -> None:
    sound, path = network().state_dict(), tmp_path / "w"
    files: dict[str, tuple[Callable[[], object], Callable[[bytes], bytes]]] = {
        "cut archive": (lambda: torch.save(sound, path), lambda data: data[:-100]),
        "cut": (lambda: safetensors.torch.save_file(sound, path), lambda data: data[:-100]),
        "header of 9 EB": (lambda: None, lambda data: (1 << 63).to_bytes(8, "little") + b"{}"),
        "header of 1 GB": (lambda: None, lambda data: (1 << 30).to_bytes(8, "little") + b"{" + b" " * 1000),
        "lists": (lambda: None, lambda data: (9000).to_bytes(8, "little") + b"{" + b"[" * 8999),
        "text": (lambda: None, lambda data: b"not weights"),
        "empty": (lambda: None, lambda data: b""),
        "a list": (lambda: torch.save([torch.zeros(3)], path), lambda data: data),
        "a number": (lambda: torch.save({"a": 3}, path), lambda data: data),
        "NaN": (lambda: torch.save({"a": torch.tensor(float("nan"))}, path), lambda data: data),
        "a large view": (lambda: torch.save({"a": torch.zeros(1).expand(1 << 40)}, path), lambda data: data),
    }
    for what, (write, change) in files.items():
        path.write_bytes(b"")
        write()
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(ConfigError, match=r"filter\.weights: .*w: cannot be used as weights: .*; expected a safet"):
            read_weights("filter.weights", str(path))
            pytest.fail(what)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: cannot be read: is a named pipe, expected a file"):
        read_weights("filter.weights", str(tmp_path / "pipe"))
    with pytest.raises(
        ConfigError, match=r"network\.weights: .*gone: not found; give a file that every training machine"
    ):
        read_weights("network.weights", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"filter\.weights: nosuch://user.*"):
        read_weights("filter.weights", "nosuch://user/w.pth")


def test_batch_counters_of_old_files_are_not_asked_for(tmp_path: Path) -> None:
    source = {name: each for name, each in network().state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(source, tmp_path / "w")
    assert fit(tmp_path / "w", network(seed=2)).keys() == source.keys()


@pytest.fixture
def silent_server() -> Iterator[tuple[str, list[str]]]:
    """A hub that never answers, and the files that were asked of it; other requests of its client are left out."""
    server, asked, kept = socket.create_server(("127.0.0.1", 0)), list[str](), list[socket.socket]()

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            kept.append(connection)
            path = connection.recv(4096).split()[1].decode()
            asked.extend([path] if "/resolve/" in path else [])

    thread = threading.Thread(target=accept)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    for connection in kept:
        connection.close()


def in_process(code: str, hub: str, home: Path) -> str:
    """Run code with another hub; its client reads the address from the environment when it is imported."""
    proxies = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_HUB_OFFLINE"}
    environment = {name: value for name, value in os.environ.items() if name.upper() not in proxies}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_ETAG_TIMEOUT": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


CHECK = (
    "import synthpipe.pretrained.weights as p; p._SECONDS = 1.0\n"
    "from synthpipe.filtering.network import check_start\n"
    "from tests.filtering.test_filter import settings\n"
    "try: check_start(settings(pretrained=True)); print('had')\n"
    "except Exception as error: print(type(error).__name__, error)"
)


def test_a_hub_that_does_not_answer_is_asked_once(silent_server: tuple[str, list[str]], tmp_path: Path) -> None:
    hub, asked = silent_server
    found = in_process(CHECK, hub, tmp_path)
    assert found.startswith("FilterError filter.pretrained: the weights of test_resnet are not available: ")
    assert "download model.safetensors from https://huggingface.co/timm/test_resnet" in found
    assert len(asked) == 1 and asked[0].startswith("/timm/test_resnet")


def test_weights_in_the_cache_of_the_hubs_client_are_used_without_a_network(tmp_path: Path) -> None:
    repository = timm.get_pretrained_cfg("test_resnet").hf_hub_id
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("1" * 40)
    (folder / "snapshots" / ("1" * 40)).mkdir(parents=True)
    safetensors.torch.save_file(network().state_dict(), folder / "snapshots" / ("1" * 40) / "model.safetensors")
    assert in_process(CHECK, "http://127.0.0.1:9", tmp_path) == "had\n"


def test_the_segmentation_stage_asks_a_silent_hub_once_too(
    silent_server: tuple[str, list[str]], tmp_path: Path
) -> None:
    hub, asked = silent_server
    code = (
        "import synthpipe.pretrained.weights as p; p._SECONDS = 1.0\n"
        "from synthpipe.segment.network import pretrained_network\n"
        "from synthpipe.segment.settings import NetworkSection\n"
        "for encoder in ('resnet18', 'tu-test_resnet'):\n"
        "    print(pretrained_network(NetworkSection(architecture='Unet', encoder=encoder), 3)[1])"
    )
    first, second = in_process(code, hub, tmp_path).splitlines()
    assert (
        first.startswith("the imagenet weights of resnet18 are not available (")
        and "starts with random weights" in first
    )
    assert second.startswith("the imagenet weights of tu-test_resnet are not available") and "network.weights" in second
    assert len(asked) == 2


def test_weights_are_a_record_of_their_file() -> None:
    assert Weights("a", "b", {}, True).fit({}, (), "nothing") == {}
