"""Patches behind URLs that need a password or a signature: read while a build works, and neither stored nor shown."""

from __future__ import annotations

import base64
import functools
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
from click.testing import CliRunner, Result

import synthpipe
from synthpipe.build import build
from synthpipe.cli import main
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import CatalogError
from synthpipe.files.locations import address, parse_location
from synthpipe.patches.catalog import Catalog, load_catalog, read_catalog, survey, write_catalog
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.run import RunDirectory
from tests.conftest import DEMO, SMALL, pipeline

USER, PASSWORD = "alice", "PASS/W@RD"
FILTERED = ("bezier=null", "filter.candidates=10", "filter.network=lcnet_050")
SECRETS = (
    PASSWORD,
    quote(PASSWORD, safe=""),
    "SIGNATURE1",
    "SIGNATURE2",
    base64.b64encode(b"alice:PASS/W@RD").decode(),
)


class Server(ThreadingHTTPServer):
    """Serves a folder to who has the password or the `signature`; remembers what it was `asked`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Guarded, directory=str(folder)))
        self.signature, self.asked = "SIGNATURE1", list[str]()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.with_password = self.url.replace("://", f"://{USER}:{quote(PASSWORD, safe='')}@")


class _Guarded(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if not self._allowed():
            return
        file = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not (wanted and file.is_file()):
            super().do_GET()
            return
        data = file.read_bytes()
        start, end = (int(wanted[1]), int(wanted[2])) if wanted[1] else (len(data) - int(wanted[2]), len(data))
        part = data[start : end + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def do_HEAD(self) -> None:
        if self._allowed():
            super().do_HEAD()

    def _allowed(self) -> bool:
        self.server.asked.append(self.path)
        password = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
        signatures = parse_qs(urlsplit(self.path).query).get("X-Amz-Signature", [])
        if self.headers.get("Authorization") == password or self.server.signature in signatures:
            return True
        self.send_error(403)
        return False

    def log_message(self, *message: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    write_phantom(directory / "phantom", PhantomSpec(slides=6, patches=90, size=48, images=0))
    return directory


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Server]:
    with Server(folder) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def server(running: Server) -> Server:
    running.signature = "SIGNATURE1"
    return running


def from_folder(root: str | Path, *more: str) -> Pipeline:
    return pipeline(*SMALL, *more, f"patches.root={root}")


def from_csv(root: str | Path, *more: str) -> Pipeline:
    return pipeline(*SMALL, *more, f"patches.root={root}", "patches.layout=csv", "patches.group_pattern=null")


def catalog_of(settings: Pipeline) -> Catalog:
    return read_catalog(settings.patches, settings.taxonomy)


def write_table(folder: Path, start: str = "phantom/1.training/", end: str = "", quoted: bool = False) -> Path:
    """Write a CSV of the phantom's patches, each path between `start` and `end`."""
    settings = from_folder(folder / "phantom")
    rows = [
        f'"{start}{name}{end}",{settings.taxonomy.label(patch.classes)},{patch.group}'
        for patch in catalog_of(settings).patches
        for name in [quote(patch.id) if quoted else patch.id]
    ]
    table = folder / "table.csv"
    table.write_text("\n".join(["path,labels,group", *rows]))
    return table


def signed(folder: Path, server: Server) -> Path:
    end = f"?v=1&X-Amz-Signature={server.signature}&X-Amz-Credential=AKIA/2026"
    return write_table(folder, f"{server.url}/phantom/1.training/", end, quoted=True)


def assert_no_secrets(*texts: str | bytes) -> None:
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        for secret in (*SECRETS, "X-Amz-"):
            assert secret.encode() not in data, data[max(0, data.index(secret.encode()) - 200) :][:400]


def assert_stored_without_secrets(run: Path) -> None:
    files = [path for path in run.rglob("*") if path.is_file()]
    assert files
    assert_no_secrets(*(path.read_bytes() for path in files))


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert_no_secrets(result.output)
    return result


def test_a_password_is_no_part_of_ids_or_of_what_is_stored(folder: Path, server: Server, tmp_path: Path) -> None:
    write_table(folder)
    places: list[tuple[str | Path, Callable[[str | Path], Pipeline]]] = [
        (folder / "table.csv", from_csv),
        (folder / "phantom", from_folder),
        (f"{server.with_password}/table.csv", from_csv),
        (f"{server.url}/table.csv?X-Amz-Signature=SIGNATURE1", from_csv),
        (f"{server.with_password}/phantom", from_folder),
    ]
    settings = [make(place) for place, make in places]
    found = [survey(each.patches, each.taxonomy) for each in settings]
    table, root, table_there, table_signed, root_there = found
    assert table_there.digest == table.digest and root_there.digest == root.digest
    assert table_there.access.keys() == {patch.id for patch in table.patches}
    assert "403" in table_signed.problems[0].message, "a signature of the table is not one of its patches"
    for number, catalog in enumerate(found):
        (tmp_path / str(number)).mkdir()
        write_catalog(catalog, from_folder(folder).taxonomy, tmp_path / str(number))
        assert_no_secrets(repr(catalog), settings[number].model_dump_json())
    assert_stored_without_secrets(tmp_path)


def test_a_renewed_signature_is_the_same_patch(folder: Path, server: Server, tmp_path: Path) -> None:
    settings = from_csv(signed(folder, server))
    first = catalog_of(settings)
    assert first.patches[0].id.endswith("?v=1")
    write_catalog(first, settings.taxonomy, tmp_path)
    loaded = load_catalog(tmp_path, settings.taxonomy)
    assert loaded == first and not loaded.access and first.access
    server.signature = "SIGNATURE2"
    with pytest.raises(CatalogError, match="cannot be read: 403, message='Forbidden'") as refused:
        catalog_of(settings)
    assert_no_secrets(str(refused.value))
    assert catalog_of(from_csv(signed(folder, server))).digest == first.digest


def test_catalogs_that_hold_secrets_are_still_read(folder: Path, server: Server, tmp_path: Path) -> None:
    settings = from_csv(signed(folder, server))
    write_catalog(catalog_of(settings), settings.taxonomy, tmp_path)
    stored = tmp_path / "catalog.csv"
    stored.write_text(re.sub(r"(,http[^,]*%5D\.png)\?v=1", r"\1?v=1&X-Amz-Signature=SIGNATURE1", stored.read_text()))
    assert "SIGNATURE1" in stored.read_text()
    patch = load_catalog(tmp_path, settings.taxonomy).patches[0]
    assert_no_secrets(patch.path, repr(patch))
    assert patch.secret_url == f"{patch.path}&X-Amz-Signature=SIGNATURE1"


def test_rows_that_differ_in_secrets_alone_are_not_merged_silently(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"http://host/a.png?token={number},tumour" for number in (1, 2)]
    table.write_text("\n".join(["path,labels", *rows]))
    settings = from_csv(table)
    (problem,) = read_layout(settings.patches, settings.taxonomy)[1].problems
    assert "(table.csv line 3): the path is already in line 2, with other credentials" in problem.message


@pytest.mark.slow
def test_a_build_from_a_root_with_a_password_makes_the_same_bytes(folder: Path, server: Server, tmp_path: Path) -> None:
    options = [
        part for each in (*SMALL, *FILTERED, f"patches.root={server.with_password}/phantom") for part in ("--set", each)
    ]
    command = [sys.executable, "-m", "synthpipe", "build", str(DEMO), *options, "-o", str(tmp_path / "there")]
    done = subprocess.run([*command, "--workers", "1"], capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert_no_secrets(done.stdout, done.stderr)
    assert_stored_without_secrets(tmp_path / "there")
    build(from_folder(folder / "phantom", *FILTERED), tmp_path / "here", ClusterSettings(Local(0)), LogReporter())
    here, there = (
        {
            str(path.relative_to(tmp_path / side)): path.read_bytes()
            for path in (tmp_path / side).rglob("*")
            if path.is_file()
        }
        for side in ("here", "there")
    )
    timed = {"build.json", "SHA256SUMS", "filter/mosaic.json", "filter/bezier.json", "report.html", ".lock"}
    assert {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)} - timed == {
        "run.json",
        "catalog.csv",
    }
    run, other = (json.loads(each["run.json"]) for each in (here, there))
    assert other["catalog_digest"] == run["catalog_digest"]
    assert other["pipeline"]["patches"]["root"] == f"{server.url}/phantom"


@pytest.fixture(scope="module")
def built_once(folder: Path, running: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    running.signature = "SIGNATURE1"
    result = build_signed(run, signed(folder, running))
    assert result.exit_code == 0, result.output
    return run


@pytest.fixture
def built(built_once: Path, server: Server, tmp_path: Path) -> Path:
    """A copy of a run of patches behind signed URLs, without a filter."""
    server.asked.clear()
    return shutil.copytree(built_once, tmp_path / "run")


def build_signed(run: Path, table: Path) -> Result:
    overrides = ("filter.enabled=false", "patches.layout=csv", "patches.group_pattern=null", f"patches.root={table}")
    options = [part for each in (*SMALL, *overrides) for part in ("--set", each)]
    return invoke("build", DEMO, *options, "-o", run, "--workers", 0)


def test_a_build_resumes_with_a_renewed_signature(built: Path, folder: Path, server: Server) -> None:
    before = {path: path.read_bytes() for path in built.glob("c*.zarr/**/*") if path.is_file()}
    for name in ("candidates.zarr/mosaic/image/c.1.0.0.0", "curated.zarr/mask/c.0.0.0", "build.json"):
        (built / name).unlink()
    server.signature = "SIGNATURE2"
    refused = build_signed(built, folder / "table.csv")
    assert refused.exit_code == 1 and "403, message='Forbidden'" in refused.output
    resumed = build_signed(built, signed(folder, server))
    assert resumed.exit_code == 0, resumed.output
    assert before == {path: path.read_bytes() for path in built.glob("c*.zarr/**/*") if path.is_file()}
    assert_stored_without_secrets(built)


def test_nothing_asks_a_strangers_hosts_by_itself(built: Path, server: Server, tmp_path: Path) -> None:
    result = invoke("verify", built)
    assert result.exit_code == 0, result.output
    assert f"no patch was read and no composite rendered: its patches are at {server.url}" in result.output
    assert "give --patches ROOT" in result.output and "0 composites rendered again" in result.output
    replayed = invoke("replay", built, "mosaic", 3, "-o", tmp_path / "3.png")
    assert replayed.exit_code == 1 and "give --patches ROOT" in replayed.output
    for command in (
        ("status", built),
        ("inspect", built),
        ("inspect", built, "--index", 0),
        ("report", built),
        ("export", built / "curated.zarr", "--to", "png", "-o", tmp_path / "png", "--workers", 0),
    ):
        assert (done := invoke(*command)).exit_code == 0, done.output
    assert np.asarray(synthpipe.open_curated(built / "curated.zarr")[0].image).any()
    (built / "candidates.zarr" / "mosaic" / "image" / "c.1.0.0.0").unlink()
    (built / "catalog.csv").write_text("damaged")
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()}
    assert invoke("verify", built, "--repair").exit_code == 1
    assert before == {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()}
    assert server.asked == []


def test_patches_are_read_where_the_user_names_them(built: Path, folder: Path, server: Server, tmp_path: Path) -> None:
    server.signature = "SIGNATURE2"
    table = signed(folder, server)
    result = invoke("verify", built, "--sample", 3, "--patches", table)
    assert result.exit_code == 0 and "6 composites rendered again" in result.output, result.output
    replayed = invoke("replay", built, "mosaic", 3, "-o", tmp_path / "3.png", "--patches", table)
    assert replayed.exit_code == 0 and "equal to the stored pixels" in replayed.output, replayed.output
    lost = built / "candidates.zarr" / "mosaic" / "image" / "c.1.0.0.0"
    lost.unlink()
    (built / "catalog.csv").write_text("damaged")
    mended = invoke("verify", built, "--repair", "--workers", 0, "--patches", table)
    assert mended.exit_code == 0 and lost.exists(), mended.output
    assert_stored_without_secrets(built)
    table.write_text("\n".join(table.read_text().split("\n")[:-1]))
    lacking = invoke("verify", built, "--patches", table)
    assert lacking.exit_code == 1 and "1 of the 90 patches" in lacking.output


def test_a_run_at_a_url_with_a_password_is_read_and_shown_without(
    built: Path, folder: Path, server: Server, tmp_path: Path
) -> None:
    (folder / "run").symlink_to(built)
    run = f"{server.with_password}/run"
    curated = synthpipe.open_curated(f"{run}/curated.zarr")
    assert curated.read([3, 1])[0].any() and str(curated.path) == f"{server.url}/run/curated.zarr"
    assert_no_secrets(curated._repr_html_(), synthpipe.open_run(run)._repr_html_())
    assert invoke("inspect", run).exit_code == 0
    assert invoke("verify", run, "--sample", 0).exit_code in (0, 1)
    invoke("inspect", f"{run}/nothing")
    (folder / "run").unlink()


def test_credentials_are_options_of_a_location() -> None:
    path = parse_location(f"http://{USER}:{quote(PASSWORD, safe='')}@host/a/b")
    assert str(path) == "http://host/a/b" and str(path.parent) == "http://host/a"
    assert address(path / "c") == f"http://{USER}:{quote(PASSWORD, safe='')}@host/a/b/c"
    assert address(parse_location("memory://a")) == "memory://a" and address(Path("a")) == "a"
    assert RunDirectory(path).run_file.parent == path


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "s3://AKIA:PASS%2FW%40RD@bucket/run"),
        ("inspect", "nope://a:SIGNATURE1@x/"),
        ("index", "memory://a:SIGNATURE1@none", "--layout", "csv"),
    ],
)
def test_messages_hold_no_credentials(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code and "://" in result.output
