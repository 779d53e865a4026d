"""The state of a filter's training between two epochs: what a training that was interrupted goes on from."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from synthpipe.files import Location, write_atomically
from synthpipe.filtering.report import EpochMetrics


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """All that the epochs to come depend on.

    Attributes
    ----------
    epochs : tuple of EpochMetrics
        Of the epochs that are done.
    best : EpochMetrics
        The one of them whose weights are the best so far.
    weights : mapping of str to Tensor
        These weights.
    module, optimizer : mapping
        The state of the network and its optimizer.
    random : tuple of Tensor
        That of torch's generators, on the CPU and, where there is one, on the GPU.
    real_train : int
        Views of real patches an epoch.
    seconds : float
        Spent so far.
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
    """Write a training's state; `belongs_to` names all that it must not be mixed with.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    metrics = {"epochs": [asdict(epoch) for epoch in state.epochs], "best": asdict(state.best)}
    buffer = io.BytesIO()
    torch.save(
        {
            "belongs_to": belongs_to,
            "metrics": json.dumps(metrics),
            "weights": dict(state.weights),
            "module": dict(state.module),
            "optimizer": dict(state.optimizer),
            "random": state.random,
            "real_train": state.real_train,
            "seconds": state.seconds,
        },
        buffer,
    )
    write_atomically(path, buffer.getvalue(), durable=True)


def load_state(path: Location, belongs_to: str) -> TrainingState | None:
    """Read a training's state; None where there is none that `belongs_to` this training, or it is damaged.

    It saves work and decides nothing: without it the training begins anew, and comes to the same end.
    """
    try:
        data: dict[str, Any] = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
        if data["belongs_to"] != belongs_to:
            return None
        metrics = json.loads(data["metrics"])
        return TrainingState(
            epochs=tuple(EpochMetrics(**epoch) for epoch in metrics["epochs"]),
            best=EpochMetrics(**metrics["best"]),
            weights=data["weights"],
            module=data["module"],
            optimizer=data["optimizer"],
            random=tuple(data["random"]),
            real_train=int(data["real_train"]),
            seconds=float(data["seconds"]),
        )
    except Exception:  # whatever a damaged file makes torch stumble on
        return None
