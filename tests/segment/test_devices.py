from __future__ import annotations

import pytest

from synthpipe.core.errors import ConfigError
from synthpipe.pretrained.devices import choose_device
from synthpipe.segment.devices import Hardware, open_fabric


def test_a_gpu_that_others_fill_is_not_one_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises this if a GPU is full before work begins; without a GPU no test can fill one."""

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("synthpipe.segment.devices.torch.empty", full)
    monkeypatch.setattr("synthpipe.segment.devices.Fabric", full)
    for begin in (lambda: choose_device("cpu"), lambda: open_fabric(Hardware("cpu"), mixed=False)):
        with pytest.raises(RuntimeError, match="out of memory") as found:
            begin()
        assert not isinstance(found.value, ConfigError)


@pytest.mark.parametrize("device", ["", ",", "cpu:0", "cuda:0,cuda", "cpu,cuda", "cuda:-1"])
def test_devices_that_are_written_wrongly_are_refused_in_words_of_the_option(device: str) -> None:
    with pytest.raises(ConfigError, match=f"^--device {device}: expected devices of one kind, such as cuda:0,cuda:1"):
        open_fabric(Hardware(device), mixed=False)
