"""Get the initial weights of a network from a user's file or from timm's hub.

A weights file may come from a stranger. Reading a file runs no code, and needs at most a few times the file's size in
memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import timm
import timm.data
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor, nn

from synthpipe.core.display import printable
from synthpipe.core.errors import ConfigError, SynthpipeError
from synthpipe.files.locations import parse_location
from synthpipe.files.reading import LARGEST_WEIGHTS, read_regular
from synthpipe.pretrained import torch_archive
from synthpipe.pretrained.tensors import check_finite, is_safetensors, load_safetensors

_INSIDE = ("state_dict", "model")  # keys under which training scripts store the weights in their checkpoints
_COUNTER = "num_batches_tracked"  # old files lack it; batch normalisation with a fixed momentum does not use it
_SECONDS = 10.0  # time limit for a hub's answer
_SHOWN = 160  # most characters of a name in a message


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The tensors of a weights file.

    Attributes
    ----------
    name : str
        Name in messages: the setting and the path.
    sha256 : str
        SHA-256 of the file.
    tensors : mapping of str to Tensor
        Tensors by name, on the CPU. All values are finite; floating-point tensors are float32.
    ordered : bool
        Whether the tensors are in the order of the saved network. Safetensors files do not keep this order.
    """

    name: str
    sha256: str
    tensors: Mapping[str, Tensor]
    ordered: bool

    def fit(self, expected: Mapping[str, Tensor], heads: Sequence[str], network: str) -> dict[str, Tensor]:
        """Return the tensors under the names of a network's tensors.

        If the names differ, tensors are matched by order. Then all shapes and the last parts of all names must agree,
        and no tensor may have the name of a different tensor of the network. The classification layers are left out if
        their shapes differ, or if the file lacks them.

        Parameters
        ----------
        expected : mapping of str to Tensor
            The network's ``state_dict``. Only names and shapes matter.
        heads : sequence of str
            Names of the classification layers.
        network : str
            Name of the network in messages.

        Raises
        ------
        ConfigError
            The tensors do not fit. The message names the first tensor that does not fit, and both shapes.
        """
        wanted = {name: each for name, each in expected.items() if not name.endswith(_COUNTER)}
        found = {name: each for name, each in self.tensors.items() if not name.endswith(_COUNTER)}
        body = {name: each for name, each in wanted.items() if not name.startswith(tuple(f"{head}." for head in heads))}
        matched: Mapping[str, Tensor] | str = found
        if self.ordered and body.keys() - found.keys():
            matched = _by_order(found, wanted if len(found) == len(wanted) else body, body)
            if isinstance(matched, str) and body.keys() & found.keys():
                matched = found  # some names agree, so a message about names helps more
        problem = matched if isinstance(matched, str) else _by_name(matched, wanted, body)
        if isinstance(matched, str) or problem:
            raise ConfigError(
                f"{self.name}: does not fit {network}: {printable(problem)}; give weights of this network, or name the "
                "network of these weights"
            )
        return {name: each for name, each in matched.items() if each.shape == wanted[name].shape}


def _by_name(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], body: Mapping[str, Tensor]) -> str | None:
    """Match tensors by name. Return a message about the first tensor that does not fit, or None if all fit."""
    for name, each in body.items():
        if name not in found:
            return f"{name} is missing, expected shape {tuple(each.shape)}"
        if found[name].shape != each.shape:
            return f"{name} has shape {tuple(found[name].shape)}, expected {tuple(each.shape)}"
    for name in found.keys() - wanted.keys():
        return f"{_short(name)} of shape {tuple(found[name].shape)} is not in the network"
    return None


def _by_order(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], body: Mapping[str, Tensor]
) -> dict[str, Tensor] | str:
    """Match tensors by order. Return them under the names of `wanted`, or a message about the first misfit."""
    for (theirs, each), (ours, like) in zip(found.items(), wanted.items(), strict=False):
        if theirs in wanted and theirs != ours:
            return f"found {_short(theirs)} where {ours} is expected, so neither the names nor the order match"
        if theirs.rpartition(".")[2] != ours.rpartition(".")[2] or (ours in body and each.shape != like.shape):
            return f"found {_short(theirs)} of shape {tuple(each.shape)}, expected {ours} of shape {tuple(like.shape)}"
    if len(found) != len(wanted):
        return f"it has {len(found)} tensors, expected {len(wanted)}"
    return dict(zip(wanted, found.values(), strict=True))


def read_weights(setting: str, path: str) -> Weights:
    """Read a weights file: a safetensors file, or a ``state_dict`` that ``torch.save`` wrote.

    The ``state_dict`` may be inside a checkpoint, under the key ``state_dict`` or ``model``. The prefix ``module.`` is
    removed from the names of tensors.

    Parameters
    ----------
    setting : str
        Name of the setting that gives the path, for messages.
    path : str
        A path or a URL.

    Raises
    ------
    ConfigError
        The file cannot be read, contains something other than tensors, or has values that are not finite.
    """
    name = f"{setting}: {path}"
    try:
        data = read_regular(parse_location(path), LARGEST_WEIGHTS)
    except FileNotFoundError as error:
        raise ConfigError(f"{name}: not found; give a file that every training machine can read") from error
    except SynthpipeError as error:
        raise ConfigError(f"{setting}: {error}") from error
    except Exception as error:  # clients of object stores raise errors of many types
        found = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{name}: cannot be read: {found}; expected a file of at most {LARGEST_WEIGHTS} bytes"
        ) from error
    ordered = not is_safetensors(data)
    try:
        tensors = _state_dict(torch_archive.read(data) if ordered else load_safetensors(data))
        if sum(each.numel() * each.element_size() for each in tensors.values()) > len(data):
            raise ValueError("its tensors are larger than the file")
        tensors = {key: each.float() if each.is_floating_point() else each for key, each in tensors.items()}
        check_finite(tensors)
    except ValueError as error:
        raise ConfigError(
            f"{name}: cannot be used as weights: {printable(error)[: 2 * _SHOWN]}; expected a safetensors file, or a "
            "state_dict that torch.save wrote"
        ) from error
    return Weights(name, hashlib.sha256(data).hexdigest(), tensors, ordered)


def _state_dict(found: Any) -> dict[str, Tensor]:
    for key in _INSIDE:
        if isinstance(found, dict) and key in found and isinstance(found[key], dict):
            found = found[key]
    if not isinstance(found, dict) or not found:
        raise ValueError(f"it contains {type(found).__name__}, expected tensors by name")
    items = list(dict.items(found))  # not `found.items`, because a file can replace the methods of an OrderedDict
    for name, each in items:
        if not isinstance(name, str) or not isinstance(each, Tensor):
            raise ValueError(f"{_short(name)} is {type(each).__name__}, expected a tensor")
    return {name.removeprefix("module."): each.detach() for name, each in items}


def heads(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a timm network's classification layers."""
    found = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def own_normalisation(network: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the RGB mean and standard deviation, in 0-1, that a timm network's pretrained weights expect."""
    config = timm.get_pretrained_cfg(network)
    found = timm.data.resolve_data_config(pretrained_cfg=config.to_dict() if config else {})
    mean, std = found["mean"], found["std"]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def timm_outline(network: str) -> nn.Module:
    """Return a timm network without values. Its tensors have dtypes and shapes, but take no memory."""
    with torch.device("meta"):
        module: nn.Module = timm.create_model(network)
    return module


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence log messages of the hub client and of timm in the block, except errors."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm.models")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def hub_of(network: str) -> str | None:
    """Return the hub repository with the weights of a timm network, or None if no hub has these weights."""
    config = timm.get_pretrained_cfg(network)
    return (config.hf_hub_id or None) if config else None


def check_timm_hub(network: str) -> None:
    """Check that the weights of a timm network are in the cache, or that their hub can be reached.

    Raises
    ------
    ValueError
        timm names no hub for this network.
    Exception
        `check_hub` raised an error.
    """
    repository = hub_of(network)
    if not repository:
        raise ValueError(f"timm {timm.__version__} does not name a hub for them")
    name, _, revision = repository.partition("@")
    check_hub(name, ("model.safetensors", "pytorch_model.bin"), revision or None)


def check_hub(repository: str, files: Sequence[str], revision: str | None = None) -> None:
    """Check that weights are in the cache, or that their hub can be reached and has the repository.

    This function asks the hub only once. The hub's own client would retry for minutes.

    Parameters
    ----------
    repository : str
        Name of the repository, such as ``timm/resnet18.a1_in1k``.
    files : sequence of str
        Names of weights files. One of these files in the cache is enough.
    revision : str, optional
        Revision of the repository.

    Raises
    ------
    Exception
        The hub cannot be reached, or lacks the repository. The error is that of the hub's client.
    """
    if any(isinstance(try_to_load_from_cache(repository, name, revision=revision), str) for name in files):
        return
    with suppress(EntryNotFoundError):  # the hub lacks this file, but it has answered
        get_hf_file_metadata(hf_hub_url(repository, files[0], revision=revision), timeout=_SECONDS)


def _short(name: object) -> str:
    return str(name)[:_SHOWN]
