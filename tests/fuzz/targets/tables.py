"""CSV tables of patches through `synthpipe index`: each row is read as it stands, or is a problem that names it."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from synthpipe.config.pipeline import PatchesSection
from synthpipe.patches.catalog import survey
from synthpipe.patches.layouts import read_layout
from tests.fuzz.target import EXTREME_TEXTS, Place, Step, WrongError, command, damaged_bytes, pick
from tests.fuzz.targets.labels import TAXONOMY, Text, damaged_label, expected

PATCHES = 6
HOST = "patches.invalid"
"""Tables may name patches here; whatever else is asked for is a finding."""

_URLS = (
    *(
        f"http://{HOST}/a.png",
        f"https://u:p@{HOST}/a.png?X-Amz-Signature=s",
        f"http://{HOST}:99999/a.png",
        "http://[::1/a",
    ),
    *(
        "file:///a.png",
        "file://forbidden.invalid/a.png",
        "FILE:///a.png",
        "local:///a.png",
        "memory://a.png",
        "generic://x",
    ),
    *("data:image/png;base64,iVBORw0KGgo=", "zip://a.png::p0.png", "simplecache::http://forbidden.invalid/a.png"),
    *(
        "ssh://forbidden.invalid/a.png",
        "sftp://forbidden.invalid/a",
        "ftp://forbidden.invalid/a.png",
        "smb://forbidden.invalid/a/b",
    ),
    *(
        "github://o:r@main/a.png",
        "reference://a.png",
        "python://os",
        "://x",
        "x://",
        "a::b",
        "s3:",
        "hdfs://forbidden.invalid/a",
    ),
    *(
        "git://a:b@c/d",
        "jupyter://forbidden.invalid/a",
        "webhdfs://forbidden.invalid/a",
        "dask://x",
        "filecache::memory://a",
    ),
)
_LOCAL = (
    "ELSEWHERE/thesis.txt",
    "../elsewhere/thesis.txt",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    ".",
    "/",
    "~/a.png",
)


@dataclass(frozen=True)
class Table:
    """The bytes of a table."""

    data: bytes


class Tables:
    """See the module."""

    allowed_hosts = (HOST,)

    def __init__(self, cache: Path, place: Place, step: Step) -> None:
        self._place, self._step = place, step
        self._patches = []
        for number in range(PATCHES):
            target = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(target, format="PNG")
            self._patches.append(target.getvalue())
        self._fill()
        self.run(Table(b"path,labels\np0.png,tumour\n"))  # loads what it needs

    def make(self, rng: np.random.Generator) -> Table:
        columns = ["path", "labels", "group"][: int(rng.integers(2, 4))]
        if rng.random() < 0.1:
            columns = [*columns, pick(rng, ("path", "labels", "", "x", " Path ", "a" * 1000))]
        if rng.random() < 0.2:
            rng.shuffle(columns)
        rows = [[self._cell(rng, column, number) for column in columns] for number in range(int(rng.integers(1, 12)))]
        text = io.StringIO(newline="")
        action = int(rng.integers(10))
        writer = csv.writer(text, delimiter=";" if action == 0 else ",", lineterminator=pick(rng, ("\n", "\r\n", "\r")))
        writer.writerows([columns, *rows])
        content = text.getvalue()
        if action == 1:
            place = int(rng.integers(len(content)))
            content = content[:place] + pick(rng, ('"', "\0", '""', ",", "\n", "\x1b", '"' * 1001)) + content[place:]
        data = content.encode(pick(rng, ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")
        data = damaged_bytes(rng, data) if action == 2 else data
        # a table may name what lies on the web: here that is the network that no case may ask
        return Table(data.replace(b"http://forbidden", b"gopher://forbidden"))

    def _cell(self, rng: np.random.Generator, column: str, number: int) -> str:
        action = int(rng.integers(12))
        if column == "path":
            if action <= 6:
                return f"p{number % PATCHES}.png"
            return pick(rng, _URLS if action <= 9 else _LOCAL if action == 10 else EXTREME_TEXTS)
        if column == "labels":
            text = damaged_label(rng)
            return pick(rng, TAXONOMY.names) if text.parser == "bracket" or action <= 3 else text.text
        if action == 0:
            return pick(rng, ("=cmd|'/c calc'!A0", "@SUM(1)", "+1", "-1", "x" * 200_000, *EXTREME_TEXTS))
        return f"slide{number}"

    def show(self, case: Table, folder: Path) -> str:
        return case.data.decode("utf-8", "backslashreplace")

    def _fill(self) -> Path:
        shutil.rmtree(self._place.case, ignore_errors=True)
        self._place.case.mkdir()
        for number, data in enumerate(self._patches):
            (self._place.case / f"p{number}.png").write_bytes(data)
        return self._place.case / "table.csv"

    def run(self, case: Table) -> bool:
        table = self._fill()
        table.write_bytes(case.data.replace(b"ELSEWHERE", bytes(self._place.elsewhere)))
        self._step("index")
        names = ",".join(TAXONOMY.names)
        said = command("index", table, "--layout", "csv", "--classes", names, "--json")
        if said is not None:
            json.loads(said)
        self._step("read")
        patches = PatchesSection(root=str(table), layout="csv", on_error="skip")
        catalog = survey(patches, TAXONOMY, claims=read_layout(patches, TAXONOMY))
        rows = [*csv.reader(io.StringIO(table.read_bytes().decode("utf-8-sig"), newline=""))]
        columns = [name.strip().lower() for name in rows[0]] if rows else []
        meant: dict[str, str] = {}
        for row in rows[1:]:
            cells = dict(zip(columns, row, strict=False))
            meant.setdefault(cells.get("path", ""), cells.get("labels", ""))
        for patch in catalog.patches:
            name = Path(patch.path).name
            if name in meant and expected(Text("cell", len(TAXONOMY), meant[name], None)) != patch.classes:
                raise WrongError("a patch has other classes than its row")
        return bool(catalog.patches)
