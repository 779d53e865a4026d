"""Arguments and options for settings files: a file, the name of a shipped file, and KEY=VALUE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click
from click.shell_completion import CompletionItem
from pydantic import BaseModel

from synthpipe.cli.options import LocationType
from synthpipe.config.settings_file import choices
from synthpipe.config.shipped import SHIPPED, shipped_file, shipped_names
from synthpipe.files.locations import Location


class SettingsFile(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """A YAML file, or the name of a file that comes with synthpipe, such as ``demo``."""

    name = "file or name"

    def __init__(self, folder: Path = SHIPPED) -> None:
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if path.is_dir():
            self.fail(f"{str(value)!r} is a folder, expected a YAML file; shipped files: {self._offered()}", param, ctx)
        shipped = shipped_file(str(value), self._folder)
        if not shipped and not path.suffix and not path.exists() and len(path.parts) == 1:
            message = f"no file {str(value)!r}, and no shipped file of this name; shipped files: {self._offered()}"
            self.fail(message, param, ctx)
        return shipped or path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _shipped_items(self._folder, incomplete) or [CompletionItem(incomplete, type="file")]

    def _offered(self) -> str:
        return ", ".join(shipped_names(self._folder))


class PatchesOrPipeline(LocationType):
    """An existing folder, table or URL of patches, an existing pipeline file, or the name of a shipped one."""

    name = "path, url or name"

    def __init__(self) -> None:
        super().__init__(exists=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        return super().convert(shipped_file(str(value)) or value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _shipped_items(SHIPPED, incomplete) or super().shell_complete(ctx, param, incomplete)


class KeyValue(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """KEY=VALUE of a settings model; a shell can complete keys, and values that are a fixed choice.

    `model` is ``module:class``. The class is imported when a shell asks for completions.
    """

    name = "key=value"

    def __init__(self, model: str) -> None:
        self._model = model

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = _keys(resolve_name(self._model), "")
        return [CompletionItem(text, help=description) for text, description in found if text.startswith(incomplete)]


pipeline_argument = click.argument("pipeline", type=SettingsFile())
set_option = click.option(
    "--set",
    "overrides",
    type=KeyValue("synthpipe.config.pipeline:Pipeline"),
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a key of the settings file; can be repeated.",
)


def _shipped_items(folder: Path, incomplete: str) -> list[CompletionItem]:
    """Return the shipped names that begin with what was typed; nothing typed offers files instead."""
    return [CompletionItem(name) for name in shipped_names(folder) if incomplete and name.startswith(incomplete)]


def _keys(model: type[BaseModel], above: str) -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        allowed = choices(field.annotation)
        sections = [each for each in allowed if isinstance(each, type) and issubclass(each, BaseModel)]
        for section in sections:
            yield from _keys(section, f"{above}{name}.")
        words = [each for each in allowed if isinstance(each, str)]
        yield from ((f"{above}{name}={word}", field.description) for word in words)
        if not sections and not words:
            yield f"{above}{name}=", field.description
