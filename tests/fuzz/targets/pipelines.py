"""Pipeline files, training, window and cluster settings: what loads means what it says, and survives being used."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from synthpipe.config.pipeline import Pipeline, Stage, json_schema
from synthpipe.config.pipeline_file import load
from synthpipe.config.settings_file import load_settings
from synthpipe.runtime import JobSettings
from synthpipe.segment.settings import TrainSettings, WindowSection
from tests.conftest import ROOT
from tests.fuzz.pipelines import damaged_pipeline
from tests.fuzz.target import Place, Step, WrongError, damaged_bytes, damaged_value, pick

STAGES: tuple[Stage, ...] = ("candidates", "training", "filter", "curation")
MODELS: dict[str, type[BaseModel]] = {
    "training": TrainSettings,
    "window": WindowSection,
    "cluster": JobSettings,
}
_SHIPPED = {
    "pipeline": sorted((ROOT / "pipelines").glob("*.yaml")),
    "training": sorted((ROOT / "pipelines" / "training").glob("*.yaml")),
    "cluster": sorted((ROOT / "pipelines" / "clusters").glob("*.yaml")),
}
TEXTS = {kind: [path.read_text(encoding="utf-8") for path in paths] for kind, paths in _SHIPPED.items()}
TEXTS["window"] = ["size: 64\nstride: [32, 32]\nscales: [1, 1.5]\nflips: true\nblend: uniform\nbatch: 4\n"]
VALUES = {kind: [yaml.safe_load(text) for text in texts] for kind, texts in TEXTS.items()}
SCALARS = (
    *(
        "0",
        "1",
        "-1",
        "010",
        "007",
        "0o17",
        "0x1F",
        "0b101",
        "1_000",
        "1:30",
        "12:30:45",
        "+5",
        "5.",
        ".5",
        "1e3",
        "1e400",
    ),
    *(
        ".inf",
        "-.inf",
        ".nan",
        "true",
        "True",
        "yes",
        "no",
        "on",
        "Off",
        "null",
        "~",
        "",
        "=",
        "<<",
        "2001-01-01",
        "'5'",
    ),
    *(
        '"0"',
        "!!int 5",
        "!!bool 1",
        "!!str 5",
        "!!timestamp 2020",
        "!!python/object:os.system x",
        "!!binary aGk=",
        "!x y",
    ),
    *(
        "[1, 2]",
        "{a: 1}",
        "[]",
        "{}",
        "&a [*a]",
        "*b",
        "9" * 30,
        "9" * 5000,
        "0x" + "f" * 200_000,
        "[" * 3000,
        "a: b: c",
    ),
    *(
        "@x",
        "`",
        "%",
        "# comment",
        "x # y",
        "a\tb",
        "\0",
        "\x1b[2J",
        "\ufeff",
        "é",
        "\u2028",
        "|\n  text",
        ">-",
        "a" * 100_000,
    ),
)
PATTERNS = (
    *("(a+)+$", "(a|a)*b", "(" * 3000 + ")" * 3000, "(a{99999999999999})", "(?P<x>a)(?P=x)", "[", "(?i)(x)", "(x*)*y"),
    *("((a{1,99}){1,99}){1,99}", "(?=x)*", "\\", "(?:x)", "^([^-]+)-", "(.)" * 120, "(?<=a+)(b)"),
)
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WHOLE_NUMBERS = {
    "pipeline": ("seed", "bezier.points", "filter.batch", "filter.threads", "curation.min_classes", "glass.min_area"),
    "training": ("seed", "composites", "real", "epochs"),
    "window": ("batch",),
    "cluster": ("cores", "jobs"),
}


@dataclass(frozen=True)
class File:
    """A settings file of some kind, and overrides."""

    kind: str
    data: bytes
    overrides: tuple[str, ...]


def damaged_file(rng: np.random.Generator) -> File:
    """Return a settings file that is shipped, damaged as text, by token, by value, or by its overrides alone."""
    if rng.random() < 0.3:
        return File("pipeline", damaged_pipeline(Random(int(rng.integers(2**63)))).encode("utf-8", "replace"), ())
    kind = pick(rng, ("pipeline", "pipeline", "pipeline", "training", "window", "cluster"))
    number = int(rng.integers(len(TEXTS[kind])))
    text, action = TEXTS[kind][number], int(rng.integers(8))
    overrides = tuple(_override(rng, kind, VALUES[kind][number]) for _ in range(int(rng.integers(3))))
    if action == 0:
        return File(kind, damaged_bytes(rng, text.encode()), overrides)
    if action <= 3:
        return File(kind, _other_tokens(rng, text).encode("utf-8", "surrogatepass"), overrides)
    if action <= 5:
        value = damaged_value(rng, VALUES[kind][number])
        return File(kind, json.dumps(value, indent=1).encode(), overrides)
    if action == 6 and rng.random() < 0.3:
        return File(kind, _bomb(rng, text).encode(), overrides)
    return File(kind, text.encode(), (*overrides, _override(rng, kind, VALUES[kind][number])))


def _other_tokens(rng: np.random.Generator, text: str) -> str:
    """Return a file with some of its scalars replaced, or lines moved, repeated or gone."""
    for _ in range(int(rng.integers(1, 4))):
        scalars = [*re.finditer(r"(?<=[:\[,-] )[^\s,\]}#][^\n,\]}#]*", text)]
        action = int(rng.integers(5))
        if action <= 2 and scalars:
            at = pick(rng, scalars)
            text = text[: at.start()] + pick(rng, SCALARS) + text[at.end() :]
            continue
        lines = text.splitlines(keepends=True)
        place, other = rng.integers(len(lines), size=2).tolist() if lines else (0, 0)
        if action == 3:
            lines[place:place] = lines[other : other + 1]
        else:
            del lines[place : place + 1]
        text = "".join(lines)
    return text


def _bomb(rng: np.random.Generator, text: str) -> str:
    """Return a small file that says a great deal, or that is nested deeply."""
    action = int(rng.integers(5))
    levels = int(rng.integers(3, 10))
    if action == 0:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    elif action == 1:
        lines = ["a0: &a0 {" + ", ".join(f"k{key}: 1" for key in range(9)) + "}"]
        for level in range(1, levels):
            body = ", ".join(f"k{key}: {{<<: *a{level - 1}}}" for key in range(9))
            lines.append(f"a{level}: &a{level} {{{body}}}")
    elif action == 2:
        depth = int(pick(rng, (100, 3000, 100_000)))
        return text + "\nname: " + pick(rng, ("[", "{a: ", "- ", "? ")) * depth
    elif action == 3:
        return text + "\n" + "".join(f"k{number}: 1\n" for number in range(int(pick(rng, (1000, 20_000)))))
    else:
        return pick(
            rng, ("", "---", "--- a\n--- b", "\ufeff" + text, text.replace("\n", "\r\n"), text + "\n...\n" + text)
        )
    return "\n".join(lines) + "\n" + text


def _override(rng: np.random.Generator, kind: str, values: Any) -> str:
    keys = _keys(values)
    action = int(rng.integers(24))
    if action >= 12:
        key = pick(rng, keys)
        return f"{key}={json.dumps(_close(rng, _at(values, key)))}"
    if action == 0:
        return pick(
            rng, ("", "=", "=x", "a..b=1", ".=1", "seed", "classes.0.name=x", "seed.a=1", "\0=1", "é=1", " seed =1")
        )
    if action == 1 and kind == "pipeline":
        return "patches.group_pattern=" + json.dumps(pick(rng, PATTERNS))
    if action <= 3:
        return f"{pick(rng, _WHOLE_NUMBERS[kind])}={pick(rng, SCALARS)}"
    if action == 4 and kind == "pipeline":
        return f"name={pick(rng, SCALARS)}"
    value = json.dumps(damaged_value(rng, _at(values, key := pick(rng, keys))))
    return f"{key}={value if action < 9 else pick(rng, SCALARS)}"


def _close(rng: np.random.Generator, value: Any) -> Any:
    """Return a value that a user may well give."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return pick(rng, (value, value + 1, value * 2, value // 2 if isinstance(value, int) else value / 2, 10 * value))


def _keys(values: Any, prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found.append(f"{prefix}{key}")
        found += _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


class Pipelines:
    """See the module."""

    def __init__(self, cache: Path, place: Place, step: Step) -> None:
        self._file = place.case / "settings.yaml"
        self._step = step
        self._schema = Draft202012Validator(json_schema())

    make = staticmethod(damaged_file)

    def show(self, case: File, folder: Path) -> str:
        return f"{case.kind} with {case.overrides}\n{case.data.decode('utf-8', 'backslashreplace')}"

    def run(self, case: File) -> bool:
        self._file.write_bytes(case.data)
        if case.kind == "pipeline":
            found: BaseModel = load(self._file, case.overrides)
        else:
            found = load_settings(MODELS[case.kind], self._file, case.overrides)
        self._step("use")
        text = found.model_dump_json()
        if (again := type(found).model_validate_json(text)) != found:
            raise WrongError(f"settings of {case.kind} do not come back from JSON as they were")
        if isinstance(found, Pipeline) and isinstance(again, Pipeline):
            for stage in STAGES:
                json.dumps(found.settings(stage), allow_nan=False)
            if found.fingerprint() != again.fingerprint():
                raise WrongError("the fingerprint changes on the way through JSON")
            hash((found.taxonomy, found.class_pairs, found.strategies))
            if problem := next(self._schema.iter_errors(json.loads(text)), None):
                raise WrongError(f"the schema refuses {'.'.join(map(str, problem.absolute_path))} of what loads")
        self._as_meant(case, found)
        return True

    def _as_meant(self, case: File, found: BaseModel) -> None:
        """Check that overrides of whole numbers and of the name are what they say."""
        last = {key.strip(): text for key, _, text in (each.partition("=") for each in case.overrides)}
        for key in _WHOLE_NUMBERS[case.kind]:
            # another override may replace the section that the key is in, or be of a key below it
            related = (other for other in last if key.startswith(f"{other}.") or other.startswith(f"{key}."))
            if key in last and not any(related):
                self._number_as_meant(case.kind, key, last[key].partition(" #")[0].strip(), found)
        name = last.get("name")
        plain = name in SCALARS and re.fullmatch(r"[\w.+:-]+", name, re.ASCII)
        if isinstance(found, Pipeline) and name and plain and found.name != name:
            raise WrongError(f"name={name[:20]} becomes {found.name[:20]!r}")

    def _number_as_meant(self, kind: str, key: str, text: str, found: BaseModel) -> None:
        value: Any = found
        for part in key.split("."):
            value = getattr(value, part, None)
        if value is None:
            return  # its section is null
        ambiguous = re.fullmatch(r"[-+]?0[0-9]+", text)
        right = int(text, 10 if text.lstrip("+-").isdigit() else 0) if _INTEGER.fullmatch(text) else None
        if right is None and _FLOAT.fullmatch(text) and float(text).is_integer():
            right = int(float(text))
        if value != right or isinstance(value, bool) or ambiguous:
            raise WrongError(f"{key}={text[:20]} becomes {str(value)[:20]}")
