"""``docs/packages.svg``: the packages of synthpipe, drawn from the layers in ``setup.cfg`` and the real imports."""

from __future__ import annotations

import configparser

import grimp

from tests.conftest import ROOT

_WIDTH, _ROW, _BOX, _HEIGHT, _GAP = 900, 82, 132, 38, 66  # pixels: page, row to row, box, between boxes
_STYLE = (
    "rect.page{fill:#fff}rect.box{fill:#eaf1fb;stroke:#33548a}path{fill:none;stroke:#77869c;stroke-width:1.4;"
    "marker-end:url(#tip)}text{font:15px sans-serif;fill:#16263f;text-anchor:middle;dominant-baseline:central}"
)


def layers() -> list[list[str]]:
    """Return the packages of each layer, from the top down, as the import contract lists them."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    rows = settings["importlinter:contract:layers"]["layers"].split("\n")
    return [[name.strip() for name in row.split("|")] for row in rows if row.strip()]


def imports() -> dict[str, set[str]]:
    """Return the packages that each package imports."""
    graph = grimp.build_graph("synthpipe", exclude_type_checking_imports=True, cache_dir=None)
    names = [name for row in layers() for name in row]
    return {
        name: {
            other
            for other in names
            if other != name
            and graph.direct_import_exists(
                importer=f"synthpipe.{name}", imported=f"synthpipe.{other}", as_packages=True
            )
        }
        for name in names
    }


def without_detours(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return `edges` without those that a longer way replaces."""

    def below(name: str) -> set[str]:
        return edges[name].union(*map(below, edges[name]))

    return {name: others - set().union(*map(below, others)) for name, others in edges.items()}


def draw() -> str:
    """Return the drawing as SVG."""
    rows = layers()
    centres = {
        name: (_WIDTH // 2 + (2 * column - len(row) + 1) * (_BOX + _GAP) // 2, 36 + number * _ROW)
        for number, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    height = 72 + (len(rows) - 1) * _ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        "<title>The packages of synthpipe: arrows go from a package to those that it imports</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" style="fill:#77869c;stroke:none"/></marker></defs>',
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
    ]
    for name, others in without_detours(imports()).items():
        x, y = centres[name]
        for other in sorted(others):
            to_x, to_y = centres[other]
            top, bottom = y + _HEIGHT // 2, to_y - _HEIGHT // 2
            lines.append(f'<path d="M{x} {top}L{to_x} {bottom}"/>')
    for name, (x, y) in centres.items():
        box = f'x="{x - _BOX // 2}" y="{y - _HEIGHT // 2}" width="{_BOX}" height="{_HEIGHT}" rx="6"'
        lines.append(f'<rect class="box" {box}/><text x="{x}" y="{y}">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])
