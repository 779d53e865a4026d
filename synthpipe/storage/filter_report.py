"""Read and write the report of a filter's training: metrics of each epoch, and the epoch with the kept weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from synthpipe.core.errors import AccessError, FilterError, explain
from synthpipe.core.records import Strategy
from synthpipe.core.strict_json import parse_json
from synthpipe.files.locations import Location
from synthpipe.files.reading import read_regular

FORMAT_VERSION = 1
_CURE = "`synthpipe verify RUN` shows how to repair it"
_MOST = 64 << 20  # bytes
_WELL_BELOW = 0.05  # of accuracy
_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """Metrics of one epoch of a filter's training.

    Real patches and composites have equal weight in validation, even if their numbers differ. `val_accuracy` is the
    mean of the accuracy on real patches and the accuracy on composites at the threshold 0.5. Guessing has an accuracy
    of 0.5. `val_loss` is the mean of the two cross-entropies.

    Attributes
    ----------
    epoch : int
        Counted from 0.
    train_loss : float
        Mean cross-entropy during the epoch.
    val_loss, val_accuracy, val_auroc : float
        The validation metrics after the epoch.
    val_best_accuracy, val_best_threshold : float or None
        The highest validation accuracy over all thresholds, and its threshold; None in reports of earlier versions.
    """

    __pydantic_config__ = _CLOSED

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_auroc: float
    val_best_accuracy: float | None = None
    val_best_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class FilterReport:
    """The result of a filter's training.

    Attributes
    ----------
    strategy : str
        The strategy whose composites the filter distinguishes from real patches.
    network : str
        The timm model name.
    epochs : tuple of EpochMetrics
        All epochs in order.
    best_epoch : int
        The epoch whose weights were kept, counted from 0: the first with the highest validation accuracy.
    accuracy, auroc : float
        The validation metrics of the best epoch.
    synthetic_train, synthetic_val, real_train, real_val : int
        The numbers of composites and real patches in training and validation. Training makes new views of the real
        patches in every epoch.
    model_sha256 : str
        SHA-256 of the weights file.
    seconds : float
        Duration of the training.
    device : str
        The device of the training.
    """

    __pydantic_config__ = _CLOSED

    strategy: Strategy
    network: str
    epochs: tuple[EpochMetrics, ...]
    best_epoch: int
    accuracy: float
    auroc: float
    synthetic_train: _Count
    synthetic_val: _Count
    real_train: _Count
    real_val: _Count
    model_sha256: str
    seconds: float
    device: str

    def fields(self) -> dict[str, Any]:
        """Return all fields, JSON-ready."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    def to_json(self) -> str:
        """Return the report as JSON text. Floats keep their exact values."""
        return json.dumps(self.fields(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> FilterReport:
        """Read a report that `to_json` wrote.

        Raises
        ------
        ValueError
            The text is not a report, or has another format version.
        """
        fields: Any = parse_json(text)
        version = fields.pop("format_version", None) if isinstance(fields, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version}, this synthpipe reads {FORMAT_VERSION}")
        try:
            found = _READ.validate_python(fields)
        except ValidationError as error:
            raise ValueError(f"a field is missing, unknown or wrong: {explain(error)}") from error
        if not 0 <= found.best_epoch < len(found.epochs):
            raise ValueError(f"best_epoch is {found.best_epoch}, but there are {len(found.epochs)} epochs")
        return found


def accuracy_text(report: Mapping[str, Any]) -> str:
    """Describe a filter's accuracy at threshold 0.5 and at the best threshold, from `FilterReport.fields`.

    The two accuracies differ if the filter orders images well (its AUROC is high), but the threshold 0.5 does not
    separate real patches from composites.
    """
    best = report["epochs"][report["best_epoch"]]
    accuracy, threshold = best.get("val_best_accuracy"), best.get("val_best_threshold")
    text = f"accuracy {report['accuracy']:.3f} at the threshold 0.5"
    if accuracy is None:
        return f"{text}, AUROC {report['auroc']:.3f}"
    return f"{text}, at best {accuracy:.3f} (threshold {threshold:.3g}), AUROC {report['auroc']:.3f}"


def calibration_text(report: Mapping[str, Any]) -> str:
    """Explain an accuracy at 0.5 that is well below the best accuracy. Otherwise return an empty text."""
    best = report["epochs"][report["best_epoch"]]
    accuracy, threshold = best.get("val_best_accuracy"), best.get("val_best_threshold")
    if accuracy is None or accuracy - report["accuracy"] < _WELL_BELOW:
        return ""
    return (
        "The filter orders images better than its accuracy at 0.5 suggests. Its scores are not calibrated: the "
        f"threshold 0.5 does not separate real images from synthetic ones. For rule threshold, set curation.threshold "
        f"near {threshold:.3g}. Rule top_k compares scores only with each other, so it needs no threshold. The "
        "acceptance rate depends on the threshold, so it means little here. The best threshold is chosen and measured "
        "on the same images, so its accuracy is slightly optimistic."
    )


_READ: TypeAdapter[FilterReport] = TypeAdapter(FilterReport)


def load_report(path: Location) -> FilterReport:
    """Read the report of a finished training.

    Raises
    ------
    FilterError
        The file does not exist, or is damaged.
    """
    try:
        return FilterReport.from_json(read_regular(path, _MOST))
    except FileNotFoundError as error:
        raise FilterError(f"{path}: not found, expected the report of a trained filter; build again") from error
    except AccessError:
        raise
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        raise FilterError(f"{path}: is damaged, or is not the report of a filter: {found}; {_CURE}") from error
