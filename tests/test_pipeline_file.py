from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from synthpipe.config import PUBLISHED_GLASS, Pipeline, differences, json_schema
from synthpipe.errors import ConfigError
from synthpipe.pipeline_file import load
from tests.conftest import DEMO, ROOT, pipeline


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_pipelines_are_valid_and_survive_json(path: Path) -> None:
    settings = load(path)
    assert Pipeline.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


def test_the_constants_of_the_method() -> None:
    for name in ("wsss4luad", "bcss", "luad-histoseg"):
        settings = load(ROOT / "pipelines" / f"{name}.yaml")
        mosaic, bezier = settings.mosaic, settings.bezier
        assert mosaic and bezier and settings.canvas == (224, 224)
        assert (mosaic.tile, mosaic.grid, mosaic.probability) == ((112, 112), (2, 2), 0.8)
        assert (mosaic.shift, mosaic.scale, mosaic.rotation, mosaic.split) == (0.0625, 0.2, 45, (0.2, 0.8))
        assert (bezier.points, bezier.min_distance, bezier.max_draws) == (12, 0.7, 200)
        assert (bezier.edgy, bezier.radius, bezier.samples) == (0.05, 0.2, 100)
        assert (settings.filter.batch, settings.filter.learning_rate, settings.curation.threshold) == (256, 1e-3, 0.5)
        wanted = 7200 if name == "bcss" else 3600
        assert settings.curation.wanted == {"mosaic": wanted, "bezier": wanted}
        assert (settings.glass is not None) == (name == "wsss4luad")
        assert settings.filter.epochs == {"mosaic": 3 if name == "bcss" else 5, "bezier": 5}


def test_every_mistake_at_once_each_with_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(
            "canvas=abc",
            "mosaic.probabilty=3",
            "mosaic.scale=1.5",
            "bezier.pairs=[[tumour, fat], [stroma, stroma]]",
            "bezier.points=2",
            "curation.wanted=9999",
            "patches.group_pattern=abc",
            "patches.layout=zip",
            "filter.epochs={mosaic: 3}",
        )
    message = str(caught.value)
    for part in (
        "11 mistakes",
        "canvas: got 'abc'; expected one whole number, or two as [height, width]",
        "mosaic.probabilty: no such key; did you mean 'probability'? allowed: tile, grid",
        "mosaic.scale: got 1.5; input should be less than or equal to 0.75",
        "bezier.pairs.0: no class 'fat'; allowed: tumour, stroma, normal",
        "bezier.pairs.1: got [stroma, stroma]; the two classes must differ",
        "bezier.points: got 2; input should be greater than or equal to 3",
        "curation.max_candidates: 4800 for mosaic is less than curation.wanted (9999); raise it",
        "patches.group_pattern: got 'abc'; put ( ) around",
        "patches.layout: got 'zip'; input should be 'wsss4luad', 'bcss-wsss'",
        "filter.epochs: no number for bezier",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mosaic.tile=20", "the largest quadrant has height 52 but a grid image only 20 x 2 = 40"),
        ("mosaic.split=[0.8, 0.2]", "the first must not be larger"),
        ("mosaic.split=[0.0, 0.5]", "no pixel is left beside the split"),
        ("classes=[{name: a, color: [0,0,0]}, {name: b, color: [0,0,0], aliases: [a]}]", "'a' names two classes"),
        ("curation.min_classes=4", "there are only 3 classes"),
        ("curation.min_classes=3", "a Bezier has 2 classes: lower it, or set bezier: null"),
        ("seed=-1", "seed: got -1"),
        ("bezier.edgy=.nan", "finite number"),
        ("filter.batch=1", "greater than or equal to 2"),
        ("filter.train_share=0.999", "of 300 filter.candidates it leaves none on one side"),
        ("bezier.pairs=[]", "got an empty list"),
        ("bezier.pairs=some", "expected all, or a list of [background, foreground]"),
        ("curation.candidates=true", "expected one whole number, or one for each"),
        ("patches.group_pattern='('", "no regular expression"),
        ("classes.name=3", "holds no keys in this file; set it as a whole"),
        ("nonsense", "expected key=value"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_one_mistake(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(override)
    assert message in str(caught.value)


def test_no_strategy_at_all_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="a build needs at least one strategy"):
        pipeline("mosaic=null", "bezier=null")
    assert pipeline("mosaic=null").strategies == ("bezier",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "'seed' occurs twice"),
        ("seed: [1\n", "not valid YAML"),
        ("- a\n", "got list, expected a mapping"),
        ("", "got NoneType, expected a mapping"),
        ("[a, b]: 1\n", "not valid YAML"),
        ("1: 2\n", "key 1 is no text"),
        ("a: 2024-99-99\n", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_glass_is_that_of_the_published_data_set() -> None:
    assert load(ROOT / "pipelines" / "wsss4luad.yaml").glass == PUBLISHED_GLASS


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load(tmp_path / "none.yaml")


def test_exponents_are_numbers_as_in_yaml_1_2() -> None:
    assert pipeline("filter.learning_rate=1e-4").filter.learning_rate == 1e-4


def test_the_fingerprint_counts_what_decides_bytes_and_nothing_else() -> None:
    plain = pipeline().fingerprint()
    assert pipeline("patches.root=/elsewhere", "name=other", "patches.on_error=skip").fingerprint() == plain
    for change in ("seed=1", "mosaic.scale=0.1", "filter.epochs=1", "filter.enabled=false", "curation.threshold=0.1"):
        assert pipeline(change).fingerprint() != plain


def test_differences_name_each_key_with_both_values() -> None:
    old, new = pipeline(), pipeline("seed=5", "mosaic.scale=0.1")
    found = list(differences(old.settings("candidates"), new.settings("candidates")))
    assert found == ["mosaic.scale: 0.2 -> 0.1", "seed: 2024 -> 5"]


def test_the_schema_knows_every_key_of_the_demo() -> None:
    def keys(schema: dict[str, object], data: dict[str, object]) -> None:
        for key, value in data.items():
            assert key in schema["properties"], key  # type: ignore[operator]
            reference = json.dumps(schema["properties"][key])  # type: ignore[index]
            name = next((name for name in definitions if f'"#/$defs/{name}"' in reference), None)
            if name and isinstance(value, dict):
                keys(definitions[name], value)

    schema = json_schema()
    definitions = schema["$defs"]
    keys(schema, yaml.safe_load(DEMO.read_text()))
    assert set(schema["required"]) >= {"seed", "classes", "patches", "canvas", "mosaic", "filter", "curation"}
