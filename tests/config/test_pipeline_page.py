from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from synthpipe.cli import main
from synthpipe.config.fields import Section
from synthpipe.config.pipeline import ClassSection, Pipeline, json_schema
from synthpipe.config.schema import keys
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "pipeline-file.md").read_text(encoding="utf-8")
KEYS = {key.name: key for key in keys(json_schema())}


def test_the_page_is_what_the_schema_gives() -> None:
    assert CliRunner().invoke(main, ["schema", "--markdown"]).output == PAGE


def _fields(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{above}{name}"
        section = next((one for one in SECTIONS if one.__name__ in str(field.annotation)), None)
        if section:
            yield from _fields(section, f"{above}{name}." + ("N." if section is ClassSection else ""))


SECTIONS: list[type[Section]] = [
    each for each in Section.__subclasses__() if each.__module__ == "synthpipe.config.pipeline"
]


@pytest.mark.parametrize("name", list(_fields(Pipeline)))
def test_every_key_is_on_the_page_and_says_what_it_is_for(name: str) -> None:
    key = KEYS[name]
    assert key.description and key.values != "a value"
    assert f"| `{name}` | " in PAGE


def test_the_page_tells_values_and_defaults() -> None:
    assert "| `mosaic.scale` | a number from 0 to 0.75 | `0.2` | largest change of size" in PAGE
    assert "| `patches.layout` | wsss4luad, bcss-wsss, luad-histoseg, folders, pattern or csv | required |" in PAGE
    assert "| `mosaic.tile` | a whole number from 1 to 8192, or two as [height, width] | see the text |" in PAGE
    assert "| `bezier.pairs` | all, or a list of [background, foreground] class names | `all` |" in PAGE
    assert "| `canvas` | a whole number from 1 to 8192, or two as [height, width] | `224` |" in PAGE
    assert "method section" not in PAGE
