"""What users read about the mistakes in their files: the key, what was found, what is expected, an example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from synthpipe.config.pipeline_file import load
from synthpipe.core.errors import ConfigError

SHORT = "classes: [tumour, stroma]\npatches:\n  root: /data\n  layout: folders\n"
PATCHES = "patches: {root: /data, layout: folders}\n"

ADDED = {
    "canvas: 22.5": "canvas: got 22.5; expected one whole number of pixels such as 224, or two as [height, width]",
    "canvas: 0": "canvas: got 0; expected a whole number from 1 to 8192, or two as [height, width], such as 224",
    "seed: -1": "seed: got -1; expected a whole number from 0 to 18446744073709551615, such as 2024",
    "seed: '7'": "seed: got '7'; expected a whole number from 0 to 18446744073709551615, such as 2024; write numbers "
    "without quotes, leading zeros, colons and underscores",
    "name: 5": "name: got 5; expected text that is not empty, such as my patches; put it in quotes",
    "license: ''": "license: got ''; expected text that is not empty, or null, such as CC-BY-4.0",
    "layout: csv": "layout: no such key; did you mean patches.layout? allowed: format_version, name",
    "candidates: 5": "candidates: no such key; did you mean filter.candidates or curation.candidates? allowed:",
    "mosaik: 5": "mosaik: no such key; did you mean 'mosaic'? allowed:",
    "mosaic: 5": "mosaic: got 5; expected the keys tile, grid, probability, shift, scale, rotation, split, or null, "
    "such as {tile: 112}",
    "mosaic: {grid: 100}": "mosaic.grid: got 100; expected a whole number from 1 to 64, or two as [height, width]",
    "mosaic: {scale: 3}": "mosaic.scale: got 3; expected a number from 0 to 0.75, such as 0.2",
    "mosaic: {split: 0.5}": "mosaic.split: got 0.5; expected a list of 2, each a number from 0 to 1, such as [0.2,",
    "mosaic: {split: [1]}": "mosaic.split: got [1]; expected a list of 2, each a number from 0 to 1",
    "mosaic: {probability: 80%}": "mosaic.probability: got '80%'; expected a number from 0 to 1, such as 0.8; write",
    "mosaic: {tiles: 5}": "mosaic.tiles: no such key; did you mean 'tile'? allowed: tile, grid",
    "bezier: {pairs: [tumour, stroma]}": 'bezier.pairs: got ["tumour", "stroma"]; expected all, or a list of '
    "[background, foreground] class names, such as [[tumour, stroma]]",
    "bezier: {pairs: [[tumour, strma]]}": "bezier.pairs.0: no class 'strma'; did you mean 'stroma'? allowed: tumour, "
    "stroma",
    "bezier: {pairs: [[tumour]]}": 'bezier.pairs.0: got ["tumour"]; expected a list of 2, each text',
    "bezier: {radius: 0}": "bezier.radius: got 0; expected a number above 0 and at most 1, such as 0.2",
    "filter: off": "filter: got 'off'; expected the keys enabled, network, weights",
    "filter: {enabled: no}": "filter.enabled: got 'no'; expected true or false",
    "filter: {epochs: {mosaik: 3}}": "filter.epochs.mosaik: no such key; did you mean 'mosaic'? allowed: mosaic,",
    "filter: {mean: [0.5]}": "filter.mean: got [0.5]; expected a list of 3, each a number from -1000 to 1000, such as",
    "filter: {precision: 16}": "filter.precision: got 16; expected mixed or 32",
    "filter: {weights_sha256: abc}": "filter.weights_sha256: got 'abc'; expected 64 digits of 0-9 and a-f, or null",
    "curation: {rule: topk}": "curation.rule: got 'topk'; expected threshold or top_k; did you mean 'top_k'?",
    "curation: {wanted: 0}": "curation.wanted: got 0; expected a whole number from 1 to 100000000, or one for each "
    "strategy as {mosaic: 1, bezier: 2}, such as 3600",
    "curation: {wanted: many}": "curation.wanted: got 'many'; expected one whole number such as 12, or one for each",
    "curation: {threshold: 50}": "curation.threshold: got 50; expected a number from 0 to 1, such as 0.5",
    "store: {image_codec: gzip}": "store.image_codec: got 'gzip'; expected none, zstd or blosc-lz4",
    "glass: true": "glass: got true; expected the keys threshold, min_area, max_share, max_draws, or null, such as",
    "format_version: 2": "format_version: got 2; expected 1",
    "background_color: white": "background_color: got 'white'; expected a list of 3, each a whole number from 0 to "
    "255, such as [255, 255, 255]",
}
"""Lines added to a sound file, and what is said of them."""

CLASSES = {
    "tumour": "classes: got 'tumour'; expected a list of 2 to 254 class names, each alone or as {name: tumour, color:",
    "[tumour]": 'classes: got ["tumour"]; expected a list of 2 to 254 class names',
    "{tumour: [0, 0, 0]}": 'classes: got {"tumour": [0, 0, 0]}; expected a list',
    "[tumour, 5]": "classes.1: got 5; expected letters, digits, blanks, _ . and -, with a letter or a digit first, or "
    "the keys name, color, aliases, such as tumour; put it in quotes",
    "[tumour, a+b]": "classes.1: got 'a+b'; expected letters, digits, blanks",
    "[tumour, {name: b, colour: [0, 0, 0]}]": "classes.1.colour: no such key; did you mean 'color'? allowed: name,",
    "[tumour, {color: [0, 0, 0]}]": "classes.1.name: missing; expected letters, digits",
    "[tumour, {name: b, color: red}]": "classes.1.color: got 'red'; expected a list of 3, each a whole number from 0 "
    "to 255, such as [0, 64, 128]",
    "[tumour, {name: b, color: [0, 0, 256]}]": "classes.1.color.2: got 256; expected a whole number from 0 to 255",
    "[tumour, {name: b, aliases: B}]": "classes.1.aliases: got 'B'; expected a list, each text, such as [TUM, tumor]",
    "[tumour, Tumour]": "classes.1.name: got 'Tumour'; class 0 has 'tumour': each name must occur once",
}

FILES = {
    "classes: [a, b]": "patches: missing; expected the keys root, layout, label_pattern, group_pattern, exclude, "
    "on_error, min_side, max_pixels, such as {root: /data/patches, layout: folders}",
    "classes: [a, b]\npatches: {root: /d}": "patches.layout: missing; expected wsss4luad, bcss-wsss, luad-histoseg",
    "classes: [a, b]\npatches: {root: /d, layout: folder}": "or csv; did you mean 'folders'?",
    "classes: [a, b]\npatches: {root: 5, layout: csv}": "patches.root: got 5; expected text, such as /data/patches; ",
    PATCHES: "classes: missing; expected a list of 2 to 254 class names",
    "hello": "got 'hello'; expected lines with a key and a value, such as seed: 1",
}

BROKEN = {
    "a:\n\t- b": "line 2, column 1: a tab begins a value or indents the line; write blanks",
    "a: b: c": "line 1, column 5: a second ': ' in the line, or a wrong indent; put text with ': ' in quotes",
    "a: [b, c\nd: 1": "line 2, column 2: the list that begins with [ needs a comma, or a ] at its end, before this",
    "a: {b: 1": "the mapping that begins with { needs a comma, or a } at its end, before this",
    "a: 'b": "a quote is open to the end of the file; close it",
    "a:\n  - b\n - c": "line 3, column 2: does not fit the lines above; begin all lines of a section in one column",
    "a: @b": "line 1, column 4: text cannot begin with @, ` or %; put it in quotes",
    "a: *b": "line 1, column 4: text that begins with * refers to an & above; put it in quotes",
    'a: "\\q"': "a backslash in double quotes has a special meaning; write single quotes",
    "a: 1\nb\n": "expected a key, a colon and a blank, as in seed: 1",
    "a: |b": "text that begins with | or > continues in the next lines; put it in quotes",
    "a: 1\na: 2": "line 2, column 1: key 'a' occurs twice",
}

MISTAKES = [
    *((SHORT + line, message) for line, message in ADDED.items()),
    *((f"classes: {text}\n{PATCHES}", message) for text, message in CLASSES.items()),
    *FILES.items(),
    *BROKEN.items(),
]
_OF_PYDANTIC = re.compile(r"input should|tuple|valid (string|integer|list|dict)|pydantic|https?://|[a-z]section")


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_one_message_a_mistake_in_the_words_of_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    told = str(caught.value)
    assert message in told
    assert len(told.splitlines()) <= 2, "a mistake is told once"
    assert not _OF_PYDANTIC.search(told.replace(str(path), "").lower())
