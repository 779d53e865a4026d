"""`python -m tests.requirements > requirements/render.txt`: what rendering needs, pinned, with its own requirements.

It follows from `setup.cfg`, `constraints.txt` and the packages of `make install` on Python 3.11. Newer Pythons need
fewer packages, and lack some of these.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from importlib import metadata

import click
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from synthpipe.core.packages import TORCH
from tests.conftest import ROOT

_HEAD = """\
# What rendering needs, without torch. Made from setup.cfg and constraints.txt by `python -m tests.requirements`.
# pip install --no-deps . -r requirements/render.txt
"""


def render_requirements() -> str:
    """Return the text of `requirements/render.txt`."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    own = [Requirement(line) for line in settings["options"]["install_requires"].strip().splitlines()]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(each.name): each for each in map(Requirement, (line for line in lines if line[0] != "#"))}
    markers = {canonicalize_name(each.name): f"; {each.marker}" for each in own if each.marker}
    found: set[NormalizedName] = set()
    todo = [each for each in own if each.name not in TORCH]
    while todo:
        each = todo.pop()
        if (name := canonicalize_name(each.name)) not in found or each.extras:
            found.add(name)
            todo += _needed_by(each)
    return _HEAD + "".join(f"{pins[name]}{markers.get(name, '')}\n" for name in sorted(found))


def _needed_by(requirement: Requirement) -> Iterator[Requirement]:
    for line in metadata.requires(requirement.name) or ():
        each = Requirement(line)
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            yield each


if __name__ == "__main__":
    click.echo(render_requirements(), nl=False)
