"""Store the state of a filter's training after each epoch, so that an interrupted training can resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError
from torch import Tensor, nn

from synthpipe.config.fields import Section
from synthpipe.core.errors import explain
from synthpipe.files.locations import Location
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.pretrained.tensors import LARGEST, adam_state, check_like, flat_moments, pack, unpack
from synthpipe.storage.filter_report import EpochMetrics


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """All data that an interrupted training needs to resume.

    Attributes
    ----------
    epochs : tuple of EpochMetrics
        Metrics of the finished epochs.
    best : EpochMetrics
        Metrics of the finished epoch with the best weights.
    weights : mapping of str to Tensor
        Weights of the network after the best epoch.
    module, optimizer : mapping
        The current state of the network and of its optimizer.
    random : tuple of Tensor
        The state of torch's random generator on the CPU and, if the training uses a GPU, on the GPU.
    real_train : int
        Number of views of real patches in an epoch.
    seconds : float
        Duration of the training so far, in seconds.
    """

    epochs: tuple[EpochMetrics, ...]
    best: EpochMetrics
    weights: Mapping[str, Tensor]
    module: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    random: tuple[Tensor, ...]
    real_train: int
    seconds: float


def save_state(path: Location, belongs_to: str, state: TrainingState) -> None:
    """Write the state of a training, with the digest `belongs_to` that identifies the training.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    about = {
        "belongs_to": belongs_to,
        "epochs": [asdict(epoch) for epoch in state.epochs],
        "best": state.best.epoch,
        "real_train": state.real_train,
        "seconds": state.seconds,
    }
    parts = {
        "weights": state.weights,
        "module": state.module,
        "optimizer": flat_moments(state.optimizer),
        "random": {str(number): each for number, each in enumerate(state.random)},
    }
    tensors = {f"{part}/{name}": each for part, named in parts.items() for name, each in named.items()}
    write_atomically(path, pack(about, tensors), durable=True)


def load_state(path: Location, belongs_to: str, module: nn.Module, random: tuple[Tensor, ...]) -> TrainingState | None:
    """Read the state of a training; return None if the file is missing or has another value of `belongs_to`.

    Parameters
    ----------
    path : Path or UPath
        The file.
    belongs_to : str
        The value that was given to `save_state`.
    module : nn.Module
        The network that the state must fit.
    random : tuple of Tensor
        The state of torch's random generators; the stored state must have the same shapes and dtypes.

    Raises
    ------
    ValueError
        The file cannot be read, is damaged or does not fit the network and the generators.
    """
    try:
        text, tensors = unpack(read_regular(path, LARGEST))
        about = _About.model_validate_json(text, strict=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    if about.belongs_to != belongs_to:
        return None
    if [epoch.epoch for epoch in about.epochs] != list(range(len(about.epochs))) or about.best >= len(about.epochs):
        raise ValueError("its list of epochs is not complete")
    weights, state, moments, generators = (
        {name.partition("/")[2]: each for name, each in tensors.items() if name.startswith(part)}
        for part in ("weights/", "module/", "optimizer/", "random/")
    )
    check_like(weights, module.state_dict(), "weights/")
    check_like(state, module.state_dict(), "module/")
    check_like(generators, {str(number): each for number, each in enumerate(random)}, "random/")
    return TrainingState(
        epochs=about.epochs,
        best=about.epochs[about.best],
        weights=weights,
        module=state,
        optimizer={"state": adam_state(moments, list(module.parameters()))},
        random=tuple(generators[str(number)] for number in range(len(random))),
        real_train=about.real_train,
        seconds=about.seconds,
    )


class _About(Section):
    belongs_to: str
    epochs: tuple[EpochMetrics, ...]
    best: Annotated[int, Field(ge=0)]
    real_train: Annotated[int, Field(ge=0)]
    seconds: float
