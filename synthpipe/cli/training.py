"""`synthpipe train`, `pseudo-label`, `evaluate`, `predict` and `baseline`: the segmentation stage."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from synthpipe.cli.options import EXISTING, LOCATION, MAX_PIXELS_OPTION, CheckpointFile
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.cli.settings import KeyValue, SettingsFile
from synthpipe.config.fields import LARGEST, differences
from synthpipe.config.pipeline import LAYOUTS, PUBLISHED_GLASS, Layout, PatchesSection
from synthpipe.config.settings_file import load_settings
from synthpipe.config.shipped import SHIPPED
from synthpipe.core.display import file_stem
from synthpipe.core.errors import ConfigError, StoreError
from synthpipe.curated import PSEUDO_LABELLED, CuratedSet, Description
from synthpipe.files.folders import Kind, belongs, claim
from synthpipe.files.locations import Location, address, parse_location
from synthpipe.files.writing import write_atomically
from synthpipe.patches.catalog import Catalog, read_catalog
from synthpipe.patches.layouts import read_layout
from synthpipe.storage.summary import human_bytes

if TYPE_CHECKING:  # torch takes seconds to load, which `--help`, other commands and refused ones need not wait for
    from synthpipe.segment.devices import Hardware
    from synthpipe.segment.evaluation import Predictor
    from synthpipe.segment.mask_check import CheckedImages
    from synthpipe.segment.settings import TrainSettings, WindowSection
    from synthpipe.segment.training import Outcome

_BASELINE = Kind("baseline", ("baseline.json",), ("baseline.json", "labels", "masks", "test-*"))
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_checkpoint = click.argument("checkpoint", type=CheckpointFile())
_output = click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder to write: new, or begun by this command.",
)
_real = click.option("--real", type=EXISTING, help="Data set of the real patches.")
_layout = click.option("--layout", type=click.Choice(LAYOUTS), help="Of the real patches [that of the build].")
_val = click.option("--val", type=_FOLDER, required=True, help="Folder with img/ and mask/: chooses the best weights.")
_config = click.option(
    "--config",
    type=SettingsFile(SHIPPED / "training"),
    help="YAML file, or the name of one that comes with synthpipe: demo, published or small [published].",
)
_set = click.option(
    "--set",
    "overrides",
    type=KeyValue("synthpipe.segment.settings:TrainSettings"),
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a key of the settings file; may be given often.",
)
_windows = click.option(
    "--window",
    "windows",
    type=KeyValue("synthpipe.segment.settings:WindowSection"),
    multiple=True,
    metavar="KEY=VALUE",
    help="How images are cut: size, stride, scales, flips, blend or batch; may be given often.",
)
_glass = click.option(
    "--glass/--no-glass",
    default=True,
    show_default=True,
    help="Ignore empty glass, as the build of the composites defines it. If that build looked for no glass: areas of "
    f"{PUBLISHED_GLASS.min_area} pixels and more above grey {PUBLISHED_GLASS.threshold}.",
)
_device = click.option("--device", help="Where the network computes: cuda, cuda:1 or cpu [a GPU where there is one].")
_batch = click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images at once.")


def _mask_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--any-palette", is_flag=True, help="Take mask values as class indices, whatever colours the palettes have."
        ),
        click.option(
            "--mask-map",
            metavar="VALUE=CLASS,...",
            help='What mask values mean, such as "0=ignore,1=gland,2=stroma" [class indices].',
        ),
    ):
        command = option(command)
    return command


def _hardware_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--device",
            help="Where the network computes: cuda, cuda:1 or cpu; several with commas, as cuda:0,cuda:1 [all GPUs, or "
            "the CPU where there is none].",
        ),
        click.option(
            "--readers", type=click.IntRange(min=0), help="Processes of each device that read ahead [4; on a CPU none]."
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("curated", nargs=-1, required=True, type=LOCATION)
@_real
@_layout
@_val
@_output
@_config
@_set
@_mask_options
@MAX_PIXELS_OPTION
@_hardware_options
@click.option("--dry-run", is_flag=True, help="Say what would be trained on what; train nothing.")
def train(
    curated: tuple[Location, ...],
    real: Location | None,
    layout: Layout | None,
    val: Path,
    output: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    any_palette: bool,
    mask_map: str | None,
    most: int,
    device: str | None,
    readers: int | None,
    dry_run: bool,
) -> None:
    """Train a segmentation network on curated sets.

    CURATED is a finished run, its curated.zarr, or the store of `synthpipe pseudo-label`. Several sets are one: all
    samples count alike. Real patches (--real) train too, by their consistency. If the same command is given again, a
    training that was stopped resumes, with the very batches that it would have seen. Masks of --val hold class indices,
    or what --mask-map says. The first note says what each value means.

    \b
    Examples:
      synthpipe train runs/demo --real data/phantom --val data/phantom/2.validation \\
        --config pipelines/training/demo.yaml -o runs/demo/segmentation
      synthpipe train runs/bcss --real /data/BCSS-WSSS --val /data/BCSS-WSSS/val -o runs/bcss/stage-1
      synthpipe train runs/bcss runs/bcss/pseudo.zarr --real /data/BCSS-WSSS \\
        --val /data/BCSS-WSSS/val -o runs/bcss/stage-2 --device cuda:0,cuda:1
      synthpipe train runs/glas --real glas-tiles --val /data/glas/val -o runs/glas/stage-1 \\
        --mask-map "255=gland,0=stroma"
    """
    from synthpipe.segment.mask_check import among_patches
    from synthpipe.segment.masks import digest_of
    from synthpipe.segment.outputs import TRAINING
    from synthpipe.segment.sources import Composites, RealPatches

    claim(output, TRAINING)
    settings = _train_settings(config, overrides)
    sets = [CuratedSet(path) for path in curated]
    composites = Composites(sets)
    description = sets[0].description
    if real is None and settings.real:
        raise ConfigError("--real: missing; name the data set of the real patches, or set real=0 to train without them")
    images = _masked(val, description, mask_map, any_palette, most).images
    patches = None if real is None or not settings.real else _catalog(real, layout, description, most)
    if real is not None and not settings.real:
        reporter().note(f"note: real is 0, so no patches of {real} are trained on")
    if patches and settings.consistency.glass == "mask" and not description.glass:
        reporter().note("note: the build looked for no glass, so consistency.glass masks only what transforms open")
    sources = {f"curated {number}": each.digest for number, each in enumerate(sets, 1)}
    if patches:
        among_patches(images, patches.patches, reporter())
        sources["real patches"] = patches.digest
    sources["validation images"] = digest_of(images)

    from synthpipe.segment.network import SegmentationNetwork, read_file, with_own_normalisation
    from synthpipe.segment.training import TrainingData, check_network

    data = TrainingData(
        description,
        composites,
        RealPatches(patches.patches, description) if patches else None,
        images,
        sources,
    )
    if dry_run:
        settings = settings.model_copy(update={"network": with_own_normalisation(settings.network)})
        network = SegmentationNetwork(settings.network, len(description.taxonomy), read_file(settings.network))
        check_network(network, data, settings, devices=1)
        say("settings:\n" + yaml.safe_dump(settings.dump(), sort_keys=False, width=100))
        say(
            f"would train {output} on {len(composites)} composites of {description.size[0]} x {description.size[1]} "
            f"pixels and {len(patches.patches) if patches else 0} real patches, classes "
            f"{', '.join(description.taxonomy.names)}; {len(images)} validation images choose the best weights"
        )
        return
    from synthpipe.segment.devices import choose_hardware

    _report(_train(settings, data, output, choose_hardware(device, readers)), output)


def _train(settings: Any, data: Any, output: Path, hardware: Hardware) -> Outcome:
    from synthpipe.segment import training

    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt  # asked twice
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        outcome = training.train(settings, data, output, hardware, reporter(), lambda: bool(asked))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked and outcome.finished:  # during its last validation; what comes after is not begun
        raise KeyboardInterrupt
    return outcome


def _report(outcome: Outcome, output: Path) -> None:
    from synthpipe.segment.evaluation import draw_curves

    if not outcome.first_process:
        return
    draw_curves(output, output / "curves.png")
    if not outcome.finished:
        raise click.ClickException(
            f"stopped after step {outcome.step} of {outcome.steps}; give the command again to resume"
        )
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    best, test = (shlex.quote(str(output / name)) for name in ("best.ckpt", "test"))
    say(
        f"{output}: trained {outcome.steps} steps; best validation mIoU {outcome.best_miou:.4f}, in epoch "
        f"{outcome.best_epoch}{_constant(report)}\n"
        f"{_speed(report)}"
        f"  curves    {output / 'curves.png'}, or tensorboard --logdir {output}\n"
        f"  next      synthpipe evaluate {best} --data DIR -o {test}"
    )


def _speed(report: Mapping[str, Any]) -> str:
    """Return a line on how fast the network was trained; none where that was but a few steps."""
    if not report["images_a_second"]:
        return ""
    peak = report["peak_device_memory"]
    memory = f", at most {human_bytes(peak)} of GPU memory" if peak else ""
    rate, waiting = report["images_a_second"], report["waiting_share"]
    return (
        f"  speed     {rate:.1f} images a second, {waiting:.1%} of the time waiting for data{memory}; "
        f"{report['precision']} on {report['devices']} x {report['device']}\n"
    )


def _constant(report: Mapping[str, Any]) -> str:
    """Return the mIoU of one class everywhere, for comparison; an empty text for reports of earlier versions."""
    found = report.get("constant")
    return f" ({found['miou']:.4f} if every pixel were {found['class']})" if found else ""


def _miou(result: Mapping[str, Any]) -> str:
    """Return the mIoU, with its interval where there are images to draw from."""
    low, high = result["intervals"]["miou"]
    return f"mIoU {result['miou']:.4f}" + (f" ({low:.4f} to {high:.4f})" if len(result["images"]) > 1 else "")


def _train_settings(config: Path | None, overrides: tuple[str, ...]) -> TrainSettings:
    """Read the settings of a training; a file of weights that is not there is refused at once."""
    from synthpipe.segment.settings import TrainSettings

    settings = load_settings(TrainSettings, config, overrides)
    file = settings.network.weights_file
    if file and isinstance(path := parse_location(file), Path) and not path.exists():
        raise ConfigError(f"network.weights: {file}: not found; give a file that every training machine can read")
    return settings


def _catalog(real: Location, layout: Layout | None, description: Description, most: int) -> Catalog:
    """Read the real patches: laid out as those of the build, unless `layout` says otherwise.

    Patches that cannot be used are left out with a note: these commands have no key ``patches.on_error``.
    """
    like = description.patches
    if layout and layout != like.layout:
        like = PatchesSection(root=address(real), layout=layout)
    patches = like.model_copy(update={"root": address(real), "max_pixels": most, "on_error": "skip"})
    claims = read_layout(patches, description.taxonomy, same_set=False)
    with reporter().stage("catalog", len(claims)) as advance:
        catalog = read_catalog(
            patches, description.taxonomy, lambda: advance(1), claims=claims, canvas=description.size
        )
    if catalog.problems:
        reporter().note(
            f"note: real patches left out because they cannot be used: {len(catalog.problems)}; the first: "
            f"{catalog.problems[0].message}"
        )
    for remark in catalog.remarks:
        reporter().note(f"note: {remark}")
    return catalog


def _masked(
    directory: Path, description: Description, mask_map: str | None, any_palette: bool, most: int
) -> CheckedImages:
    """List and check images with masks, so that unusable ones are refused before hours of work."""
    from synthpipe.segment.mask_check import check_masks
    from synthpipe.segment.mask_values import parse_mask_map
    from synthpipe.segment.masks import masked_images

    meaning = None if mask_map is None else parse_mask_map(mask_map, description.taxonomy)
    return check_masks(masked_images(directory, most, meaning), description.taxonomy, reporter(), any_palette)


@click.command("pseudo-label")
@_checkpoint
@click.option("--real", type=EXISTING, required=True, help="Data set of the real patches.")
@_layout
@click.option("-o", "--output", type=LOCATION, required=True, help="Zarr store to write.")
@_glass
@_device
@_batch
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the pixels of each class that keep it, in patches of several; the unsure ones are ignored [all].",
)
@MAX_PIXELS_OPTION
def pseudo_label(
    checkpoint: Path,
    real: Location,
    layout: Layout | None,
    output: Location,
    glass: bool,
    device: str | None,
    batch: int,
    keep: float | None,
    most: int,
) -> None:
    """Predict the masks of real patches, to train on.

    CHECKPOINT is a file, or the folder of a training, whose best.ckpt it stands for. `synthpipe train` takes the store
    that is written beside the composites. The mean over flips and rotations is taken where the canvas is a square;
    classes that a patch's label excludes are suppressed, patches of one class are filled with it, and glass is ignored.
    If the same command is given again, it resumes.

    --keep 0.6 is worth trying: the classes of a label are brought to equal shares of all patches first, so that a class
    that the network seldom predicts is not lost; then the surest pixels of each class keep it.

    \b
    Examples:
      synthpipe pseudo-label runs/demo/segmentation --real data/phantom -o runs/demo/pseudo.zarr
      synthpipe pseudo-label runs/bcss/stage-1 --real /data/BCSS-WSSS -o runs/bcss/pseudo.zarr
      synthpipe pseudo-label runs/glas/stage-1 --real glas-tiles -o runs/glas/pseudo.zarr --no-glass --keep 0.6
    """
    claim(output, PSEUDO_LABELLED)

    from synthpipe.segment.checkpoint import Checkpoint
    from synthpipe.segment.devices import choose_device
    from synthpipe.segment.pseudo import pseudo_label

    description = Checkpoint.load(checkpoint).description
    chosen = choose_device(device)
    catalog = _catalog(real, layout, description, most)
    _note_glass(description, glass)
    count = pseudo_label(
        checkpoint,
        catalog.patches,
        catalog.digest,
        output,
        chosen,
        batch,
        reporter(),
        description.ignored_glass(glass),
        keep,
    )
    say(f"{output}: {len(catalog.patches)} real patches with predicted masks, {count} of them now")


@click.command()
@_checkpoint
@click.option("--data", type=_FOLDER, required=True, help="Folder with img/ and mask/: images of any size.")
@_output
@_windows
@_glass
@click.option("--pictures", type=click.IntRange(min=0), default=16, show_default=True, help="Images to draw.")
@click.option("--replicates", type=click.IntRange(min=1), default=1000, show_default=True, help="Of the bootstrap.")
@_mask_options
@MAX_PIXELS_OPTION
@_device
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

    It writes IoU, Dice, accuracy and boundary scores with their intervals, and pictures. CHECKPOINT is a file, or the
    folder of a training, whose best.ckpt it stands for.

    Images are cut into windows that leave no gap; by default windows of the canvas at half its stride, with the mean
    over flips and rotations where the canvas is a square. Classes that the masks do not show are left out of means.
    Intervals are 95 %, by bootstrap over images. Masks hold class indices, or what --mask-map says. The first note says
    what each value means.

    The mIoU is compared with that of one class everywhere, and with those of `synthpipe baseline` if it measured the
    same images in the same windows and its folder lies beside that of the checkpoint, or beside the output.

    Pixels that the masks leave out (background) are not counted. Glass with a class in the masks is counted, and its
    share is reported. Pictures leave out all other glass.

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
    _check_windows(windows)
    masked_images(data, most)

    from synthpipe.segment.evaluation import draw_curves, evaluate, table
    from synthpipe.segment.references import measured_baselines

    predictor = _predictor(checkpoint, windows, device, glass)
    _note_glass(predictor.checkpoint.description, glass)
    images = _masked(data, predictor.checkpoint.description, mask_map, any_palette, most).images
    result = evaluate(predictor, images, output, reporter(), pictures, replicates)
    rows = [row[:6] for row in table(result)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))
    count = len(result["images"])
    say(
        f"{_miou(result)}, fwIoU {result['fwiou']:.4f}, pixel accuracy {result['pixel_accuracy']:.4f}, {count} "
        f"{'images' if count > 1 else 'image, which has no interval'}"
    )
    say(f"for comparison: mIoU {result['constant']['miou']:.4f} if every pixel were {result['constant']['class']}")
    baselines = list(measured_baselines(result, (checkpoint.parent.parent, output.parent)))
    for name, miou in baselines:
        say(f"for comparison: mIoU {miou:.4f} by {name}")
    if not baselines:
        say("note: `synthpipe baseline` measures what image labels alone and true masks reach on these images")
    if share := result["glass"]["share_of_labelled"]:
        say(
            f"note: {share:.1%} of the counted pixels are glass with a class in the masks; here the predicted class "
            "counts, but `synthpipe predict` makes glass background"
        )
    curves = ""
    try:
        curves = ", curves.png" if draw_curves(checkpoint.parent, output / "curves.png") else ""
    except StoreError as error:  # what stands beside the checkpoint is no part of the evaluation
        reporter().note(f"note: {error}")
    say(f"{output}: metrics.json, metrics.csv, confusion.png{curves}, pictures/")


@click.command()
@_checkpoint
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_output
@_windows
@_glass
@click.option("--overlays/--no-overlays", default=True, show_default=True, help="Pictures of the masks on the images.")
@click.option("--probabilities", is_flag=True, help="NumPy files (class, y, x), float16.")
@MAX_PIXELS_OPTION
@_device
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

    Masks of IMAGES are palette PNGs whose pixel values are class indices. CHECKPOINT is a file, or the folder of a
    training, whose best.ckpt it stands for.

    An image is decoded as a whole, and looked at window by window. Masks have the images' stems; bytes of a stem that
    are not Unicode become escapes, and a stem of more than 200 bytes is shortened. predictions.json says which
    checkpoint and image each mask is of. Glass gets the index after the last class, the background. Probabilities are
    the network's, on glass too.

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
                raise ConfigError(f"-o {output}: its {name} would replace {replaced}; name another folder")
            if (other := outputs.setdefault(name, path)) != path:
                raise ConfigError(f"IMAGES: {other} and {path} both give {name}; predict them into two folders")
    claim(output, PREDICTION)
    _check_windows(windows)

    from synthpipe.segment.prediction import write_predictions

    predictor = _predictor(checkpoint, windows, device, glass)
    _note_glass(predictor.checkpoint.description, glass)
    share = write_predictions(predictor, images, output, reporter(), overlays, probabilities, most)
    if share:
        background = predictor.taxonomy.background
        say(
            f"note: {share:.1%} of the pixels are glass: {background} in the masks, the background (--no-glass gives "
            "them classes)"
        )
    say(f"{output}: masks of {len(images)} images, and {RECORD}")


@click.command()
@click.argument("curated", nargs=-1, required=True, type=LOCATION)
@click.option("--real", type=EXISTING, required=True, help="Data set of real patches.")
@_layout
@click.option("--masks", type=_FOLDER, help="Folder with img/ and mask/ to train the upper bound on [none is trained].")
@_val
@click.option("--data", type=_FOLDER, required=True, help="Folder with img/ and mask/ to compare on.")
@_output
@_config
@_set
@_hardware_options
@click.option(
    "--compare", multiple=True, type=CheckpointFile(), help="A checkpoint to measure too; may be given often."
)
@_windows
@_glass
@_mask_options
@MAX_PIXELS_OPTION
def baseline(
    curated: tuple[Location, ...],
    real: Location,
    layout: Layout | None,
    masks: Path | None,
    val: Path,
    data: Path,
    output: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    device: str | None,
    readers: int | None,
    compare: tuple[Path, ...],
    windows: tuple[str, ...],
    glass: bool,
    any_palette: bool,
    mask_map: str | None,
    most: int,
) -> None:
    """Train what composites are measured against.

    Give the CURATED sets and the settings of `synthpipe train`, so that an epoch takes as many steps, and a step as
    many images. The lower bound knows image labels alone: its masks are those of the class activation map. The upper
    bound knows true masks, where the data has them. Both are measured on --data beside the checkpoints of --compare.
    --mask-map and --any-palette hold for all masks.

    \b
    Examples:
      synthpipe baseline runs/demo --real data/phantom --masks data/phantom/masked \\
        --val data/phantom/2.validation --data data/phantom/3.testing --config pipelines/training/demo.yaml \\
        --compare runs/demo/segmentation -o runs/demo/baseline
    """
    from synthpipe.segment.mask_check import among_patches, check_disjoint
    from synthpipe.segment.outputs import TRAINING
    from synthpipe.segment.sources import Composites, RealPatches

    claim(output, _BASELINE, known=belongs(output / "labels", TRAINING))
    settings = _train_settings(config, overrides)
    sets = [CuratedSet(path) for path in curated]
    composites, description = Composites(sets), sets[0].description
    _windows_of(description, windows)  # refused before anything is trained
    _note_glass(description, glass)
    folders = {"--val": val, "--data": data} | ({"--masks": masks} if masks else {})
    checked = {option: _masked(folder, description, mask_map, any_palette, most) for option, folder in folders.items()}
    check_disjoint(checked)
    validation, images = checked["--val"].images, checked["--data"].images
    catalog = _catalog(real, layout, description, most)
    for each in (validation, images):
        among_patches(each, catalog.patches, reporter())
    patches = RealPatches(catalog.patches, description)

    from synthpipe.segment.baselines import lower_bound, upper_bound
    from synthpipe.segment.checkpoint import Checkpoint
    from synthpipe.segment.devices import choose_hardware
    from synthpipe.segment.evaluation import evaluate
    from synthpipe.segment.references import BASELINES

    trainings = {
        "labels": lower_bound(settings, description, composites, patches, validation, catalog.digest),
    }
    if masks:
        masked = checked["--masks"].images
        trainings["masks"] = upper_bound(settings, description, composites, masked, validation)
    for path in compare:
        other = Checkpoint.load(path).description
        _windows_of(other, windows)
        if changes := list(differences(description.taxonomy.to_json(), other.taxonomy.to_json())):
            raise ConfigError("\n  ".join([f"--compare {path}: has other classes than {curated[0]}:", *changes]))
    for name, (chosen, training) in trainings.items():
        outcome = _train(chosen, training, output / name, choose_hardware(device, readers))
        if not outcome.finished:
            _report(outcome, output / name)
            return
    if not outcome.first_process:  # the other devices' processes were there to train
        return
    lower, upper = BASELINES["test-labels"], BASELINES["test-masks"]
    measured = {lower: (output / "labels" / "best.ckpt", "test-labels")}
    measured |= {str(path): (path, f"test-{number}") for number, path in enumerate(compare, 1)}
    if masks:
        measured[upper] = output / "masks" / "best.ckpt", "test-masks"
    first = device.split(",")[0] if device else None
    results = {
        name: evaluate(_predictor(path, windows, first, glass), images, output / folder, reporter())
        for name, (path, folder) in measured.items()
    }
    rows = {
        name: {key: result[key] for key in ("miou", "fwiou", "mean_dice", "mean_boundary_f", "checkpoint")}
        | {"miou_interval": result["intervals"]["miou"], "details": measured[name][1]}
        for name, result in results.items()
    }
    write_atomically(output / "baseline.json", json.dumps(rows, indent=1) + "\n")
    best = results.get(upper, {"miou": None})["miou"]
    most_frequent = results[lower]["constant"]
    say(f"mIoU {most_frequent['miou']:.4f} if every pixel were {most_frequent['class']}")
    for name, result in results.items():
        share = f"  {result['miou'] / best:5.1%} of the upper bound" if best else ""
        say(f"{_miou(result)}  fwIoU {result['fwiou']:.4f}{share}  {name}")
    say(f"{output}: baseline.json, and test-*/ with metrics and pictures of each")


def _note_glass(description: Description, glass: bool) -> None:
    if glass and not description.glass:
        reporter().note(
            f"note: the build of the composites looked for no glass; areas above grey {PUBLISHED_GLASS.threshold} of "
            f"{PUBLISHED_GLASS.min_area} pixels and more are ignored as glass (--no-glass keeps them)"
        )


def _predictor(checkpoint: Path, windows: tuple[str, ...], device: str | None, glass: bool) -> Predictor:
    from synthpipe.segment.devices import choose_device
    from synthpipe.segment.evaluation import Predictor

    predictor = Predictor.load(checkpoint, device=choose_device(device), glass=glass)
    return replace(predictor, windows=_windows_of(predictor.checkpoint.description, windows))


def _check_windows(windows: tuple[str, ...]) -> None:
    """Refuse a --window that no network can take, before one is loaded."""
    _window_settings((LARGEST, LARGEST), windows)


def _windows_of(description: Description, windows: tuple[str, ...]) -> WindowSection:
    """Return how images are cut for a network of that canvas, with what --window replaces."""
    return _window_settings(description.size, windows)


def _window_settings(size: tuple[int, int], windows: tuple[str, ...]) -> WindowSection:
    from synthpipe.segment.settings import WindowSection, default_windows

    defaults = default_windows(size).model_dump(mode="json")
    base = [f"{key}={json.dumps(value)}" for key, value in defaults.items()]
    return load_settings(WindowSection, None, (*base, *windows), option="--window")
