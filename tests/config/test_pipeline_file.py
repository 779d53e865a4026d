from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from synthpipe.cli.main import main
from synthpipe.config.fields import differences
from synthpipe.config.pipeline import PUBLISHED_GLASS, Pipeline, json_schema
from synthpipe.config.pipeline_file import load
from synthpipe.config.settings_file import choices, load_settings
from synthpipe.core.errors import ConfigError
from synthpipe.core.taxonomy import distinct_colors
from synthpipe.runtime import JobSettings
from synthpipe.segment.settings import TrainSettings, WindowSection
from tests.conftest import DEMO, ROOT, pipeline
from tests.fuzz.pipelines import damaged_override, damaged_pipeline

FINGERPRINTS = {
    "bcss": "75622ade9934f575f4342be561338b18547229f00165c39335b31bfa7942aa4d",
    "demo": "647b9392e45d0bf6e0efa356d886ead862bf99c59499d87d95794526c63037d3",
    "glas": "2b3de51efa449e38cabcdbb10956db895c702ca2e3a0619657a8a6a87c58bb14",
    "luad-histoseg": "dbd6237fa372476bc534f495cce62f0ff2f7cf83802d0d9cf429223e5f9bed73",
    "wsss4luad": "219b6eddc911aa5243d7c320f1e614005db0c72ec8a13c5d53a92ac39a7fb772",
}


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_pipelines_are_valid_and_survive_json(path: Path) -> None:
    found = load(path)
    assert Pipeline.model_validate(json.loads(json.dumps(found.model_dump(mode="json")))) == found
    assert found.filter.enabled == (path.stem == "demo")
    assert load(path, ("filter.enabled=true",)).fingerprint() == FINGERPRINTS[path.stem]


def test_the_constants_of_the_method() -> None:
    for name in ("wsss4luad", "bcss", "luad-histoseg"):
        found = load(ROOT / "pipelines" / f"{name}.yaml")
        mosaic, bezier = found.mosaic, found.bezier
        assert mosaic and bezier and found.canvas == (224, 224)
        assert (mosaic.tile, mosaic.grid, mosaic.probability) == ((112, 112), (2, 2), 0.8)
        assert (mosaic.shift, mosaic.scale, mosaic.rotation, mosaic.split) == (0.0625, 0.2, 45, (0.2, 0.8))
        assert (bezier.points, bezier.min_distance, bezier.max_draws) == (12, 0.7, 200)
        assert (bezier.edgy, bezier.radius, bezier.samples) == (0.05, 0.2, 100)
        assert (found.filter.batch, found.filter.learning_rate, found.curation.threshold) == (256, 1e-3, 0.5)
        wanted = 7200 if name == "bcss" else 3600
        assert found.curation.wanted == {"mosaic": wanted, "bezier": wanted}
        assert (found.glass is not None) == (name == "wsss4luad")
        assert found.filter.epochs == {"mosaic": 3 if name == "bcss" else 5, "bezier": 5}


SHORT = "classes: [tumour, stroma, normal]\npatches:\n  root: /data\n  layout: folders\n"
FILTER = "filter: {enabled: true}\n"


def short(tmp_path: Path, more: str = "", *overrides: str) -> Pipeline:
    path = tmp_path / "mine.yaml"
    path.write_text(SHORT + more, encoding="utf-8")
    return load(path, overrides)


def test_a_file_of_five_lines_is_a_pipeline_with_the_published_constants(tmp_path: Path) -> None:
    published = load(ROOT / "pipelines" / "luad-histoseg.yaml", ("filter.enabled=true",))
    found = short(tmp_path, FILTER)
    assert (found.name, found.seed, found.format_version) == ("mine", 2024, 1)
    for key in ("canvas", "glass", "donors", "mosaic", "bezier", "filter", "curation", "store", "background_color"):
        assert getattr(found, key) == getattr(published, key), key
    assert len({spec.color for spec in found.classes}) == 3
    long = yaml.safe_dump(found.model_dump(mode="json"))
    (tmp_path / "long.yaml").write_text(long, encoding="utf-8")
    assert load(tmp_path / "long.yaml").fingerprint() == found.fingerprint()
    assert load(tmp_path / "long.yaml") == found
    classes = json.dumps([spec.model_dump(mode="json") for spec in published.classes])
    assert short(tmp_path, FILTER, f"classes={classes}").fingerprint() == FINGERPRINTS["luad-histoseg"]
    assert short(tmp_path, "glass: {}\n").glass == PUBLISHED_GLASS
    assert not short(tmp_path).filter.enabled


def test_what_follows_from_other_keys(tmp_path: Path) -> None:
    found = short(tmp_path, f"canvas: [65, 96]\ncuration: {{wanted: {{mosaic: 10, bezier: 7200}}}}\n{FILTER}")
    assert found.mosaic and found.mosaic.tile == (33, 48)
    assert found.curation.candidates == {"mosaic": 23, "bezier": 16000}
    assert found.curation.max_candidates == {"mosaic": 200, "bezier": 144_000}
    unfiltered = short(tmp_path).curation
    assert unfiltered.candidates == unfiltered.wanted == {"mosaic": 3600, "bezier": 3600}
    given = short(tmp_path, "canvas: 64\n", "mosaic.tile=40", "curation.wanted=5", "curation.candidates=9", "name=x")
    assert given.mosaic and given.mosaic.tile == (40, 40) and given.name == "x"
    assert given.curation.candidates["mosaic"] == 9 and given.curation.max_candidates["mosaic"] == 100


def test_what_is_wrong_between_a_key_and_defaults_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mosaic\.split: got \[0\.2, 0\.8\]; no pixel is left"):
        short(tmp_path, "canvas: 1\n")
    with pytest.raises(ConfigError, match=r"1 mistake\n  curation\.wanted: no number for bezier"):
        short(tmp_path, "curation: {wanted: {mosaic: 3}}\n")
    with pytest.raises(
        ConfigError, match=r"1 mistake\n  curation\.wanted\.bezzier: no such key; did you mean 'bezier'"
    ):
        short(tmp_path, "curation: {wanted: {mosaic: 3, bezzier: 3}}\n")


def test_classes_without_a_colour_get_one_that_no_other_has(tmp_path: Path) -> None:
    first = next(distinct_colors())
    classes = [{"name": "a", "color": list(first), "aliases": ["A1"]}, "b", {"name": "c", "aliases": ["C1"]}, "d"]
    found = short(tmp_path, "", f"classes={json.dumps(classes)}").classes
    assert found[0].color == first and found[2].aliases == ("C1",)
    assert len({spec.color for spec in found} | {(255, 255, 255)}) == 5
    names = [f"c{number}" for number in range(254)]
    assert len({spec.color for spec in short(tmp_path, "", f"classes={json.dumps(names)}").classes}) == 254
    with pytest.raises(ConfigError, match=r"classes: got .*expected a list of 2 to 254 class names"):
        short(tmp_path, "", f"classes={json.dumps([*names, 'more'])}")


def test_pairs_may_name_classes_in_any_case(tmp_path: Path) -> None:
    assert short(tmp_path, "bezier: {pairs: [[Tumour, STROMA]]}\n").class_pairs == ((0, 1),)
    with pytest.raises(ConfigError, match=r"bezier\.pairs\.0: got \[Tumour, tumour\]; the two classes must differ"):
        short(tmp_path, "bezier: {pairs: [[Tumour, tumour]]}\n")


def test_label_patterns_are_checked(tmp_path: Path) -> None:
    for layout, pattern, message in (
        ("pattern", "null", "missing; layout pattern needs it, such as"),
        ("pattern", "^([A-Z]+)", r"put \(\?P<label> \) around the part that names the classes"),
        ("folders", "^(?P<label>[A-Z]+)", "layout folders has none: set patches.layout: pattern"),
    ):
        with pytest.raises(ConfigError, match=rf"patches\.label_pattern: .*{message}"):
            short(tmp_path, "", f"patches.layout={layout}", f"patches.label_pattern={pattern}")
    found = short(tmp_path, "", "patches.layout=pattern", "patches.label_pattern=^(?P<label>[A-Z]+)")
    assert found.patches.label_pattern and "label_pattern" in found.model_dump()["patches"]
    assert "label_pattern" not in short(tmp_path).model_dump()["patches"], "runs keep their form"


def test_every_mistake_at_once_each_with_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(
            "canvas=abc",
            "mosaic.probabilty=3",
            "mosaic.scale=1.5",
            "bezier.pairs=[[tumour, fat], [stroma, stroma]]",
            "bezier.points=2",
            "curation.wanted=99999",
            "patches.group_pattern=abc",
            "patches.layout=zip",
            "filter.epochs={mosaic: 3}",
        )
    message = str(caught.value)
    for part in (
        "11 mistakes",
        "canvas: got 'abc'; expected one whole number of pixels such as 224, or two as [height, width]",
        "mosaic.probabilty: no such key; did you mean 'probability'? allowed: tile, grid",
        "mosaic.scale: got 1.5; expected a number from 0 to 0.75, such as 0.2",
        "bezier.pairs.0: no class 'fat'; allowed: tumour, stroma, normal",
        "bezier.pairs.1: got [stroma, stroma]; the two classes must differ",
        "bezier.points: got 2; expected a whole number from 3 to 1000, such as 12",
        "curation.max_candidates: 4800 for mosaic is less than curation.wanted (99999); raise it",
        "patches.group_pattern: got 'abc'; put ( ) around",
        "patches.layout: got 'zip'; expected wsss4luad, bcss-wsss, luad-histoseg, folders, pattern or csv",
        "filter.epochs: no number for bezier",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mosaic.tile=20", "the largest quadrant has height 52 but a grid image only 20 x 2 = 40"),
        ("mosaic.split=[0.8, 0.2]", "the first must not be larger"),
        ("mosaic.split=[0.0, 0.5]", "no pixel is left beside the split"),
        ("curation.min_classes=4", "there are only 3 classes"),
        ("curation.min_classes=3", "a Bezier has 2 classes: lower it, or set bezier: null"),
        ("seed=-1", "seed: got -1"),
        ("bezier.edgy=.nan", "got nan; expected a number from -1000000 to 1000000, such as 0.05"),
        ("filter.batch=1", "expected a whole number from 2 to 65536, such as 256"),
        ("filter.train_share=0.999", "of 500 filter.candidates it leaves none on one side"),
        ("bezier.pairs=[]", "got an empty list"),
        ("bezier.pairs=some", "expected all, or a list of [background, foreground]"),
        ("curation.candidates=true", "expected one whole number such as 12, or one for each"),
        ("patches.group_pattern='('", "is not a regular expression"),
        ("classes.name=3", "is not a section in this file; set it as a whole"),
        ("filter.weights_sha256=" + "a" * 64, "filter.weights_sha256: got a digest, but filter.weights is null"),
        ("filter.precision=16", "filter.precision: got '16'; expected mixed or 32"),
        ("nonsense", "expected key=value"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_one_mistake(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(override)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "seed=010",
            "seed: got '010'; expected a whole number from 0 to 18446744073709551615, such as 2024; write numbers",
        ),
        ("background_color=[0, 064, 128]", "background_color.1: got '064'; expected a whole number"),
        ("canvas=1:30", "canvas: got '1:30'; expected one whole number"),
        ("seed='5'", "seed: got '5'; expected a whole number"),
        ("seed=1.0", "seed: got 1.0; expected a whole number"),
        ("seed=true", "seed: got true; expected a whole number"),
        ("format_version=true", "format_version: got true; expected a whole number"),
        ("curation.threshold=no", "curation.threshold: got 'no'; expected a number from 0 to 1, such as 0.5"),
        ("curation.threshold=true", "curation.threshold: got true; expected a number from 0 to 1, such as 0.5"),
        ("donors.balance_classes=off", "donors.balance_classes: got 'off'; expected true or false"),
        ("donors.balance_classes=1", "donors.balance_classes: got 1; expected true or false"),
        ("patches.exclude=[5]", "patches.exclude.0: got 5; expected text; put it in quotes"),
        ("name=null", "name: got null; expected text that is not empty, such as my patches"),
        (f"seed=0x{'f' * 200_000}", "ffff... (200004 characters); expected a whole number"),
        (f"seed={'9' * 10_000}", "999... (10002 characters); expected a whole number"),
        (
            f"canvas={10**39}",
            "canvas: got 1000000000000000000000000000000000000000; expected a whole number from 1 to 8192",
        ),
        (f"{'x' * 10_000}=1", "xxx... (10000 characters): no such key; allowed: format_version"),
        ("\x1b[31m=1", "\\x1b[31m: no such key"),
        ("a..b=1", "expected key=value, with dots"),
        (".=1", "expected key=value, with dots"),
        ("=1", "expected key=value, with dots"),
        ("mosaic.=1", "expected key=value, with dots"),
        ("background_color" + ".a" * 5000 + "=1", "expected key=value, with dots"),
        ("classes.0.name=a", "is not a section in this file; set it as a whole"),
        ("patches.root=a\x00b", "line 1: holds the character U+0000; remove it"),
        (
            "patches.group_pattern=(a{99999999999999})",
            "is not a regular expression: the repetition number is too large",
        ),
        (f"patches.group_pattern={'(' * 3000}", "has 3000 characters, expected at most 200"),
    ],
)
def test_what_may_be_meant_otherwise_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(override)
    assert message in str(caught.value) and len(str(caught.value)) < 2000 and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        (["tumour "], "classes.1.aliases.0: got 'tumour '; expected a name without blanks at its ends"),
        (["Tumour"], "classes.1.aliases.0: got 'Tumour'; class 0 has 'tumour': each name must occur once"),
        (["é", "b", "e\u0301", "b"], "classes.1.aliases.3: got 'b'; class 1 has 'b': each name must occur once"),
        ([""], "classes.1.aliases.0: got ''; expected a name"),
        (["a\u200bb"], "classes.1.aliases.0: got 'a\\u200bb'; expected a name"),
        (["a+b"], "classes.1.aliases.0: got 'a+b'; expected a name without + ; |"),
        (["[1 0]"], "classes.1.aliases.0: got '[1 0]'; expected a name"),
    ],
)
def test_class_names_that_are_taken_for_others_are_refused(aliases: Sequence[str], message: str) -> None:
    classes = [{"name": "tumour", "color": [0, 0, 0]}, {"name": "stroma", "color": [1, 1, 1], "aliases": aliases}]
    with pytest.raises(ConfigError, match="1 mistake") as caught:
        pipeline("bezier=null", f"classes={json.dumps(classes)}")
    assert message in str(caught.value)
    classes[0]["name"], classes[1]["aliases"] = "tumour ", ["Stroma", "STROMA"]
    with pytest.raises(ConfigError, match=r"1 mistake\n  classes\.0\.name: got 'tumour '"):
        pipeline("bezier=null", f"classes={json.dumps(classes)}")


def test_text_is_taken_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    text = DEMO.read_text(encoding="utf-8").replace("root: data/phantom", "root: 2020-01-01").replace("demo\n", "010\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert (load(path).name, load(path).patches.root) == ("010", "2020-01-01")
    for root in ("/d/Lab #3", "/d/a: b", "010", "*x", "no", "[a]", "1e3"):
        assert pipeline(f"patches.root={root}").patches.root == root
        assert pipeline(f"license={root}").license == root
        assert load_settings(JobSettings, None, [f"local_directory={root}"]).local_directory == root
        assert load_settings(TrainSettings, None, [f"network.weights={root}"]).network.weights == root
    assert pipeline("patches.root=' a '").patches.root == " a "
    assert pipeline("patches.group_pattern=(a)", "patches.group_pattern=null").patches.group_pattern is None


def test_an_override_changes_one_key_though_an_alias_shares_it(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    text = DEMO.read_text(encoding="utf-8").replace(
        "wanted: {mosaic: 200, bezier: 200}", "wanted: &n {mosaic: 5, bezier: 5}"
    )
    path.write_text(text.replace("candidates: {mosaic: 2400, bezier: 4800}", "candidates: *n"), encoding="utf-8")
    curation = load(path, ["curation.wanted.mosaic=7"]).curation
    assert (curation.wanted["mosaic"], curation.candidates["mosaic"]) == (7, 5)


def test_settings_are_read_from_files_only(tmp_path: Path) -> None:
    pipe, latin = tmp_path / "pipe.yaml", tmp_path / "latin.yaml"
    os.mkfifo(pipe)
    latin.write_bytes("name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read: is a named pipe, expected a file"):
        load(pipe)
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 6"):
        load(latin)


def test_the_list_of_mistakes_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text("".join(f"key{number}: 1\n" for number in range(100)))
    with pytest.raises(ConfigError, match=r"more than 60 mistakes") as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 61


def _leaves(model: type[BaseModel], kinds: set[type], above: str = "") -> Iterator[str]:
    """Yield the dotted keys of a model whose values are, or hold, one of some types."""
    for name, field in model.model_fields.items():
        allowed = choices(field.annotation)
        for each in allowed:
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield from _leaves(each, kinds, f"{above}{name}.")
        if kinds & set(_types(allowed)):
            yield f"{above}{name}"


def _types(allowed: Sequence[Any]) -> Iterator[Any]:
    for each in allowed:
        yield each
        yield from _types([inner for part in get_args(each) for inner in choices(part)])


MODELS: dict[type[BaseModel], tuple[str | Path | None, tuple[str, ...]]] = {
    Pipeline: (DEMO, ()),
    TrainSettings: (None, ()),
    WindowSection: (None, ("size=8", "stride=8")),
    JobSettings: (None, ()),
}


QUANTITIES = {"memory", "walltime", "lifetime", "lifetime_stagger"}  # text says some, as 96GB and 90m


@pytest.mark.parametrize("value", [f"{10**30}", f"-{10**30}", "1e308", "-1e308", ".inf", ".nan", "true", "'5'"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_number_has_bounds_and_nothing_else_is_one(model: type[BaseModel], value: str) -> None:
    path, given = MODELS[model]
    keys = set(_leaves(model, {int, float})) - (QUANTITIES if value == "'5'" else set())
    assert keys
    for text in (value, f"[{value}, {value}]", f"[{value}, {value}, {value}]"):
        with pytest.raises(ConfigError) as caught:
            load_settings(model, path, (*given, *(f"{key}={text}" for key in keys)))
        told = str(caught.value)
        assert not [key for key in keys if not re.search(rf"^  {key}[.:]", told, re.MULTILINE)]


@pytest.mark.parametrize("model", [Pipeline, WindowSection], ids=lambda model: model.__name__)
def test_nothing_else_is_a_boolean(model: type[BaseModel]) -> None:
    path, given = MODELS[model]
    for key in _leaves(model, {bool}):
        for text in ("1", "0", "yes", "'true'", "1.0"):
            with pytest.raises(ConfigError, match=f"{key}: got .*; expected true or false"):
                load_settings(model, path, (*given, f"{key}={text}"))


@settings(max_examples=30, deadline=None)
@given(rng=st.randoms(use_true_random=True))
def test_a_damaged_file_is_read_or_refused(rng: Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("damaged") / "pipeline.yaml"
    path.write_bytes(damaged_pipeline(rng).encode("utf-8", "surrogatepass"))
    for arguments in ((path, ()), (DEMO, (damaged_override(rng),))):
        try:
            load(*arguments)
        except ConfigError as error:
            assert all(each.isprintable() or each == "\n" for each in str(error))


def test_no_mistake_in_a_file_is_called_a_fault_of_synthpipe(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(DEMO.read_text(encoding="utf-8").replace("canvas: 64", f"canvas: {10**59}"), encoding="utf-8")
    result = CliRunner().invoke(main, ["validate", str(path), "--set", "patches.group_pattern=(a{99999999999999})"])
    assert result.exit_code == 1 and "2 mistakes" in result.output and "fault of synthpipe" not in result.output


def test_no_strategy_at_all_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="a build needs at least one strategy"):
        pipeline("mosaic=null", "bezier=null")
    assert pipeline("mosaic=null").strategies == ("bezier",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "'seed' occurs twice"),
        ("seed: [1\n", "not valid YAML"),
        ("- a\n", "got .*; expected lines with a key and a value, such as seed: 1"),
        ("", "got nothing; expected lines with a key"),
        ("---\n", "got nothing; expected lines with a key"),
        ("[a, b]: 1\n", "not valid YAML"),
        ("1: 2\n", "key 1 is not text"),
        ("[" * 3000, "not valid YAML: line 1, column 17: is nested too deeply"),
        ("a" * 300_000, "cannot be read: has 300000 bytes, expected at most 262144"),
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
    assert (
        pipeline("patches.root=/elsewhere", "name=other", "patches.on_error=skip", "patches.max_pixels=9").fingerprint()
        == plain
    )
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
    assert schema["required"] == ["classes", "patches"]


def test_weights_count_by_their_digest_and_new_keys_at_their_defaults_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("a #1.pth", b"one"), ("b.pth", b"one"), ("c.pth", b"two")):
        (tmp_path / name).write_bytes(content)
    first, moved, other = (pipeline(f"filter.weights={name}") for name in ("a #1.pth", "b.pth", "c.pth"))
    assert first.filter.weights == str(tmp_path / "a #1.pth")
    assert first.filter.weights_sha256 == hashlib.sha256(b"one").hexdigest()
    assert first.fingerprint() == moved.fingerprint() != other.fingerprint()
    assert other.fingerprint() != pipeline().fingerprint() == pipeline("filter.precision=32").fingerprint()
    assert [line.split(":")[0] for line in differences(first.settings("filter"), other.settings("filter"))] == [
        "filter.weights_sha256"
    ]
    changed = {pipeline(f"filter.{key}").fingerprint() for key in ("pretrained=true", "precision=mixed", "batch=31")}
    assert len(changed) == 3 and pipeline().fingerprint() not in changed
    assert not {"weights", "weights_sha256", "pretrained", "precision"} & pipeline().model_dump()["filter"].keys()
    assert Pipeline.model_validate(first.model_dump(mode="json")) == first


def test_weights_that_cannot_be_read_or_are_named_beside_those_of_a_hub_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"filter\.weights: .*gone\.pth: cannot be read: No such file"):
        pipeline(f"filter.weights={tmp_path / 'gone.pth'}")
    with pytest.raises(ConfigError, match=r"filter\.weights: ~nobody-here/w\.pth: cannot be read: Could not determine"):
        pipeline("filter.weights=~nobody-here/w.pth")
    with pytest.raises(ConfigError, match=r"filter\.pretrained: got true beside filter\.weights; choose one of them"):
        pipeline("filter.weights=x.pth", "filter.pretrained=true")
    known = pipeline(
        "filter.weights=x.pth", f"filter.weights_sha256={'a' * 64}"
    )  # for a filter that is trained already
    assert known.filter.weights_sha256 == "a" * 64
