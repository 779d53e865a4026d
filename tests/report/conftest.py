"""A real run of patches with names that attack a page that does not escape them, and a real browser."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from synthpipe.build import build
from synthpipe.cli.progress import LogReporter
from synthpipe.patches.catalog import survey
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from tests import conftest
from tests.conftest import pipeline

SMALL = (
    *(*conftest.SMALL, "filter.epochs=2", "store.shard=16"),
    *("curation.wanted=30", "curation.candidates=64"),
)
NAME = "</title><script>window.hacked = 'pipeline'</script>&amp; \"quotes\" 'and' more"
FOLDER = "<img src=x onerror=window.hacked='folder'><"
FILE = "script><script>window.hacked='patch'<!-- \" onerror='window.hacked=1' {name} {{{{ 7 * 7 }}}}-{number}.png"
GROUP = "<svg onload=window.hacked='slide'>\"' {group}"
_CHROMIUM = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of phantom patches whose names contain HTML and scripts."""
    folder = tmp_path_factory.mktemp("hostile")
    write_phantom(folder / "phantom", PhantomSpec(slides=6, patches=90, size=48, images=0))
    settings = pipeline(f"patches.root={folder / 'phantom'}")
    (folder / FOLDER).mkdir()
    with (folder / "patches.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "labels", "group"])
        for number, patch in enumerate(survey(settings.patches, settings.taxonomy).patches):
            name = f"{FOLDER}/{FILE.format(name='<b>', number=number)}"
            shutil.copy(patch.path, folder / name)
            table.writerow([name, settings.taxonomy.label(patch.classes), GROUP.format(group=patch.group)])
        (folder / FOLDER / "<i onclick=window.hacked=2>broken.png").write_bytes(b"no picture")
        table.writerow([f"{FOLDER}/<i onclick=window.hacked=2>broken.png", "tumour", "<u>slide"])
    return folder / "patches.csv"


@pytest.fixture(scope="session")
def run(hostile: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of the hostile patches, with filters."""
    path = tmp_path_factory.mktemp("runs") / "<b>run & 'report'"
    settings = pipeline(*SMALL, "patches.layout=csv", f"patches.root={hostile}", "patches.on_error=skip")
    build(settings.model_copy(update={"name": NAME}), path, ClusterSettings(Local(0)), LogReporter())
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Return a headless browser for one module: tests of other modules fork, and must not inherit its event loop."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("chromium not found; install it (Debian and Ubuntu: apt-get install chromium) and test again")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_CHROMIUM))
        yield browser
        browser.close()
