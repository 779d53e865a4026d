"""The pipeline file: one validated, frozen model of everything that decides which bytes a build makes.

A pipeline file holds every constant of the method. What depends on the machine (workers, addresses, paths of runs)
belongs to the command line and is not in it, except `patches.root`, which no fingerprint counts; neither does it count
`name` and `license`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from synthpipe.display import without_secrets
from synthpipe.records import STRATEGIES, Strategy
from synthpipe.taxonomy import LOST, Taxonomy, TissueClass

Layout = Literal["wsss4luad", "bcss-wsss", "luad-histoseg", "folders", "csv"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Codec = Literal["none", "zstd", "blosc-lz4"]
CODECS: tuple[Codec, ...] = get_args(Codec)
Stage = Literal["candidates", "training", "filter", "curation"]

Positive = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]


def _both(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise PydanticCustomError("size", "Expected one whole number, or two as [height, width]")
    return value


def _for_each(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return dict.fromkeys(STRATEGIES, value)
    if not isinstance(value, dict):
        raise PydanticCustomError(
            "per_strategy", "Expected one whole number, or one for each as {mosaic: 1, bezier: 2}"
        )
    return value


def _all_or_pairs(value: Any) -> Any:
    if value != "all" and not (
        isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) for pair in value)
    ):
        raise PydanticCustomError("pairs", "Expected all, or a list of [background, foreground] class names")
    return None if value == "all" else value


_COUNT = {"type": "integer", "minimum": 1}
_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
Size = Annotated[
    tuple[Positive, Positive],
    BeforeValidator(_both),
    WithJsonSchema({"anyOf": [_COUNT, {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}]}),
]
PerStrategy = Annotated[
    dict[Strategy, Positive],
    BeforeValidator(_for_each),
    WithJsonSchema({"anyOf": [_COUNT, {"type": "object", "additionalProperties": _COUNT}]}),
]
Pairs = Annotated[
    tuple[tuple[str, str], ...] | None,
    BeforeValidator(_all_or_pairs),
    PlainSerializer(lambda pairs: "all" if pairs is None else pairs),
    WithJsonSchema({"anyOf": [{"const": "all"}, {"type": "array", "items": _NAMES}]}),
]


class Section(BaseModel):
    """A part of the pipeline file: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClassSection(Section):
    """One tissue class, at its index's place in the list."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_ .-]*$")]
    color: Annotated[Color, Field(description="RGB of palettes and overlays")]
    aliases: Annotated[tuple[str, ...], Field(description="other names of the class in folders and tables")] = ()


class PatchesSection(Section):
    """Where the weakly-labelled patches lie and how they are read."""

    root: Annotated[
        str,
        Field(description="the data set's folder, or the CSV file; never part of a fingerprint"),
        PlainSerializer(without_secrets),  # credentials are for who reads the patches, and stored nowhere
    ]
    layout: Layout
    group_pattern: Annotated[
        str | None, Field(description="regular expression on the stem; its first group is the slide or patient")
    ] = None
    exclude: Annotated[tuple[str, ...], Field(description="shell patterns of patch ids to leave out")] = ()
    on_error: Annotated[
        Literal["stop", "skip"], Field(description="what unreadable, mislabelled or duplicate patches do")
    ] = "stop"


class GlassSection(Section):
    """White background (method section 2): bright connected areas, which get the background index."""

    threshold: Annotated[Byte, Field(description="grey above this is bright")]
    min_area: Annotated[int, Field(ge=0, description="smaller 4-connected areas are no glass, in pixels")]
    max_share: Annotated[Fraction, Field(description="a tile with a larger share of glass is drawn again")]
    max_draws: Annotated[Positive, Field(description="at most this often; the last draw stands")]


PUBLISHED_GLASS = GlassSection(threshold=220, min_area=250, max_share=0.8, max_draws=20)
"""Of WSSS4LUAD (method section 2): what a network's second stage ignores where the build looked for no glass."""


class DonorsSection(Section):
    """How single-class patches are drawn."""

    balance_classes: Annotated[bool, Field(description="draw the class first, evenly, and then a patch of it")] = False


class MosaicSection(Section):
    """The Mosaic transformation (method section 2)."""

    tile: Annotated[Size, Field(description="pixels of a tile")]
    grid: Annotated[Size, Field(description="rows and columns of tiles in a grid image")]
    probability: Annotated[Fraction, Field(description="of the flip, and again of shift-scale-rotate")]
    shift: Annotated[Fraction, Field(description="largest shift, of height and of width")]
    scale: Annotated[float, Field(ge=0, le=0.75, description="largest change of size, as a share of it")]
    rotation: Annotated[float, Field(ge=0, le=180, description="largest rotation, in degrees")]
    split: Annotated[tuple[Fraction, Fraction], Field(description="range of the split point, of height and of width")]


class BezierSection(Section):
    """Bezier masks (method section 2)."""

    points: Annotated[int, Field(ge=3, description="corners of the curve")]
    min_distance: Annotated[float, Field(ge=0, description="between neighbours, divided by the number of points")]
    max_draws: Annotated[Positive, Field(description="of points that lie far enough apart; the last draw stands")]
    edgy: Annotated[float, Field(description="0 is smooth; larger values turn the tangents to the next corner")]
    radius: Annotated[float, Field(gt=0, le=1, description="distance of control points, of the chord's length")]
    samples: Annotated[int, Field(ge=2, description="points a segment is drawn with")]
    pairs: Annotated[Pairs, Field(description="[background, foreground] classes drawn evenly, or all ordered pairs")]


class FilterSection(Section):
    """The filter model (method section 3), one a strategy."""

    enabled: bool
    network: Annotated[str, Field(description="a timm model name")]
    candidates: Annotated[int, Field(ge=10, description="composites a strategy that train it and are never curated")]
    train_share: Annotated[
        float, Field(gt=0, lt=1, description="of patches, slide by slide, and of composites; the rest validates")
    ]
    epochs: PerStrategy
    batch: Annotated[int, Field(ge=2, description="images a step; one alone cannot be normalised")]
    learning_rate: Annotated[float, Field(gt=0)]
    mean: Annotated[tuple[float, float, float], Field(description="of RGB in 0-1, subtracted")]
    std: Annotated[tuple[Above0, Above0, Above0], Field(description="of RGB in 0-1, divided by")]
    threads: Annotated[Positive, Field(description="CPU threads of training and scoring; fixed, so bytes are too")] = 1


class CurationSection(Section):
    """Which candidates are kept."""

    rule: Annotated[
        Literal["threshold", "top_k"],
        Field(description="threshold: the first that score above it; top_k: the best of the candidates"),
    ]
    threshold: Annotated[Fraction, Field(description="p(real) must lie above")]
    wanted: PerStrategy
    candidates: Annotated[PerStrategy, Field(description="first plan")]
    max_candidates: Annotated[PerStrategy, Field(description="bound of the plan when acceptance is low")]
    min_acceptance: Annotated[Fraction, Field(description="a lower share above the threshold stops the build")]
    min_classes: Annotated[Positive, Field(description="a composite with fewer tissue classes is left out")]
    min_class_share: Annotated[Fraction, Field(description="of the pixels, for a class to count")]
    max_donor_uses: Annotated[Positive | None, Field(description="of one patch, in what a strategy keeps")] = None


class StoreSection(Section):
    """How composites lie in Zarr."""

    shard: Annotated[Positive, Field(description="composites a shard: the unit of work and of resuming")] = 512
    image_codec: Annotated[Codec, Field(description="of images; blosc-lz4 shuffles bits")] = "none"
    mask_codec: Annotated[Codec, Field(description="of masks; blosc-lz4 does not shuffle")] = "blosc-lz4"
    zstd_level: Annotated[int, Field(ge=0, le=22, description="wherever zstd is used, as in all small arrays")] = 1


class Pipeline(Section):
    """A whole pipeline file.

    Sizes are (height, width) in pixels; in the file one number stands for both.
    """

    format_version: Literal[1]
    name: Annotated[str, Field(min_length=1)]
    license: Annotated[
        str | None, Field(min_length=1, description="of the composites, for data cards; never part of a fingerprint")
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    classes: Annotated[tuple[ClassSection, ...], Field(min_length=2, max_length=LOST - 1)]
    background_color: Color = (255, 255, 255)
    patches: PatchesSection
    canvas: Annotated[Size, Field(description="pixels of a composite")]
    glass: GlassSection | None
    donors: DonorsSection = DonorsSection()
    mosaic: MosaicSection | None
    bezier: BezierSection | None
    filter: FilterSection
    curation: CurationSection
    store: StoreSection = StoreSection()

    @property
    def taxonomy(self) -> Taxonomy:
        classes = tuple(TissueClass(spec.name, spec.color, spec.aliases) for spec in self.classes)
        return Taxonomy(classes, self.background_color)

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """The strategies that the file has a section for, in their fixed order."""
        return tuple(strategy for strategy in STRATEGIES if getattr(self, strategy) is not None)

    @cached_property
    def class_pairs(self) -> tuple[tuple[int, int], ...]:
        """The (background, foreground) class indices that Bezier draws from, evenly."""
        if self.bezier is None or self.bezier.pairs is None:
            count = len(self.classes)
            return tuple((back, front) for back in range(count) for front in range(count) if back != front)
        index = self.taxonomy.index
        return tuple((index(back), index(front)) for back, front in self.bezier.pairs)

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return the settings that decide the bytes of `stage`, those of earlier stages aside, JSON-ready."""
        data = self.model_dump(mode="json")
        enabled = data["filter"].pop("enabled")
        training = {key: data["filter"].pop(key) for key in ("candidates", "train_share")}
        if stage == "training":  # the composites that train the filter
            return {"filter": training}
        if stage == "filter":
            return {"filter": data["filter"]}
        if stage == "curation":  # whether the filter is asked changes what is kept, not the filter itself
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
        """Return the SHA-256 of all that decides bytes, patches aside: their own digest counts, not where they lie."""
        stages: tuple[Stage, ...] = ("candidates", "training", "filter", "curation")
        return digest([self.settings(stage) for stage in stages])


def digest(data: object) -> str:
    """Return the SHA-256 of JSON-ready `data`, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield ``key: old -> new`` for each leaf in which two JSON-ready mappings differ."""
    for key in sorted(old.keys() | new.keys()):
        left, right = old.get(key), new.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            yield from differences(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}: {json.dumps(left)} -> {json.dumps(right)}"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the pipeline file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Pipeline.model_json_schema()}


def even_ceil(value: float) -> int:
    """Round up to an even integer, as the Mosaic's split point is (method section 2)."""
    return 2 * math.ceil(value / 2)
