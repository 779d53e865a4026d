"""Find the file or object that a cell of a CSV names, or the reason why it must not be read.

A table can come from a stranger. So a table can name only files, web addresses, and objects in object stores. Other
file systems of fsspec are refused, since some of them ask for passwords, run programs, or read other files of this
machine.
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
    """A patch that a cell names.

    `id` is the id of the patch, without credentials and signatures. `address` is the path or URL to read, with them.
    `refusal` is the reason why this address must not be read; it is empty if the address is allowed.
    """

    id: str
    address: str
    refusal: str = ""


def name_patch(cell: str, table: Location) -> Named:
    """Return the patch that a cell names.

    The id of a patch is its path from the folder of the CSV. For an absolute path or a URL outside of that folder, the
    id is this path or URL. ``file:///a%20b`` is the path ``/a b``.

    Parameters
    ----------
    cell : str
        Text of the cell; must not be empty.
    table : Path or UPath
        Absolute path of the CSV.
    """
    scheme, is_url, rest = cell.partition("://")
    scheme = scheme.lower()
    if is_url and scheme not in _FILES:
        return _object(scheme, rest, table)
    if is_url:
        host, _, path = rest.partition("/")
        cell = unquote(f"/{path}", errors="surrogateescape")
        if host.lower() not in ("", "localhost"):
            return Named(cell, cell, f"it is on the machine {host!r}, expected file:/// and a path of this machine")
    if isinstance(table, Path):
        normal = Path(os.path.normpath(cell))
        inside = normal.is_relative_to(table.parent)
        return Named((normal.relative_to(table.parent) if inside else normal).as_posix(), str(table.parent / cell))
    if cell.startswith("/"):
        what = "a table at a URL cannot name files of this machine; give a URL, or a path from the table's folder"
        return Named(cell, cell, what)
    return _beside(cell, table)


def _object(scheme: str, rest: str, table: Location) -> Named:
    """Return the patch that a cell names by a URL."""
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
    """Return the patch at a path that starts at a table's URL. The patch gets the table's user name and password."""
    is_http = get_protocol(str(table)) in _HTTP
    path, mark, query = cell.partition("?") if is_http else (cell, "", "")
    scheme, _, folder = _folder(table).partition("://")
    host, _, above = folder.partition("/")
    target = posixpath.normpath(f"/{above}/{path}").lstrip("/")
    url = f"{scheme}://{host}/{target}{mark}{query}"
    kept = "".join(without_secrets(url).partition("?")[1:]) if is_http else ""
    return Named(posixpath.normpath(path) + kept, url)


def _folder(table: Location) -> str:
    """Return the URL of a table's folder, without the signature, which is valid for the table only."""
    url = address(table)
    path = url.partition("?")[0] if get_protocol(url) in _HTTP else url
    return path.rpartition("/")[0]
