"""`synthpipe evaluate`: measure a network on images with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from synthpipe.cli.options import MAX_PIXELS_OPTION
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.cli.segmentation import check_windows, checked_images, load_predictor, miou_text, note_glass
from synthpipe.cli.segmentation_options import (
    FOLDER,
    checkpoint_argument,
    device_option,
    glass_option,
    mask_options,
    output_option,
    windows_option,
)
from synthpipe.core.errors import StoreError
from synthpipe.files.folders import claim


@click.command()
@checkpoint_argument
@click.option("--data", type=FOLDER, required=True, help="Folder with img/ and mask/; images can have any size.")
@output_option
@windows_option
@glass_option
@click.option("--pictures", type=click.IntRange(min=0), default=16, show_default=True, help="Number of images to draw.")
@click.option(
    "--replicates", type=click.IntRange(min=1), default=1000, show_default=True, help="Number of bootstrap replicates."
)
@mask_options
@MAX_PIXELS_OPTION
@device_option
def evaluate(
    checkpoint: Path,
    data: Path,
    output: Path,
    windows: tuple[str, ...],
    glass: bool,
    pictures: int,
    replicates: int,
    any_palette: bool,
    mask_map: str | None,
    most: int,
    device: str | None,
) -> None:
    """Measure a network on images with masks.

    evaluate writes IoU, Dice, accuracy and boundary scores with their intervals, and pictures. CHECKPOINT is a file, or
    the folder of a training, which means its best.ckpt.

    Images are cut into windows without gaps. By default a window has the size of the canvas, and the stride is half
    that size; if the canvas is a square, predictions are means over flips and rotations. Means of scores leave out
    classes that the masks do not show. Intervals are 95 % intervals of a bootstrap over images. Mask values are class
    indices, unless --mask-map names the class of each value; the first note lists the values and their classes.

    The mIoU is compared with the mIoU of one class everywhere. It is also compared with the networks of `synthpipe
    baseline`, if that command measured the same images in the same windows, and its folder is beside the folder of the
    checkpoint or beside the output.

    Background pixels of the masks are not counted. Glass with a class in the masks is counted, and its share is
    reported. Pictures leave out all other glass.

    \b
    Examples:
      synthpipe evaluate runs/demo/segmentation --data data/phantom/3.testing -o runs/demo/test
      synthpipe evaluate runs/wsss4luad/stage-1 --data /data/WSSS4LUAD/3.testing -o result \\
        --window size=224 --window stride=112 --window "scales=[1, 1.25, 1.5, 1.75, 2]"
      synthpipe evaluate runs/glas/stage-1 --data /data/glas/test -o result --mask-map "0=ignore,1=gland,2=stroma"
    """
    from synthpipe.segment.masks import masked_images
    from synthpipe.segment.outputs import EVALUATION

    claim(output, EVALUATION)  # before the masks are read, which takes long
    check_windows(windows)
    masked_images(data, most)

    from synthpipe.segment.evaluation import draw_curves, evaluate
    from synthpipe.segment.references import measured_baselines

    predictor = load_predictor(checkpoint, windows, device, glass)
    note_glass(predictor.checkpoint.description, glass)
    images = checked_images(data, predictor.checkpoint.description, mask_map, any_palette, most).images
    result = evaluate(predictor, images, output, reporter(), pictures, replicates)
    _say_result(result, list(measured_baselines(result, (checkpoint.parent.parent, output.parent))))
    curves = ""
    try:
        curves = ", curves.png" if draw_curves(checkpoint.parent, output / "curves.png") else ""
    except StoreError as error:  # files beside the checkpoint are not part of the evaluation
        reporter().note(f"note: {error}")
    say(f"{output}: metrics.json, metrics.csv, confusion.png{curves}, pictures/")


def _say_result(result: Mapping[str, Any], baselines: Sequence[tuple[str, float]]) -> None:
    from synthpipe.segment.evaluation import table

    rows = [row[:6] for row in table(result)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))
    count = len(result["images"])
    say(
        f"{miou_text(result)}, fwIoU {result['fwiou']:.4f}, pixel accuracy {result['pixel_accuracy']:.4f}, {count} "
        f"{'images' if count > 1 else 'image, so there is no interval'}"
    )
    say(f"for comparison: mIoU {result['constant']['miou']:.4f} if every pixel were {result['constant']['class']}")
    for name, miou in baselines:
        say(f"for comparison: mIoU {miou:.4f} by {name}")
    if not baselines:
        say("note: `synthpipe baseline` measures networks that learn from image labels alone, or from true masks")
    if share := result["glass"]["share_of_labelled"]:
        say(
            f"note: {share:.1%} of the counted pixels are glass with a class in the masks; these scores count the "
            "predicted class there, but `synthpipe predict` writes background for glass"
        )
