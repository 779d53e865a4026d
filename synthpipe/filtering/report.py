"""What the training of a filter tells: metrics an epoch, and which epoch's weights were kept."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from synthpipe.errors import FilterError
from synthpipe.files import Location
from synthpipe.records import Strategy

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """One epoch of training.

    Validation counts real patches and composites evenly, however many there are of each: `val_accuracy` is the mean of
    the two sides' accuracies (0.5 is guessing) and `val_loss` the mean of their cross-entropies.

    Attributes
    ----------
    epoch : int
        Counted from 0.
    train_loss : float
        Mean cross-entropy while the epoch ran.
    val_loss, val_accuracy, val_auroc : float
        Of the weights after it.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_auroc: float


@dataclass(frozen=True, slots=True)
class FilterReport:
    """How a filter's training went.

    Attributes
    ----------
    strategy : str
        Whose composites it tells from real patches.
    network : str
        The timm model name.
    epochs : tuple of EpochMetrics
        In order.
    best_epoch : int
        The one whose weights were kept, counted from 0: the first of the highest validation accuracy.
    accuracy, auroc : float
        Its validation metrics.
    synthetic_train, synthetic_val, real_train, real_val : int
        How many images there were; of `real_train`, new views of them every epoch.
    model_sha256 : str
        Digest of the weights' file.
    seconds : float
        Duration.
    device : str
        Where it was trained.
    """

    strategy: Strategy
    network: str
    epochs: tuple[EpochMetrics, ...]
    best_epoch: int
    accuracy: float
    auroc: float
    synthetic_train: int
    synthetic_val: int
    real_train: int
    real_val: int
    model_sha256: str
    seconds: float
    device: str

    def to_json(self) -> str:
        """Write it as JSON; floats keep every bit."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> FilterReport:
        """Read back what `to_json` wrote.

        Raises
        ------
        ValueError
            It is something else, or of another format.
        """
        fields: Any = json.loads(text)
        version = fields.pop("format_version", None) if isinstance(fields, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version}, this synthpipe reads {FORMAT_VERSION}")
        try:
            fields["epochs"] = tuple(EpochMetrics(**epoch) for epoch in fields["epochs"])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a field is missing or unknown: {error}") from error


def load_report(path: Location) -> FilterReport:
    """Read the report of a finished training.

    Raises
    ------
    FilterError
        There is none, or it is damaged.
    """
    try:
        return FilterReport.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FilterError(f"{path}: not found; expected the report of a trained filter; build again") from error
    except (OSError, ValueError) as error:
        raise FilterError(f"{path}: is no filter's report, or damaged: {error}; remove it and build again") from error
