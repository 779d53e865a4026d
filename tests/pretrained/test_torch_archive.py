from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from typing import Any

import pytest
import torch

from synthpipe.pretrained import torch_archive

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def saved(content: Any, stream: bool) -> bytes:
    target = io.BytesIO()
    torch.save(content, target, _use_new_zipfile_serialization=not stream)
    return target.getvalue()


@pytest.mark.parametrize("stream", [False, True])
def test_both_forms_give_the_tensors_that_were_saved(stream: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(module.parameters()).state_dict()
    found = torch_archive.read(saved({"state_dict": module.state_dict(), "optimizer": optimizer, "epoch": 3}, stream))
    assert found["epoch"] == 3 and list(found["state_dict"]) == list(module.state_dict())
    assert all(torch.equal(found["state_dict"][name], each) for name, each in module.state_dict().items())
    assert torch.equal(torch_archive.read(saved(WEIGHTS, stream))["a.bias"], WEIGHTS["a.bias"])


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-a-pickle",)


class Large:
    """What torch itself would make of a name that it takes for harmless."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.Tensor, (1 << 40,)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("content", [Code(), Large(), {"weights": WEIGHTS, "more": [Code()]}])
def test_anything_but_tensors_and_plain_values_is_refused(
    content: Any, stream: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="expected tensors and plain values, found"):
        torch_archive.read(saved(content, stream))
    with pytest.raises(ValueError, match=r"\w"):  # a pickle alone is neither form
        torch_archive.read(pickle.dumps(content, 2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stream", [False, True])
def test_damaged_files_are_refused(stream: bool) -> None:
    data = saved(WEIGHTS, stream)
    for length in (0, 2, 40, len(data) // 2, len(data) - 4):
        with pytest.raises(ValueError):
            torch_archive.read(data[:length])


def test_a_stream_that_declares_more_values_than_it_has_bytes_is_refused() -> None:
    data = saved({"a": torch.zeros(1000)}, stream=True)
    declared = b"M" + struct.pack("<H", 1000)  # BININT2, once as the storage's size and once as the tensor's
    assert data.count(declared) == 2
    forged = data.replace(declared, b"J" + struct.pack("<i", 2**31 - 1))
    with pytest.raises(ValueError, match="declares 2147483647 values, but has"):
        torch_archive.read(forged)


def test_a_compressed_archive_is_refused() -> None:
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(1 << 20)}, stream=False))) as archive,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    with pytest.raises(ValueError, match="its members are compressed"):
        torch_archive.read(target.getvalue())
