"""Settings files that come with synthpipe: a name stands for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

SHIPPED = Path(__file__).parent.parent / "pipelines"
"""The folder `pipelines/` of the project."""


class SettingsFile(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """A YAML file, or the name of one that comes with synthpipe, such as ``demo``."""

    name = "file or name"

    def __init__(self, folder: Path = SHIPPED) -> None:
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if path.is_dir():
            self.fail(f"{str(value)!r} is a folder, expected a YAML file; shipped files: {self._offered()}", param, ctx)
        if path.suffix or path.exists() or len(path.parts) != 1:
            return path
        shipped = self._folder / f"{path}.yaml"
        if not shipped.is_file():
            message = f"no file {str(value)!r}, and no shipped file of this name; shipped files: {self._offered()}"
            self.fail(message, param, ctx)
        return shipped

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name) for name in self._names() if incomplete and name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]

    def _names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.yaml"))

    def _offered(self) -> str:
        return ", ".join(self._names())
