"""`python -m tests.pages`: write the files that are made from code and results, or compare them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

import benchmarks.datacomp.page
import benchmarks.donor_quality
import benchmarks.experiments
import benchmarks.export
import benchmarks.filter_audit
import benchmarks.gpu.page
import benchmarks.page
import benchmarks.scaling
import benchmarks.virtual
import synthpipe.cli.manual
import synthpipe.config.pipeline_page
import tests.drawing
import tests.requirements
from tests.conftest import ROOT

PAGES: dict[str, Callable[[], str]] = {
    "docs/commands.md": synthpipe.cli.manual.page,
    "docs/datacomp.md": benchmarks.datacomp.page.write_page,
    "docs/donor-quality.md": benchmarks.donor_quality.write_page,
    "docs/experiments.md": benchmarks.experiments.write_page,
    "docs/export.md": benchmarks.export.write_page,
    "docs/filter.md": benchmarks.filter_audit.write_page,
    "docs/gpu.md": benchmarks.gpu.page.write_page,
    "docs/packages.svg": tests.drawing.draw,
    "docs/performance.md": benchmarks.page.write_page,
    "docs/pipeline-file.md": synthpipe.config.pipeline_page.page,
    "docs/scaling.md": benchmarks.scaling.write_page,
    "docs/virtual.md": benchmarks.virtual.write_page,
}
if sys.version_info[:2] == (3, 11):  # newer Pythons do not have all packages of the list
    PAGES["requirements/render.txt"] = tests.requirements.render_requirements


def outdated() -> list[str]:
    """Return the files whose text is not what their source gives."""
    return [name for name, text in PAGES.items() if not _holds(ROOT / name, text())]


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Write nothing; the exit code is 1 where a file is outdated.")
def main(check: bool) -> None:
    """Write docs/commands.md and the other generated files, and name those that changed."""
    names = outdated()
    for name in names:
        if not check:
            (ROOT / name).write_text(PAGES[name](), encoding="utf-8")
        click.echo(f"{name}: {'outdated; change its source, then run: make pages' if check else 'written'}")
    sys.exit(check and bool(names))


if __name__ == "__main__":
    main()
