"""The pipeline: one validated, frozen model of all settings that decide the bytes of a run.

A pipeline file holds every constant of the method. Settings that depend on the machine (workers, addresses, paths of
runs) are options of the command line, except `patches.root`. Fingerprints ignore `patches.root`, `name`, `license`,
`store.pixels` and `store.recipes`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from synthpipe.config.fields import (
    LARGEST,
    MOST,
    Above0,
    Byte,
    Color,
    Deviation,
    Draws,
    Flag,
    Fraction,
    GridSize,
    Mean,
    Number,
    PerStrategy,
    Positive,
    Precision,
    Secretive,
    Section,
    Side,
    Size,
    Text,
    Version,
    Whole,
    digest,
)
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.core.taxonomy import LOST, Taxonomy, TissueClass

Layout = Literal["wsss4luad", "bcss-wsss", "luad-histoseg", "folders", "pattern", "csv"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Codec = Literal["none", "zstd", "blosc-lz4"]
CODECS: tuple[Codec, ...] = get_args(Codec)
Stage = Literal["candidates", "training", "filter", "curation"]
DropReason = Literal["label", "blur", "glass", "pen", "fold", "duplicate"]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)

MAX_PIXELS = 8192 * 8192
"""Largest number of pixels of an image that is decoded by default; a larger one is a slide or a decompression bomb."""


def _all_or_pairs(value: Any) -> Any:
    if value != "all" and not (
        isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) for pair in value)
    ):
        raise PydanticCustomError(
            "pairs", "Expected all, or a list of [background, foreground] class names, such as [[tumour, stroma]]"
        )
    return None if value == "all" else value


Digest = Annotated[Text, Field(pattern="^[0-9a-f]{64}$", json_schema_extra={"x-words": "64 digits of 0-9 and a-f"})]
_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
Pairs = Annotated[
    tuple[tuple[Text, Text], ...] | None,
    BeforeValidator(_all_or_pairs),
    PlainSerializer(lambda pairs: "all" if pairs is None else pairs),
    WithJsonSchema(
        {
            "anyOf": [{"const": "all"}, {"type": "array", "items": _NAMES}],
            "x-words": "all, or a list of [background, foreground] class names",
        }
    ),
]


def _each(count: int) -> dict[Strategy, int]:
    return dict.fromkeys(STRATEGIES, count)


def _one(schema: dict[str, Any]) -> None:
    """Show a default as one number in the schema if it is the same for all strategies, or for height and width."""
    found = schema["default"]
    schema["default"] = next(iter(found.values() if isinstance(found, dict) else found))


def _follows(schema: dict[str, Any]) -> None:
    """Remove the default of a key from the schema; if a file leaves out the key, its value follows from other keys."""
    schema.pop("default", None)


class ClassSection(Section):
    """One tissue class; its position in the list is its index."""

    name: Annotated[
        Text,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_ .-]*$",
            description="name of the class; case does not matter in folders and tables",
            examples=["tumour"],
            json_schema_extra={"x-words": "letters, digits, blanks, _ . and -, with a letter or a digit first"},
        ),
    ]
    color: Annotated[
        Color,
        Field(
            description="RGB in palettes and overlays; left out: a colour that no other class has",
            examples=[[0, 64, 128]],
        ),
    ]
    aliases: Annotated[
        tuple[Text, ...],
        Field(description="other names of the class in folders, file names and tables", examples=[["TUM", "tumor"]]),
    ] = ()


Classes = Annotated[tuple[ClassSection, ...], Field(min_length=2, max_length=LOST - 1)]
_CLASS = {**ClassSection.model_json_schema(), "required": ["name"]}
_CLASS_NAME = {key: value for key, value in _CLASS["properties"]["name"].items() if key != "title"}


class PatchesSection(Section):
    """Location and layout of the weakly-labelled patches, and settings for reading them."""

    _new_keys = ("label_pattern",)
    root: Annotated[
        Secretive,
        Field(
            description="folder of the data set, its CSV file, or the URL of either; never part of a fingerprint",
            examples=["/data/patches"],
        ),
    ]
    layout: Annotated[
        Layout,
        Field(
            description="the way in which the data set stores labels; README.md lists the layouts", examples=["folders"]
        ),
    ]
    label_pattern: Annotated[
        Text | None,
        Field(
            description="for layout pattern: a regular expression on the file name without its suffix; the group "
            "(?P<label>...) holds one class name, or several joined by +",
            examples=["^(?P<label>[A-Z]+)-"],
        ),
    ] = None
    group_pattern: Annotated[
        Text | None,
        Field(
            description="a regular expression on the file name without its suffix; its first group is the slide or "
            "patient; null: the layout's own pattern; without one each file is its own slide",
            examples=["^([^-]+)-"],
        ),
    ] = None
    exclude: Annotated[
        tuple[Text, ...], Field(description="shell patterns of patch ids to leave out", examples=[["masks/*"]])
    ] = ()
    on_error: Annotated[
        Literal["stop", "skip"],
        Field(description="whether bad patches (unreadable, mislabelled, ...) stop the build or are left out"),
    ] = "stop"
    min_side: Annotated[
        Side | None,
        Field(
            description="patches whose shorter side has fewer pixels are not used; null: a quarter of the canvas's "
            "shorter side; never part of a fingerprint",
            examples=[56],
        ),
    ] = None
    max_pixels: Annotated[
        Whole, Field(ge=1, le=2**36, description="a patch with more pixels is not decoded; never part of a fingerprint")
    ] = MAX_PIXELS


class GlassSection(Section):
    """White background (method section 2): bright connected areas, which get the background index."""

    threshold: Annotated[Byte, Field(description="pixels with a grey value above this are bright")] = 220
    min_area: Annotated[
        Whole, Field(ge=0, le=LARGEST**2, description="pixels; smaller 4-connected areas do not count as glass")
    ] = 250
    max_share: Annotated[Fraction, Field(description="a tile with a larger share of glass is drawn again")] = 0.8
    max_draws: Annotated[Draws, Field(description="most draws of a tile; the last draw is used")] = 20


PUBLISHED_GLASS = GlassSection()
"""The glass settings of WSSS4LUAD (method section 2), for networks if the build looked for no glass."""


class DonorsSection(Section):
    """Settings for choosing and drawing donors, which are single-class patches."""

    _new_keys = ("quality", "quality_sha256", "drop", "min_confidence")
    balance_classes: Annotated[
        Flag, Field(description="true: every class is equally likely, and so is every donor of a class")
    ] = False
    quality: Annotated[
        Secretive | None,
        Field(
            description="the quality.csv that `synthpipe index --quality` wrote for these patches; its digest counts, "
            "its path does not",
            examples=["quality.csv"],
        ),
    ] = None
    quality_sha256: Annotated[Digest | None, Field(description="SHA-256 of donors.quality; null: computed from it")] = (
        None
    )
    drop: Annotated[
        tuple[DropReason, ...],
        Field(
            description="donors with one of these reasons in donors.quality are not used", examples=[["label", "blur"]]
        ),
    ] = ()
    min_confidence: Annotated[
        Fraction | None,
        Field(
            description="donors with a lower confidence in donors.quality are not used; null: any confidence",
            examples=[0.5],
        ),
    ] = None


class MosaicSection(Section):
    """The Mosaic transformation (method section 2)."""

    tile: Annotated[
        Size,
        Field(
            description="size of a tile in pixels; left out: half of the canvas",
            examples=[112],
            json_schema_extra=_follows,
        ),
    ] = (112, 112)
    grid: Annotated[
        GridSize, Field(description="rows and columns of tiles in a grid image", examples=[2], json_schema_extra=_one)
    ] = (2, 2)
    probability: Annotated[
        Fraction, Field(description="probability of a flip, and also of shift, scale and rotation")
    ] = 0.8
    shift: Annotated[Fraction, Field(description="largest shift, as a share of height and of width")] = 0.0625
    scale: Annotated[Number, Field(ge=0, le=0.75, description="largest change of size, as a share of the size")] = 0.2
    rotation: Annotated[Number, Field(ge=0, le=180, description="largest rotation, in degrees")] = 45.0
    split: Annotated[
        tuple[Fraction, Fraction], Field(description="range of the split point, as shares of height and of width")
    ] = (0.2, 0.8)


class BezierSection(Section):
    """Bezier masks (method section 2)."""

    points: Annotated[Whole, Field(ge=3, le=1000, description="number of corners of the curve")] = 12
    min_distance: Annotated[
        Number,
        Field(
            ge=0,
            le=1000,
            description="smallest distance between neighbouring corners in the unit square, times the number of points",
        ),
    ] = 0.7
    max_draws: Annotated[
        Draws,
        Field(description="most draws of the corners, until they are far enough apart; the last draw is used"),
    ] = 200
    edgy: Annotated[
        Number, Field(ge=-1e6, le=1e6, description="0 is smooth; larger values turn the tangents to the next corner")
    ] = 0.05
    radius: Annotated[
        Number, Field(gt=0, le=1, description="distance of control points, as a share of the chord's length")
    ] = 0.2
    samples: Annotated[Whole, Field(ge=2, le=10_000, description="number of points of each drawn segment")] = 100
    pairs: Annotated[
        Pairs,
        Field(
            description="[background, foreground] classes, drawn evenly; all: every ordered pair of two classes",
            json_schema_extra={"default": "all"},
            examples=["all"],
        ),
    ] = None


class FilterSection(Section):
    """The filter model (method section 3), one for each strategy."""

    _new_keys = ("weights", "weights_sha256", "pretrained", "precision")
    enabled: Annotated[
        Flag,
        Field(
            description="true: a filter is trained on patches of several classes, and scores the candidates, as "
            "published; false: the first candidates are kept"
        ),
    ] = False
    network: Annotated[Text, Field(description="a timm model name")] = "resnet18"
    weights: Annotated[
        Secretive | None,
        Field(
            description="file of weights for the start of training; the fingerprint counts its digest, not its path",
            examples=["/models/resnet18.safetensors"],
        ),
    ] = None
    weights_sha256: Annotated[Digest | None, Field(description="SHA-256 of filter.weights; null: computed from it")] = (
        None
    )
    pretrained: Annotated[Flag, Field(description="start from the weights of timm's hub")] = False
    precision: Annotated[
        Precision, Field(description="mixed: bfloat16 on CPUs, and on GPUs that support it (Ampere and later)")
    ] = "32"
    candidates: Annotated[
        Whole, Field(ge=10, le=MOST, description="composites per strategy that train the filter and are never curated")
    ] = 10_000
    train_share: Annotated[
        Number,
        Field(
            gt=0,
            lt=1,
            description="share of patches (in whole slides) and of composites for training; the rest is for validation",
        ),
    ] = 0.8
    epochs: Annotated[
        PerStrategy, Field(description="passes over the training images", examples=[5], json_schema_extra=_one)
    ] = _each(5)
    batch: Annotated[
        Whole, Field(ge=2, le=65_536, description="images per step; batch normalisation needs at least two")
    ] = 256
    learning_rate: Annotated[Above0, Field(description="learning rate of Adam")] = 0.001
    mean: Annotated[
        tuple[Mean, Mean, Mean],
        Field(
            description="mean of RGB in 0-1, subtracted from images; with weights or pretrained, the network's own mean"
        ),
    ] = (0.485, 0.456, 0.406)
    std: Annotated[
        tuple[Deviation, Deviation, Deviation],
        Field(
            description="standard deviation of RGB in 0-1; images are divided by it; with weights or pretrained, "
            "the network's own std"
        ),
    ] = (0.229, 0.224, 0.225)
    threads: Annotated[
        Whole,
        Field(
            ge=1,
            le=1024,
            description="CPU threads of training and scoring; a fixed number keeps bytes equal",
        ),
    ] = 1


class CurationSection(Section):
    """Rules that decide which candidates are kept."""

    rule: Annotated[
        Literal["threshold", "top_k"],
        Field(description="threshold: keep the first that score above it; top_k: keep the highest scores"),
    ] = "threshold"
    threshold: Annotated[
        Fraction,
        Field(
            description="the filter accepts higher scores; rule top_k only warns about kept ones that are not higher"
        ),
    ] = 0.5
    wanted: Annotated[
        PerStrategy, Field(description="number of composites to keep", examples=[3600], json_schema_extra=_one)
    ] = _each(3600)
    candidates: Annotated[
        PerStrategy,
        Field(
            description="candidates in the first plan; left out: 20/9 of wanted, or wanted without a filter",
            examples=[8000],
            json_schema_extra=_follows,
        ),
    ] = _each(8000)
    max_candidates: Annotated[
        PerStrategy,
        Field(
            description="largest number of candidates, if few are kept; left out: 20 times wanted",
            examples=[72_000],
            json_schema_extra=_follows,
        ),
    ] = _each(72_000)
    min_acceptance: Annotated[
        Fraction, Field(description="rule threshold: the build stops if the filter accepts a smaller share")
    ] = 0.02
    min_classes: Annotated[Positive, Field(description="a composite with fewer tissue classes is left out")] = 2
    min_class_share: Annotated[
        Fraction, Field(description="a class counts if it has at least this share of the pixels")
    ] = 0.01
    max_donor_uses: Annotated[
        Positive | None,
        Field(description="most uses of one patch in the kept composites of a strategy; null: no limit", examples=[50]),
    ] = None


class StoreSection(Section):
    """Settings for storing composites in Zarr."""

    _new_keys = ("pixels", "recipes")
    pixels: Annotated[
        Literal["stored", "virtual"],
        Field(
            description="stored: images and masks are written; virtual: readers render images and masks; "
            "never part of a fingerprint"
        ),
    ] = "stored"
    recipes: Annotated[
        Flag,
        Field(
            description="false: recipes are not written, since they can be sampled again; never part of a fingerprint"
        ),
    ] = True
    shard: Annotated[
        Whole, Field(ge=1, le=1_000_000, description="composites per shard, the unit of work and of resuming")
    ] = 512
    image_codec: Annotated[Codec, Field(description="codec of images; blosc-lz4 shuffles bits")] = "none"
    mask_codec: Annotated[Codec, Field(description="codec of masks; blosc-lz4 does not shuffle")] = "blosc-lz4"
    zstd_level: Annotated[Whole, Field(ge=0, le=22, description="zstd level, also for all small arrays")] = 1


class Pipeline(Section):
    """All settings of a pipeline file.

    Sizes are (height, width) in pixels; in the file one number can stand for both.
    """

    format_version: Annotated[Version, Field(description="version of the file format")] = 1
    name: Annotated[
        Text,
        Field(
            min_length=1,
            description="name of the data set, for reports and cards; left out: the file's name without .yaml; never "
            "part of a fingerprint",
            examples=["my patches"],
            json_schema_extra=_follows,
        ),
    ] = "pipeline"
    license: Annotated[
        Text | None,
        Field(
            min_length=1,
            description="license of the composites, for data cards; never part of a fingerprint",
            examples=["CC-BY-4.0"],
        ),
    ] = None
    seed: Annotated[Whole, Field(ge=0, le=2**64 - 1, description="seed of all random numbers")] = 2024
    classes: Annotated[
        Classes,
        WithJsonSchema(
            {
                "type": "array",
                "minItems": 2,
                "maxItems": LOST - 1,
                "items": {"anyOf": [_CLASS_NAME, _CLASS]},
                "x-words": f"a list of 2 to {LOST - 1} class names, each alone or as {{name: tumour, color: [0, 64, "
                "128], aliases: [TUM]}",
            }
        ),
        Field(
            description="in index order; the index after the last is the background, ignored by losses and metrics",
            examples=[["tumour", "stroma"]],
        ),
    ]
    background_color: Annotated[Color, Field(description="RGB of the background in palettes")] = (255, 255, 255)
    patches: PatchesSection
    canvas: Annotated[
        Size, Field(description="size of a composite in pixels", examples=[224], json_schema_extra=_one)
    ] = (
        224,
        224,
    )
    glass: Annotated[
        GlassSection | None,
        Field(description="white background; {}: the defaults below; null: glass is not detected"),
    ] = None
    donors: DonorsSection = DonorsSection()
    mosaic: Annotated[
        MosaicSection | None, Field(description="composites of tiles from many patches; null: no Mosaics")
    ] = MosaicSection()
    bezier: Annotated[
        BezierSection | None,
        Field(description="composites of two patches, one of them inside a closed curve; null: no Bezier composites"),
    ] = BezierSection()
    filter: FilterSection = FilterSection()
    curation: CurationSection = CurationSection()
    store: StoreSection = StoreSection()

    @property
    def taxonomy(self) -> Taxonomy:
        classes = tuple(TissueClass(spec.name, spec.color, spec.aliases) for spec in self.classes)
        return Taxonomy(classes, self.background_color)

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """The strategies that have a section in the file, in a fixed order."""
        return tuple(strategy for strategy in STRATEGIES if getattr(self, strategy) is not None)

    @property
    def ranked(self) -> bool:
        """Whether scores rank the candidates and the highest scores are kept (rule ``top_k`` with a filter)."""
        return self.filter.enabled and self.curation.rule == "top_k"

    @property
    def virtual(self) -> bool:
        """Whether the run stores no pixels of candidates and of the curated set."""
        return self.store.pixels == "virtual"

    def with_store(self, **settings: object) -> Pipeline:
        """Return the pipeline with some settings of `store` replaced."""
        return self.model_copy(update={"store": self.store.model_copy(update=settings)})

    @cached_property
    def class_pairs(self) -> tuple[tuple[int, int], ...]:
        """The (background, foreground) pairs of class indices; each pair is equally likely in a Bezier."""
        if self.bezier is None or self.bezier.pairs is None:
            count = len(self.classes)
            return tuple((back, front) for back in range(count) for front in range(count) if back != front)
        index = self.taxonomy.index
        return tuple((index(back), index(front)) for back, front in self.bezier.pairs)

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return the JSON-ready settings that decide the bytes of `stage`, without the settings of earlier stages."""
        data = self.model_dump(mode="json")
        enabled = data["filter"].pop("enabled")
        data["filter"].pop("weights", None)  # the digest of a file decides, not its path
        data["donors"].pop("quality", None)
        training = {key: data["filter"].pop(key) for key in ("candidates", "train_share")}
        if stage == "training":  # the composites that train the filter
            return {"filter": training}
        if stage == "filter":
            return {"filter": data["filter"]}
        if stage == "curation":  # using the filter changes the kept composites, not the filter itself
            return {"curation": data["curation"], "filter": {"enabled": enabled}}
        kept = (
            "format_version",
            "seed",
            "classes",
            "background_color",
            "canvas",
            "glass",
            "donors",
            "mosaic",
            "bezier",
            "store",
        )
        return {key: data[key] for key in kept}

    def fingerprint(self) -> str:
        """Return the SHA-256 of all settings that decide composites; the catalog has its own digest for the patches."""
        stages: tuple[Stage, ...] = ("candidates", "training", "filter", "curation")
        stored = self.with_store(pixels="stored", recipes=True)  # the composites are the same either way
        return digest([stored.settings(stage) for stage in stages])


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the pipeline file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Pipeline.model_json_schema()}
