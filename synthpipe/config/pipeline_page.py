"""Make ``docs/pipeline-file.md`` from the pipeline file's schema."""

from __future__ import annotations

import re
from collections.abc import Iterator

from synthpipe.config.pipeline import json_schema
from synthpipe.config.schema import Key, keys

_HEAD = """\
# The pipeline file

`synthpipe schema --markdown` prints this page. A pipeline file is YAML. Five lines are enough:

```yaml
classes: [tumour, stroma]
patches:
  root: /data/patches
  layout: folders
canvas: 224
```

`synthpipe init DIRECTORY` writes such a file for your patches, and `synthpipe validate FILE` lists every mistake in a
file. All other keys have defaults: the constants of the published method. An option such as `--set mosaic.scale=0.1`
replaces the file's value for one build. The files in [`pipelines/`](../pipelines) are examples with comments.

Write numbers as 12, 0.5 or 1e-3, and booleans as true or false; anything else is text. Sizes are in pixels: one
number for height and width, or `[height, width]`. Shares are from 0 to 1. `classes.N.name` is the name of class N,
counted from 0. The columns show the allowed values of each key, and its default.
"""


def page() -> str:
    """Return the page as Markdown, with one table of keys for each section."""
    found = list(keys(json_schema()))
    lines = [_HEAD, *_table([key for key in found if "." not in key.name])]
    above = {name for key in found if (name := key.name.rpartition(".")[0])}
    for section in [key for key in found if key.name in above or f"{key.name}.N" in above]:
        inner = section.name if section.name in above else f"{section.name}.N"
        about = _plain(section.description)
        lines += [f"## `{section.name}`\n", f"{about[:1].upper()}{about[1:].rstrip('.')}.\n"]
        lines += _table([key for key in found if key.name.rpartition(".")[0] == inner])
    return "\n".join(lines)


def _plain(text: str) -> str:
    return re.sub(r" \(method section \d\)", "", text)


def _table(rows: list[Key]) -> Iterator[str]:
    yield "| key | value | default | what it is for |\n|---|---|---|---|"
    for key in rows:
        default = "required" if key.is_required else f"`{key.default}`" if key.default else "see the text"
        if key.values.endswith("the keys below") and not key.default:
            default = ""
        cells = (f"`{key.name}`", key.values, default, _plain(key.description))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
