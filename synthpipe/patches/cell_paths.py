"""What the path cell of a CSV names: which file or object, by which id, and whether a table may name it.

Tables come from strangers. They name files and objects of plain stores, and start no other file system: some ask for
passwords, run programs, or read what lies on this machine.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from fsspec.utils import get_protocol

from synthpipe.core.display import without_secrets
from synthpipe.files.locations import Location, address

_FILES = ("file", "local")
_HTTP = ("http", "https")
_STORES = (*_HTTP, "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory")


@dataclass(frozen=True, slots=True)
class Named:
    """What a cell names: the patch's `id`, the `address` to read it by, and why that is refused, if it is.

    The address holds credentials and signatures, the id does not.
    """

    id: str
    address: str
    refusal: str = ""


def name_patch(cell: str, table: Location) -> Named:
    """Return what a cell names.

    A patch is named by its path from the folder of the CSV; an absolute path or a URL that lies elsewhere is its own
    id. ``file:///a%20b`` is the path ``/a b``.

    Parameters
    ----------
    cell : str
        Not empty.
    table : Path or UPath
        The CSV, by its absolute path.
    """
    scheme, is_url, rest = cell.partition("://")
    scheme = scheme.lower()
    if is_url and scheme not in _FILES:
        return _object(scheme, rest, table)
    if is_url:
        host, _, path = rest.partition("/")
        cell = unquote(f"/{path}", errors="surrogateescape")
        if host.lower() not in ("", "localhost"):
            return Named(cell, cell, f"it lies on the machine {host!r}, expected file:/// and a path of this machine")
    if isinstance(table, Path):
        normal = Path(os.path.normpath(cell))
        inside = normal.is_relative_to(table.parent)
        return Named((normal.relative_to(table.parent) if inside else normal).as_posix(), str(table.parent / cell))
    if cell.startswith("/"):
        what = "a table behind a URL cannot name files of this machine; give a URL, or a path from the table's folder"
        return Named(cell, cell, what)
    return _beside(cell, table)


def _object(scheme: str, rest: str, table: Location) -> Named:
    """Name what a cell gives a URL of."""
    url = f"{scheme}://{rest}"
    public = without_secrets(url)
    refusal = ""
    if "::" in url:
        refusal = "URLs with '::' are not read from a table, since they chain file systems; give a plain URL"
    elif scheme not in _STORES and scheme != get_protocol(str(table)):
        refusal = f"URLs of kind {scheme!r} are not read from a table, expected a path or one of {', '.join(_STORES)}"
    folder = "" if isinstance(table, Path) else without_secrets(_folder(table))
    return Named(public.removeprefix(f"{folder}/") if folder else public, url, refusal)


def _beside(cell: str, table: Location) -> Named:
    """Name an object by its path from a table behind a URL; user name and password are those of the table."""
    is_http = get_protocol(str(table)) in _HTTP
    path, mark, query = cell.partition("?") if is_http else (cell, "", "")
    scheme, _, folder = _folder(table).partition("://")
    host, _, above = folder.partition("/")
    target = posixpath.normpath(f"/{above}/{path}").lstrip("/")
    url = f"{scheme}://{host}/{target}{mark}{query}"
    kept = "".join(without_secrets(url).partition("?")[1:]) if is_http else ""
    return Named(posixpath.normpath(path) + kept, url)


def _folder(table: Location) -> str:
    """Return the URL of a table's folder; a signature is that of the table alone."""
    url = address(table)
    path = url.partition("?")[0] if get_protocol(url) in _HTTP else url
    return path.rpartition("/")[0]
