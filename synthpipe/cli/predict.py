"""`synthpipe predict`: predict the masks of images."""

from __future__ import annotations

from pathlib import Path

import click

from synthpipe.cli.options import MAX_PIXELS_OPTION
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.cli.segmentation import check_windows, load_predictor, note_glass
from synthpipe.cli.segmentation_options import (
    checkpoint_argument,
    device_option,
    glass_option,
    output_option,
    windows_option,
)
from synthpipe.core.display import file_stem
from synthpipe.core.errors import ConfigError
from synthpipe.files.folders import claim


@click.command()
@checkpoint_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_option
@windows_option
@glass_option
@click.option(
    "--overlays/--no-overlays",
    default=True,
    show_default=True,
    help="Also write pictures that show the masks on the images.",
)
@click.option("--probabilities", is_flag=True, help="Also write probabilities as NumPy files, float16 (class, y, x).")
@MAX_PIXELS_OPTION
@device_option
def predict(
    checkpoint: Path,
    images: tuple[Path, ...],
    output: Path,
    windows: tuple[str, ...],
    glass: bool,
    overlays: bool,
    probabilities: bool,
    most: int,
    device: str | None,
) -> None:
    """Predict the masks of images of any size.

    Masks of IMAGES are palette PNGs; their pixel values are class indices. CHECKPOINT is a file, or the folder of a
    training, which means its best.ckpt.

    An image is decoded as a whole, and predicted window by window. A mask is named like its image; bytes of the name
    that are not Unicode become escapes, and a name of more than 200 bytes is shortened. predictions.json records the
    checkpoint and the image of each mask. In masks, glass gets the index of the background, which is the index after
    the last class. Probabilities are not changed on glass.

    \b
    Examples:
      synthpipe predict runs/demo/segmentation data/phantom/3.testing/img/*.png -o masks
      synthpipe predict best.ckpt region.tif -o out --probabilities --window stride=112
      synthpipe predict runs/glas/stage-1 gland.png -o masks --no-glass
    """
    from synthpipe.segment.outputs import PREDICTION, RECORD

    inputs, outputs = {image.resolve(): image for image in images}, dict[str, Path]()
    for path in images:
        stem = file_stem(path.stem)
        for name in (f"{stem}.png", *((f"{stem}-overlay.png",) if overlays else ())):
            if replaced := inputs.get((output / name).resolve()):
                raise ConfigError(f"-o {output}: its {name} would replace {replaced}; choose another folder")
            if (other := outputs.setdefault(name, path)) != path:
                raise ConfigError(f"IMAGES: {other} and {path} both give {name}; predict them into two folders")
    claim(output, PREDICTION)
    check_windows(windows)

    from synthpipe.segment.prediction import write_predictions

    predictor = load_predictor(checkpoint, windows, device, glass)
    note_glass(predictor.checkpoint.description, glass)
    share = write_predictions(predictor, images, output, reporter(), overlays, probabilities, most)
    if share:
        background = predictor.taxonomy.background
        say(
            f"note: {share:.1%} of the pixels are glass, which has the background's index {background} in the masks "
            "(--no-glass keeps the predicted classes)"
        )
    say(f"{output}: masks of {len(images)} images, and {RECORD}")
