"""Use a trained network: predict masks of new images, and evaluate it with metrics, intervals, tables and pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from synthpipe.config.pipeline import GlassSection
from synthpipe.core.display import file_stem, printable, to_cell
from synthpipe.core.errors import StoreError
from synthpipe.core.progress import Reporter
from synthpipe.core.records import Mask
from synthpipe.core.spacing import first_of_parts
from synthpipe.core.strict_json import parse_json
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.folders import claim, resolved, sweep
from synthpipe.files.locations import translate_errors
from synthpipe.files.lock import held
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import replacing, write_atomically
from synthpipe.patches.glass import glass_mask
from synthpipe.pretrained.devices import choose_device
from synthpipe.segment import pictures
from synthpipe.segment.checkpoint import Checkpoint, file_digest
from synthpipe.segment.journal import read_table, reason
from synthpipe.segment.mask_values import IGNORE, MaskMap
from synthpipe.segment.masks import MaskedImage, digest_of
from synthpipe.segment.metrics import (
    Counts,
    Interval,
    bootstrap,
    boundary_counts,
    confusion_matrix,
    measure,
    measure_boundaries,
)
from synthpipe.segment.outputs import EVALUATION
from synthpipe.segment.references import constant
from synthpipe.segment.settings import WindowSection, default_windows
from synthpipe.segment.sliding_window import Segment, predict, predict_mask

_KNOWN = {"validation images": "chose the best weights of", "masked images": "trained"}
_MOST_RECORD = 2**24  # largest size in bytes of the record of drawn pictures


@dataclass(frozen=True, slots=True)
class Predictor:
    """A trained network on a device, with the settings for predicting masks.

    Attributes
    ----------
    checkpoint : Checkpoint
        The checkpoint of the network.
    sha256 : str
        SHA-256 of the checkpoint file.
    windows : WindowSection
        How images are cut into sliding windows, and how predictions of windows are combined.
    device : torch.device
        The device that computes.
    segment : Segment
        The function that runs the network on images.
    glass : GlassSection or None
        Settings of glass detection (`Description.ignored_glass`); None if glass is not ignored.
    """

    checkpoint: Checkpoint
    sha256: str
    windows: WindowSection
    device: torch.device
    segment: Segment
    glass: GlassSection | None

    @classmethod
    def load(
        cls,
        path: Path,
        windows: WindowSection | None = None,
        device: torch.device | None = None,
        glass: bool = True,
    ) -> Predictor:
        """Load a checkpoint's network onto a device.

        By default, windows have the size of the canvas and a stride of half that size, and predictions are averaged
        over flips if the canvas is square. If `glass` is True, pixels of glass are ignored.

        Raises
        ------
        StoreError
            The file is missing, damaged or not a checkpoint.
        """
        checkpoint = Checkpoint.load(path)
        target = device or choose_device()
        network = checkpoint.network(target)
        return cls(
            checkpoint,
            file_digest(path),
            windows or default_windows(checkpoint.description.size),
            target,
            lambda images: network.segment(images, checkpoint.by_cam),
            checkpoint.description.ignored_glass(glass),
        )

    @property
    def taxonomy(self) -> Taxonomy:
        return self.checkpoint.description.taxonomy

    def mask(self, image: NDArray[np.uint8]) -> Mask:
        """Return the (H, W) uint8 class of each pixel of an (H, W, 3) uint8 image."""
        return predict_mask(self.segment, image, self.windows, len(self.taxonomy), self.device)

    def is_glass(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return (H, W) bool: True at the pixels of an (H, W, 3) uint8 image that show ignored glass."""
        if self.glass is None:
            return np.zeros(image.shape[:2], np.bool_)
        return glass_mask(image, self.glass).view(np.bool_)

    def write_probabilities(self, image: NDArray[np.uint8], path: Path) -> Mask:
        """Write an image's (C, H, W) float16 probabilities as a NumPy file, block by block; return the image's mask.

        Raises
        ------
        StoreError
            The file cannot be written; no partial file remains.
        """
        height, width = image.shape[:2]
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(self.taxonomy), height, width)}
        mask = np.empty((height, width), np.uint8)
        with (
            translate_errors(path, "cannot be written", "free some space, or choose another folder"),
            replacing(path) as file,
        ):
            # no memory map: on a full disk, writing to one kills the process
            np.lib.format.write_array_header_1_0(file, header)
            begin = file.tell()
            for part in predict(self.segment, image, self.windows, len(self.taxonomy), self.device):
                values = part.probabilities.cpu().numpy()
                _, rows, columns = values.shape
                mask[part.y : part.y + rows, part.x : part.x + columns] = values.argmax(0)
                for label, row in np.ndindex(len(values), rows):
                    file.seek(begin + 2 * ((label * height + part.y + row) * width + part.x))
                    file.write(values[label, row].astype("<f2").tobytes())
        return mask


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The counts of an evaluation on N images with C classes.

    Attributes
    ----------
    names : tuple of str
        Names of the images.
    confusions : (N, C, C) int64
        Confusion matrix of each image, with true classes in rows.
    contours : (N, C, 4) int64
        Boundary counts of each image, see `metrics.boundary_counts`.
    """

    names: tuple[str, ...]
    confusions: Counts
    contours: Counts

    def summary(self, taxonomy: Taxonomy, replicates: int, seed: int) -> dict[str, Any]:
        """Return all scores, their intervals and the scores of each image for JSON, with None instead of NaN."""
        confusion = self.confusions.sum(0)
        scores, boundaries = measure(confusion), measure_boundaries(self.contours.sum(0))
        intervals = bootstrap(self.confusions, self.contours, seed=seed, replicates=replicates)
        per_class = {
            name: {
                "iou": scores.iou[index],
                "iou_interval": _pair(intervals.iou[index]),
                "dice": scores.dice[index],
                "precision": scores.precision[index],
                "recall": scores.recall[index],
                "boundary_f": boundaries.f[index],
                "pixels": int(confusion[index].sum()),
            }
            for index, name in enumerate(taxonomy.names)
        }
        overall = {
            "miou": scores.miou,
            "fwiou": scores.fwiou,
            "mean_dice": scores.mean_dice,
            "pixel_accuracy": scores.pixel_accuracy,
            "mean_boundary_f": boundaries.mean_f,
        }
        found = {
            **overall,
            "intervals": {name: _pair(getattr(intervals, name)) for name in overall},
            "absent_classes": [name for name, each in per_class.items() if not each["pixels"]],
            "classes": per_class,
            "confusion": confusion.tolist(),
            "images": {
                name: {"miou": one.miou, "pixel_accuracy": one.pixel_accuracy}
                for name, one in zip(self.names, map(measure, self.confusions), strict=True)
            },
        }
        clean: dict[str, Any] = _without_nan(found)
        return clean


def evaluate(
    predictor: Predictor,
    images: Sequence[MaskedImage],
    directory: Path,
    reporter: Reporter,
    pictured: int = 16,
    replicates: int = 1000,
) -> dict[str, Any]:
    """Measure a network on images with masks, and write metrics and pictures into a folder.

    Writes ``metrics.json``, ``metrics.csv``, ``confusion.png`` and ``pictures/``.

    Parameters
    ----------
    predictor : Predictor
        The network.
    images : sequence of MaskedImage
        The images that `check_masks` accepted.
    directory : Path
        The folder to write to.
    reporter : Reporter
        Reports the progress.
    pictured : int
        Number of images to draw pictures of, evenly spaced and beginning with the first.
    replicates : int
        Number of bootstrap samples.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    CatalogError
        An image or a mask can no longer be read.
    SynthpipeError
        `directory` contains something other than an evaluation, or another process is writing to it.
    """
    directory = resolved(directory)
    claim(directory, EVALUATION)
    measured_on = digest_of(images)
    for name, what in _KNOWN.items():
        if predictor.checkpoint.sources.get(name) == measured_on:
            reporter.note(f"note: the same images {what} this network, so its scores on them are too high")
    with held(directory, EVALUATION):
        sweep(directory)
        return _measure(predictor, images, measured_on, directory, reporter, pictured, replicates)


def _measure(
    predictor: Predictor,
    images: Sequence[MaskedImage],
    measured_on: str,
    directory: Path,
    reporter: Reporter,
    pictured: int,
    replicates: int,
) -> dict[str, Any]:
    taxonomy = predictor.taxonomy
    shown = set(first_of_parts(len(images), pictured))
    drawn, record = {_picture(images[number]) for number in shown}, directory / "pictures" / "drawn.json"
    former = _names(record)  # pictures of earlier evaluations, finished or not
    write_atomically(record, json.dumps(sorted(former | drawn)))
    confusions, contours, labelled, glassy = [], [], 0, 0
    with reporter.stage("evaluation", len(images)) as advance:
        for number, source in enumerate(images):
            image, truth = source.read(taxonomy)
            found, glass, is_labelled = predictor.mask(image), predictor.is_glass(image), truth < taxonomy.background
            # glass becomes background if it has no class in the true mask; else it keeps the predicted class
            found[glass & ~is_labelled] = taxonomy.background
            labelled += int(np.count_nonzero(is_labelled))
            glassy += int(np.count_nonzero(glass & is_labelled))
            confusions.append(confusion_matrix(truth, found, len(taxonomy)))
            contours.append(boundary_counts(truth, found, len(taxonomy)))
            if number in shown:
                score = measure(confusions[-1]).miou
                figure = pictures.panel(image, truth, found, taxonomy, f"{printable(source.name)}: mIoU {score:.3f}")
                pictures.save(figure, directory / "pictures" / _picture(source))
            advance(1)
    for name in former - drawn:
        (directory / "pictures" / name).unlink(missing_ok=True)
    write_atomically(record, json.dumps(sorted(drawn)))
    evaluation = Evaluation(tuple(source.name for source in images), np.stack(confusions), np.stack(contours))
    result = {
        "checkpoint": predictor.sha256,
        "fingerprint": predictor.checkpoint.description.fingerprint,
        "trained_on": dict(predictor.checkpoint.sources),
        "measured_on": measured_on,
        **_mask_map(images[0].meaning, taxonomy),
        "synthpipe": version("synthpipe"),
        "windows": predictor.windows.model_dump(mode="json"),
        "glass": {
            "rule": predictor.glass.model_dump(mode="json", include={"threshold", "min_area"})
            if predictor.glass
            else None,
            "share_of_labelled": glassy / labelled,
        },
        "constant": constant(evaluation.confusions.sum(0), taxonomy),
        **evaluation.summary(taxonomy, replicates, seed=0),
    }
    pictures.save(pictures.confusion_figure(evaluation.confusions.sum(0), taxonomy), directory / "confusion.png")
    write_atomically(directory / "metrics.json", json.dumps(result, indent=1) + "\n")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([to_cell(name), *values] for name, *values in table(result))
    write_atomically(directory / "metrics.csv", text.getvalue())
    return result


def _mask_map(meaning: MaskMap | None, taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the mask map for ``metrics.json``: class names by mask value; empty if values are class indices."""
    names = [*taxonomy.names, IGNORE]
    return {} if meaning is None else {"mask_map": {str(value): names[label] for value, label in meaning.items()}}


def _picture(source: MaskedImage) -> str:
    return f"{file_stem(source.image.stem)}.png"


def _names(record: Path) -> set[str]:
    """Return the file names in a record of drawn pictures; only these files may be removed later."""
    try:
        found = parse_json(read_regular(record, _MOST_RECORD))
    except (OSError, ValueError):
        return set()
    named = found if isinstance(found, list) else []
    return {name for name in named if isinstance(name, str) and Path(name).name == name}


def table(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a result's table: the header, one row per class, and the means."""
    columns = ("iou", "dice", "precision", "recall", "boundary_f")
    yield ("class", *columns, "iou_low", "iou_high", "pixels")
    for name, each in result["classes"].items():
        values = (_text(each[column]) for column in columns)
        yield (name, *values, *map(_text, each["iou_interval"]), str(each["pixels"]))
    low, high = result["intervals"]["miou"]
    means = (result["miou"], result["mean_dice"], None, None, result["mean_boundary_f"])
    pixels = sum(each["pixels"] for each in result["classes"].values())
    yield ("mean", *map(_text, means), _text(low), _text(high), str(pixels))


def draw_curves(directory: Path, target: Path) -> bool:
    """Draw the training curves of a training's ``epochs.csv`` to `target`; return False if there are no epochs.

    Raises
    ------
    StoreError
        ``epochs.csv`` is damaged.
    """
    path = directory / "epochs.csv"
    try:
        rows = read_table(path)
        steps = [row["step"] for row in rows]
    except FileNotFoundError:
        return False
    except (KeyError, OSError, ValueError) as error:
        why = "it has no column step" if isinstance(error, KeyError) else reason(error)
        raise StoreError(f"{path}: cannot be drawn: {printable(why)}; remove the file to skip curves.png") from error
    if not rows:
        return False
    names = [name for name in rows[0] if name not in ("epoch", "step")]
    series = {name: (steps, [row[name] for row in rows]) for name in names}
    losses, metrics = (
        {name.removeprefix("train_"): values for name, values in series.items() if name.startswith("train_") == loss}
        for loss in (True, False)
    )
    pictures.save(pictures.curves_figure(losses, metrics), target)
    return True


def _pair(interval: Interval) -> list[float]:
    return list(asdict(interval).values())


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and np.isnan(value) else value
