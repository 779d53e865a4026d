"""Stores that speak S3 and refuse a request: the message names the path, the store's code and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest
import s3fs
from click.testing import CliRunner
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.test import run_wsgi_app

import synthpipe
from synthpipe.build import build
from synthpipe.cli import main
from synthpipe.cli.progress import LogReporter
from synthpipe.core.errors import StoreError
from synthpipe.files.locations import parse_location
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from tests.conftest import DEMO, SMALL, pipeline

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
UNFILTERED = (*SMALL, "store.shard=16", "filter.enabled=false", "bezier=null")
RUN = "s3://bucket/run"

Answer = tuple[str, str, str]
"""Status, code and message of an error, in S3's words."""

NO_RIGHT: Answer = ("403 Forbidden", "AccessDenied", "Access Denied")
EXPIRED: Answer = ("400 Bad Request", "ExpiredToken", "The provided token has expired.")
WRONG_SECRET: Answer = (
    *("403 Forbidden", "SignatureDoesNotMatch"),
    "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
)


class Store:
    """Moto's S3 behind what refuses requests; each is given to `refuse` as its method, its key and its parameters."""

    def __init__(self) -> None:
        self.refuse: Callable[[str, str, dict[str, list[str]]], Answer | None] = lambda *_: None
        self.asked = 0
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.asked += 1
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").partition("/")[2]
        refused = self.refuse(method, key, parse_qs(environ["QUERY_STRING"], keep_blank_values=True))
        if not refused:
            body, status, headers = run_wsgi_app(self._moto, environ)
            if not status.startswith("404") or not self.refuse("GET", "", {}):
                start_response(status, list(headers))
                return body
            refused = NO_RIGHT  # who may not list does not learn what is there
        status, code, message = refused
        if method == "HEAD":  # its answers have no body
            start_response(status, [])
            return []
        start_response(status, [("Content-Type", "application/xml")])
        signed = f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256</StringToSign>"
        return [f"<Error><Code>{code}</Code><Message>{message}</Message>{signed}</Error>".encode()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Path]]:
    """Return a store that holds patches and a run, and the folder that has the patches too."""
    store, folder = Store(), tmp_path_factory.mktemp("served")
    server = make_server("127.0.0.1", 0, store, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        files.mkdir("bucket")
        write_phantom(folder / "phantom", PhantomSpec(slides=6, patches=30, size=48, images=0))
        files.put(f"{folder}/phantom", "bucket/phantom", recursive=True)
        few = pipeline(*UNFILTERED, f"patches.root={folder}/phantom")
        build(few, parse_location(RUN), ClusterSettings(Local(0)), LogReporter())
        yield store, folder
        s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(served: tuple[Store, Path]) -> Iterator[Store]:
    yield served[0]
    served[0].refuse = lambda *_: None


def commands(here: Path, folder: Path) -> list[list[str]]:
    def building(root: str, run: str) -> list[str]:
        return [
            "build",
            str(DEMO),
            "-o",
            run,
            "--workers",
            "0",
            *(f"--set={each}" for each in (*UNFILTERED, f"patches.root={root}")),
        ]

    return [
        *([command, RUN] for command in ("status", "inspect", "verify", "report")),
        ["inspect", f"{RUN}/curated.zarr"],
        ["index", "s3://bucket/phantom", "--layout", "wsss4luad"],
        ["index", "s3://bucket", "--layout", "wsss4luad"],
        ["export", f"{RUN}/curated.zarr", "--to", "png", "-o", f"{here}/png", "--workers", "0"],
        building(f"{folder}/phantom", RUN),
        building(f"{folder}/phantom", "s3://bucket/new"),
        building("s3://bucket/phantom", f"{here}/run"),
    ]


@pytest.mark.parametrize(
    ("answer", "cure"),
    [
        (WRONG_SECRET, "check the secret key (AWS_SECRET_ACCESS_KEY, or your profile)"),
        (EXPIRED, "renew the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or your"),
        (NO_RIGHT, "ask for the permission s3:ListBucket there, or use other credentials"),
    ],
    ids=["wrong-secret", "expired", "no-listing"],
)
def test_a_refusal_names_path_code_and_cure(
    store: Store, served: tuple[Store, Path], tmp_path: Path, answer: Answer, cure: str
) -> None:
    def refuse(method: str, key: str, _: dict[str, list[str]]) -> Answer | None:
        return answer if answer != NO_RIGHT or (not key and method in ("GET", "HEAD")) else None

    store.refuse = refuse
    for command in commands(tmp_path, served[1]):
        store.asked = 0
        result = CliRunner().invoke(main, command)
        said = " ".join(result.output.split())
        assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit), command
        assert "s3://bucket" in said.partition("Error: ")[2] and answer[1] in said and cure in said, (command, said)
        assert not any(word in said for word in (SECRET, KEY, "disk", "room", "fault of synthpipe", "Traceback")), said
        assert store.asked < 100, "it is not asked again and again"
    for place in (RUN, f"{RUN}/curated.zarr"):
        with pytest.raises(StoreError, match=answer[1]) as caught:
            synthpipe.open_curated(place)
        assert cure in str(caught.value) and place in str(caught.value)


def test_a_refused_request_names_the_right_that_it_needs(store: Store, served: tuple[Store, Path]) -> None:
    place = parse_location("s3://bucket/one")
    place.write_bytes(b"1")
    refused: tuple[str, ...] = ()
    store.refuse = lambda method, key, _: NO_RIGHT if key and method in refused else None
    attempts: list[tuple[tuple[str, ...], str, Callable[[], object]]] = [
        (("PUT", "POST"), "PutObject", lambda: write_atomically(place, b"2")),
        (("GET", "HEAD"), "GetObject", lambda: read_regular(place, 10)),
    ]
    for methods, right, attempt in attempts:
        refused = methods
        with pytest.raises(
            StoreError, match=rf"one: cannot be .*\(AccessDenied\); ask for the permission s3:{right} there"
        ):
            attempt()
