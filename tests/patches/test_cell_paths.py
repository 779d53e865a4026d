"""Path cells of a table that comes from a stranger."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthpipe.config.pipeline import PatchesSection
from synthpipe.core.errors import CatalogError, StoreError
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.files.locations import parse_location
from synthpipe.patches.catalog import survey
from synthpipe.patches.cell_paths import name_patch
from synthpipe.patches.pixels import read_bytes

HERE = Path("/data/set/table.csv")
THERE = "https://host/data/table.csv"


@pytest.mark.parametrize(
    ("cell", "name", "address"),
    [
        ("a.png", "a.png", "/data/set/a.png"),
        ("sub/../a b.png", "a b.png", "/data/set/sub/../a b.png"),
        ("../other/a.png", "../other/a.png", "/data/set/../other/a.png"),
        ("/data/set/a.png", "a.png", "/data/set/a.png"),
        ("/elsewhere/a.png", "/elsewhere/a.png", "/elsewhere/a.png"),
        ("file:///data/set/a%20b.png", "a b.png", "/data/set/a b.png"),
        ("FILE://localhost/elsewhere/a.png", "/elsewhere/a.png", "/elsewhere/a.png"),
        ("local:///elsewhere/a.png", "/elsewhere/a.png", "/elsewhere/a.png"),
        ("HTTPS://u:p@host:8080/a%20b.png", "https://host:8080/a%20b.png", "https://u:p@host:8080/a%20b.png"),
        ("http://host/get?patch=7&sig=x", "http://host/get?patch=7", "http://host/get?patch=7&sig=x"),
        ("s3://bucket/a.png", "s3://bucket/a.png", "s3://bucket/a.png"),
        ("gs://bucket/a.png", "gs://bucket/a.png", "gs://bucket/a.png"),
        ("memory://a.png", "memory://a.png", "memory://a.png"),
        ("data:image/png;base64,AA", "data:image/png;base64,AA", "/data/set/data:image/png;base64,AA"),
    ],
)
def test_cells_of_a_table_on_a_disk(cell: str, name: str, address: str) -> None:
    found = name_patch(cell, HERE)
    assert (found.id, found.refusal) == (name, "")
    assert Path(found.address) == Path(address) if address.startswith("/") else found.address == address


@pytest.mark.parametrize(
    ("cell", "name", "address"),
    [
        ("a.png", "a.png", "https://u:p%2Fw@host/data/a.png"),
        ("../a.png?v=2&sig=x", "../a.png?v=2", "https://u:p%2Fw@host/a.png?v=2&sig=x"),
        ("../../../a.png", "../../../a.png", "https://u:p%2Fw@host/a.png"),
        ("https://host/data/sub/a.png", "sub/a.png", "https://host/data/sub/a.png"),
        ("https://host/a.png", "https://host/a.png", "https://host/a.png"),
    ],
)
def test_cells_of_a_table_behind_a_url(cell: str, name: str, address: str) -> None:
    found = name_patch(cell, parse_location(THERE.replace("://", "://u:p%2Fw@") + "?X-Amz-Credential=a/b"))
    assert (found.id, found.address, found.refusal) == (name, address, "")


@pytest.mark.parametrize(
    "kind", ["generic", "zip", "reference", "github", "ssh", "sftp", "ftp", "smb", "python", "data", "dir"]
)
def test_a_table_starts_no_other_file_systems(kind: str) -> None:
    refusal = name_patch(f"{kind}://host/x.png", HERE).refusal
    assert refusal.startswith(
        f"URLs of kind {kind!r} are not read from a table, expected a path or one of http, https, "
    )


@pytest.mark.parametrize(
    "cell",
    ["simplecache::http://host/x", "http://host/x::file:///etc/passwd", "memory://a::zip://b", "http://[::1]:80/a.png"],
)
def test_a_table_chains_no_file_systems(cell: str) -> None:
    assert "URLs with '::' are not read from a table" in name_patch(cell, HERE).refusal


@pytest.mark.parametrize(
    "cell", ["/etc/passwd", "file:///etc/passwd", "//etc/passwd", "local:///etc/passwd", "FILE:///x"]
)
def test_a_table_behind_a_url_names_no_files_of_this_machine(cell: str) -> None:
    assert "a table at a URL cannot name files of this machine" in name_patch(cell, parse_location(THERE)).refusal


def test_a_table_names_objects_of_its_own_kind_of_store() -> None:
    assert not name_patch("ftp://host/x.png", parse_location("ftp://host/table.csv")).refusal


def test_files_of_another_machine_are_refused() -> None:
    assert name_patch("file://host/x.png", HERE).refusal.startswith("it is on the machine 'host'")


def test_every_cell_is_read_or_is_a_problem_of_its_row(tmp_path: Path) -> None:
    cells = [
        "generic://x",
        "s3://",
        "http://",
        "gs://bucket/a.png",
        "az://c/a",
        "memory://none",
        "http://h:99999/a",
        "://",
        "a\0b",
    ]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,labels", *(f"{cell},tumour" for cell in cells)]))
    taxonomy = Taxonomy((TissueClass("tumour", (0, 0, 0)), TissueClass("stroma", (1, 1, 1))))
    found = survey(PatchesSection(root=str(table), layout="csv"), taxonomy)
    assert not found.patches and len(found.problems) == len(cells)


@pytest.mark.parametrize("url", ["generic://x", "blockcache://x", "http://[::1]:80/a", "nope://x"])
def test_what_no_file_system_takes_is_an_error_with_the_url(url: str) -> None:
    with pytest.raises(StoreError, match="expected a path, or a URL such as s3://bucket/run") as refused:
        parse_location(url)
    assert str(refused.value).startswith(url)
    with pytest.raises(CatalogError, match="cannot be read: "):
        read_bytes(url)
