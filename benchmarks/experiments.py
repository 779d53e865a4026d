"""``python -m benchmarks.experiments``: measure how much each part of the method improves the segmentation.

Every row trains the same network several times, for the same number of steps with the same number of images per step.
Finished rows are kept, and an interrupted training resumes.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.glas import prepare
from synthpipe.build import build
from synthpipe.cli.progress import reporter
from synthpipe.cli.settings import SettingsFile
from synthpipe.config import pipeline_file
from synthpipe.config.settings_file import load_settings
from synthpipe.config.shipped import SHIPPED
from synthpipe.core.errors import SynthpipeError
from synthpipe.curated import CuratedSet
from synthpipe.files.writing import write_atomically
from synthpipe.patches.catalog import Catalog, read_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings
from synthpipe.segment.baselines import lower_bound, upper_bound
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.devices import Hardware
from synthpipe.segment.evaluation import Predictor, evaluate
from synthpipe.segment.mask_check import check_disjoint, check_masks
from synthpipe.segment.masks import MaskedImage, digest_of, masked_images
from synthpipe.segment.pseudo import pseudo_label
from synthpipe.segment.settings import TrainSettings
from synthpipe.segment.sources import Composites, RealPatches
from synthpipe.segment.training import train
from synthpipe.segment.training_records import TrainingData

RESULTS = Path(__file__).parent / "results" / "experiments"
PAGE = Path("docs/experiments.md")

SETS: Mapping[str, tuple[str, ...]] = {
    "mosaic": ("bezier=null", "filter.enabled=false", "curation.rule=threshold"),
    "bezier": ("mosaic=null", "filter.enabled=false", "curation.rule=threshold"),
    "both": ("filter.enabled=false", "curation.rule=threshold"),
    "filtered": ("filter.enabled=true",),
}
"""The curated sets by name, with the keys of the pipeline file that they replace; all have the same size."""

GLAS_STEPS = ("composites=8", "real=8", "epochs=10", "steps_per_epoch=20")
"""Settings of trainings on GlaS, whose canvas is larger than that of the phantom."""

_CANDIDATES = 3  # candidates for each composite that a filter keeps

_WANTED: Mapping[str, tuple[float | None, float]] = {"phantom": (0.10, 0.90), "GlaS": (None, 0.85)}
"""The goals for composites by data set, which is the first word of an experiment's name.

The first number is the wanted gain in mIoU over labels alone; the second is the wanted share of the mIoU of true masks.
"""

ROWS: Mapping[str, str] = {
    "labels": "image labels alone, through the CAM (lower bound)",
    "mosaic": "Mosaic",
    "bezier": "Bezier",
    "both": "Mosaic and Bezier",
    "filtered": "both, filtered",
    "consistency": "both, filtered, with consistency on real patches",
    "stage-2": "the same, and pseudo-masked real patches (stage 2)",
    "masks": "true masks (upper bound)",
}

FRESH_ROWS: Mapping[str, str] = {
    "both": ROWS["both"],
    "fresh": "both, fresh in each pass",
    "both-long": "both, four times the steps",
    "fresh-long": "both, fresh in each pass, four times the steps",
}
"""Rows of `benchmarks.fresh`, which needs virtual sets."""

_ALL: Mapping[str, str] = {**ROWS, **FRESH_ROWS}
_LONG = 4  # times the steps of other rows


@dataclass(frozen=True)
class Experiment:
    """All trainings on one data set.

    Attributes
    ----------
    name : str
        Name of the data set in the table.
    pipeline : Path
        The pipeline file.
    patches : Path
        The source patches, as in ``patches.root``.
    masked, validation, test : Path
        Folders with img/ and mask/: the tissue of the patches (for the upper bound), the images that choose weights,
        and the test images.
    settings : TrainSettings
        The settings of every training. Rows with real patches use `composites` and `real`; the other rows use the sum
        of both for composites.
    samples : int
        Number of composites in a curated set.
    overrides : tuple of str
        Keys of the pipeline file to replace.
    flips : bool
        Whether the test takes the mean over flips and rotations.
    directory : Path
        The folder for runs, trainings and results.
    """

    name: str
    pipeline: Path
    patches: Path
    masked: Path
    validation: Path
    test: Path
    settings: TrainSettings
    samples: int
    overrides: tuple[str, ...]
    flips: bool
    directory: Path

    @cached_property
    def catalog(self) -> Catalog:
        description = self.curated("both").description
        section = description.patches.model_copy(update={"root": str(self.patches)})
        return read_catalog(section, description.taxonomy)

    @cached_property
    def chosen_by(self) -> tuple[MaskedImage, ...]:
        return masked_images(self.validation)

    @cached_property
    def _built(self) -> dict[str, CuratedSet]:
        return {}

    def curated(self, name: str) -> CuratedSet:
        """Return one of the curated sets; build it if it does not exist."""
        if name not in self._built:
            self._built[name] = self._build(name)
        return self._built[name]

    def _build(self, name: str) -> CuratedSet:
        count = self.samples // (1 if name in ("mosaic", "bezier") else 2)
        candidates = count * (_CANDIDATES if name == "filtered" else 1)
        plan = (f"curation.wanted={count}", f"curation.candidates={candidates}", f"patches.root={self.patches}")
        pipeline = pipeline_file.load(self.pipeline, (*self.overrides, *SETS[name], *plan))
        run = self.directory / "runs" / name
        build(pipeline, run, ClusterSettings(), reporter())
        return CuratedSet(run / "curated.zarr")

    def training(self, row: str, seed: int) -> tuple[TrainSettings, TrainingData]:
        """Return the settings and the data of one training."""
        settings = self.settings.model_copy(update={"seed": seed})
        if row in FRESH_ROWS:
            return self._mixed(settings, row.startswith("fresh"), _LONG if row.endswith("-long") else 1)
        if row in ("labels", "masks"):
            one = self.curated("both")
            if row == "labels":
                patches = RealPatches(self.catalog.patches, one.description)
                return lower_bound(
                    settings, one.description, Composites([one]), patches, self.chosen_by, self.catalog.digest
                )
            return upper_bound(settings, one.description, Composites([one]), masked_images(self.masked), self.chosen_by)
        sets = [self.curated(row if row in SETS else "filtered")]
        if row == "stage-2":
            sets.append(self.pseudo_labelled(seed))
        with_real = row in ("consistency", "stage-2")
        if not with_real:
            settings = settings.model_copy(update={"composites": settings.composites + settings.real, "real": 0})
        sources = {f"curated {number}": each.digest for number, each in enumerate(sets, 1)}
        real = RealPatches(self.catalog.patches, sets[0].description) if with_real else None
        return settings, TrainingData(sets[0].description, Composites(sets), real, self.chosen_by, sources)

    def _mixed(self, settings: TrainSettings, fresh: bool, times: int) -> tuple[TrainSettings, TrainingData]:
        """Return the settings and data of a training on Mosaics and Beziers for `times` as many steps."""
        one = self.curated("both")
        changes = {
            "composites": settings.composites + settings.real,
            "real": 0,
            "epochs": times * settings.epochs,
            "fresh": "unfiltered" if fresh else None,
        }
        source = Composites([one], [one.fresh(settings.seed)] if fresh else [])
        data = TrainingData(one.description, source, None, self.chosen_by, {"curated 1": one.digest})
        return settings.model_copy(update=changes), data

    def pseudo_labelled(self, seed: int) -> CuratedSet:
        """Return the real patches with masks that the network of the previous row predicts."""
        path = self.directory / f"pseudo-{seed}.zarr"
        checkpoint = self.folder("consistency", seed) / "best.ckpt"
        if not checkpoint.exists():
            self.measure("consistency", seed)
        patches, glass = self.catalog.patches, Checkpoint.load(checkpoint).description.glass
        pseudo_label(checkpoint, patches, self.catalog.digest, path, torch.device("cpu"), 32, reporter(), glass)
        return CuratedSet(path)

    def folder(self, row: str, seed: int) -> Path:
        return self.directory / "trainings" / f"{row}-{seed}"

    def measure(self, row: str, seed: int) -> dict[str, Any]:
        """Train one network and return its results on the test images."""
        settings, data = self.training(row, seed)
        folder = self.folder(row, seed)
        train(settings, data, folder, Hardware("cpu"), reporter())
        predictor = Predictor.load(folder / "best.ckpt", device=torch.device("cpu"))
        predictor = replace(predictor, windows=predictor.windows.model_copy(update={"flips": self.flips}))
        result = evaluate(predictor, masked_images(self.test), folder / "test", reporter())
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return {
            "miou": result["miou"],
            "fwiou": result["fwiou"],
            "mean_boundary_f": result["mean_boundary_f"],
            "iou": {name: each["iou"] for name, each in result["classes"].items()},
            "steps": report["steps"],
            "seconds": report["seconds"],
        }

    def about(self) -> dict[str, Any]:
        """Return the settings that all rows share, JSON-ready; results of other settings are refused."""
        chosen, settings = self.settings, self.settings.dump()
        if weights := chosen.network.weights_file:
            settings["network"]["weights"] = Path(weights).name  # the folder depends on the machine
        return {
            "name": self.name,
            "network": f"{chosen.network.architecture} with {chosen.network.encoder}",
            "weights": settings["network"]["weights"],
            "canvas": list(self.curated("both").size),
            "composites": self.samples,
            "real_patches": len(self.catalog.patches),
            "images_a_step": chosen.composites + chosen.real,
            "steps": chosen.epochs * (chosen.steps_per_epoch or 0),
            "validation_images": len(self.chosen_by),
            "test_images": len(masked_images(self.test)),
            "pipeline": self.curated("both").fingerprint,
            "patches": self.catalog.digest,
            "data": digest_of([*self.chosen_by, *masked_images(self.test), *masked_images(self.masked)]),
            "settings": settings,
            "overrides": list(self.overrides),
            **({} if self.flips else {"flips": False}),
        }

    def run(self, seeds: int, path: Path, rows: Mapping[str, str] = ROWS) -> None:
        """Measure `rows` for seeds 0 to `seeds` - 1, one seed after the other; store each result in `path`."""
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"about": self.about(), "rows": {}}
        if found["about"] != json.loads(json.dumps(self.about())):
            raise click.ClickException(f"{path}: has results of other settings; move it away, or undo the change")
        taxonomy = self.curated("both").taxonomy
        folders = {"validation": self.validation, "test": self.test, "masked": self.masked}
        check_disjoint({name: check_masks(masked_images(path), taxonomy, reporter()) for name, path in folders.items()})
        for seed in range(seeds):
            for row in rows:
                results = found["rows"].setdefault(row, {})
                if str(seed) in results:
                    continue
                click.echo(f"{self.name}: {rows[row]}, seed {seed}", err=True)
                results[str(seed)] = self.measure(row, seed)
                write_atomically(path, json.dumps(found, indent=1) + "\n")


def phantom(folder: Path) -> None:
    """Write the phantom of the experiments into a folder; existing files are kept."""
    # patches have about the size of the canvas, as in published data sets, so that Bezier donors keep their scale
    spec = PhantomSpec(seed=1, slides=24, patches=800, size=64, images=24)
    with reporter().stage("phantom", spec.pictures) as advance:
        write_phantom(folder, spec, lambda: advance(1))


def write_page(results: Path = RESULTS) -> str:
    """Return the page: its text, and a table for each JSON file in `results`."""
    lines = [(Path(__file__).parent / "experiments.md").read_text(encoding="utf-8").rstrip(), ""]
    for path in sorted(results.glob("*.json")):
        lines += _section(json.loads(path.read_text(encoding="utf-8")))
    return "\n".join(lines).rstrip() + "\n"


def _section(found: Mapping[str, Any]) -> Iterator[str]:
    about, rows = found["about"], {row: found["rows"][row] for row in _ALL if found["rows"].get(row)}
    yield from (f"## {about['name']}", "")
    yield (
        f"{about['network']}, {'from scratch' if about['weights'] is None else about['weights']}; canvas "
        f"{about['canvas'][0]} x {about['canvas'][1]}; {about['composites']} composites, {about['real_patches']} real "
        f"patches; {about['steps']} steps of {about['images_a_step']} images; {about['validation_images']} images "
        f"choose the weights; {about['test_images']} test images"
        f"{'' if 'flips' in about else ', with the mean over flips and rotations'}. The table has means and standard "
        "deviations over seeds."
    )
    classes = list(next(iter(next(iter(rows.values())).values()))["iou"])
    yield ""
    yield f"| trained on | mIoU | of the upper bound | fwIoU | boundary F | {' | '.join(classes)} | seeds |"
    yield "|" + "---|" * (6 + len(classes))
    best = _mean(rows["masks"], "miou") if "masks" in rows else None
    for row, seeds in rows.items():
        share = f"{_mean(seeds, 'miou') / best:.1%}" if best else ""
        by_class = (f"{statistics.mean(one['iou'][name] for one in seeds.values()):.3f}" for name in classes)
        cells = [
            *(_ALL[row], _spread(seeds, "miou"), share, _spread(seeds, "fwiou"), _spread(seeds, "mean_boundary_f")),
            *(*by_class, str(len(seeds))),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield from _reached(rows, about["name"])
    yield from _findings(rows)


def _findings(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the gain of each part of the method in points of mIoU, with the gain of each seed."""
    for part, (row, before) in {
        "Composites of both kinds, against labels alone": ("both", "labels"),
        "Both kinds, against Mosaic alone": ("both", "mosaic"),
        "Both kinds, against Bezier alone": ("both", "bezier"),
        "The filter": ("filtered", "both"),
        "Real patches with consistency": ("consistency", "filtered"),
        "Stage 2": ("stage-2", "consistency"),
        "Fresh composites": ("fresh", "both"),
        "Four times the steps on the set": ("both-long", "both"),
        "Fresh composites, at four times the steps": ("fresh-long", "both-long"),
    }.items():
        common = sorted(rows.get(row, {}).keys() & rows.get(before, {}).keys())
        if not common:
            continue
        gains = [100 * (rows[row][seed]["miou"] - rows[before][seed]["miou"]) for seed in common]
        verdict = (
            "all seeds gain" if min(gains) > 0 else "no seed gains" if max(gains) <= 0 else "some seeds gain, some lose"
        )
        each = ", ".join(f"{gain:+.1f}" for gain in gains)
        yield f"- {part}: {statistics.mean(gains):+.1f} points of mIoU ({each}); {verdict}."
    yield ""


def _reached(rows: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[str]:
    """Yield the goals, with the rows that reach them and the rows that miss them."""
    if not {"labels", "masks"} <= rows.keys():
        return
    lower, upper = (_mean(rows[row], "miou") for row in ("labels", "masks"))
    between = {row: _mean(seeds, "miou") for row, seeds in rows.items() if row not in ("labels", "masks")}
    yield f"- True masks are {100 * (upper - lower):.1f} points of mIoU above labels alone."
    gain, share = _WANTED.get(name.partition("-")[0], (None, None))
    if gain is not None:
        yield from _listed(
            f"{100 * gain:.0f} points of mIoU above labels alone", between, lambda miou: miou - lower >= gain
        )
    if share is not None:
        yield from _listed(f"{share:.0%} of the upper bound", between, lambda miou: miou >= share * upper)
    if above := [ROWS[row] for row, miou in between.items() if miou > upper]:
        yield f"- Above true masks: {'; '.join(above)}. After so few steps, true masks are not an upper bound."
    yield ""


def _listed(what: str, between: Mapping[str, float], reached: Callable[[float], bool]) -> Iterator[str]:
    names = [[ROWS[row] for row, miou in between.items() if reached(miou) == wanted] for wanted in (True, False)]
    reached_by, missed = ("; ".join(found) or "none" for found in names)
    yield f"- Goal: {what}. Reached by: {reached_by}. Missed by: {missed}."


def _mean(seeds: Mapping[str, Any], key: str) -> float:
    return float(statistics.mean(one[key] for one in seeds.values()))


def _spread(seeds: Mapping[str, Any], key: str) -> str:
    values = [one[key] for one in seeds.values()]
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


@click.command()
@click.option(
    "--glas",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Measure on GlaS; the folder with its images.",
)
@click.option("--name", default="phantom", show_default=True, help="Name of the data set in the table.")
@click.option("--pipeline", type=SettingsFile(), default="demo")
@click.option("--config", type=SettingsFile(SHIPPED / "training"), default="small")
@click.option(
    "--patches",
    type=click.Path(exists=True, path_type=Path),
    help="Source patches, as in patches.root [a new phantom].",
)
@click.option(
    "--masked",
    type=click.Path(exists=True, path_type=Path),
    help="Images of the same tissue with masks, for the upper bound.",
)
@click.option("--val", type=click.Path(exists=True, path_type=Path), help="Images with masks that choose weights.")
@click.option("--test", type=click.Path(exists=True, path_type=Path), help="Test images with masks.")
@click.option(
    "--samples",
    default=3200,
    show_default=True,
    help="Composites in a curated set; a filter chooses from three times as many candidates.",
)
@click.option("--seeds", default=3, show_default=True, help="Number of trainings of every row.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a key of the pipeline file.")
@click.option("--train-set", multiple=True, metavar="KEY=VALUE", help="Replace a training setting.")
@click.option("--flips/--no-flips", default=True, show_default=True, help="Test by the mean over flips and rotations.")
@click.option("-d", "--directory", type=click.Path(path_type=Path), help="[runs/experiments/NAME]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[benchmarks/results/experiments/NAME.json]")
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, show_default=True)
def main(
    glas: Path | None,
    name: str,
    pipeline: Path,
    config: Path,
    patches: Path | None,
    masked: Path | None,
    val: Path | None,
    test: Path | None,
    samples: int,
    seeds: int,
    overrides: tuple[str, ...],
    train_set: tuple[str, ...],
    flips: bool,
    directory: Path | None,
    output: Path | None,
    page: Path,
) -> None:
    """Measure how much each part of the method improves the segmentation, and write PAGE from all stored results.

    Finished results are kept; run the same command again to resume.

    \b
    Examples:
      python -m benchmarks.experiments
      python -m benchmarks.experiments --glas /data/glas
      python -m benchmarks.experiments --name mine --pipeline mine.yaml --patches patches \\
        --masked train --val chosen --test test
    """
    if glas:
        name, pipeline, flips = "GlaS", Path("pipelines/glas.yaml"), False
    folder = directory or Path("runs") / "experiments" / name
    if glas:
        data = prepare(glas, folder / "data")
        patches, masked, val, test = data.patches, data.masked, data.chosen, data.test
        overrides = (f"patches.exclude={list(data.excluded)}", *overrides)
        train_set = (*GLAS_STEPS, *train_set)
    elif patches is None:
        patches = folder / "data"
        phantom(patches)
        masked, val, test = patches / "masked", patches / "2.validation", patches / "3.testing"
    if not (masked and val and test):
        raise click.UsageError("--patches needs --masked, --val and --test beside it")
    experiment = Experiment(
        name, pipeline, patches, masked, val, test, load_settings(TrainSettings, config, train_set), samples, overrides,
        flips, folder,
    )  # fmt: skip
    try:
        experiment.run(seeds, output or RESULTS / f"{name}.json")
    except SynthpipeError as error:
        if os.environ.get("SYNTHPIPE_DEBUG"):
            raise
        raise click.ClickException(str(error)) from error
    write_atomically(page, write_page((output or RESULTS / "x").parent))
    click.echo(page)


if __name__ == "__main__":
    main()
