"""HTML that notebooks show."""

from __future__ import annotations

import base64
import copy
import io
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image as Pillow

import synthpipe
from synthpipe.core.errors import StoreError
from synthpipe.core.pictures import overlay
from synthpipe.core.records import PatchRef
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.curated import CuratedSet, Sample, begin_pseudo_labelled, write_pseudo_labelled
from synthpipe.curated.notebook import curated_html, run_html, sample_html
from synthpipe.storage.run import read_json, write_json

HOSTILE = "<script>alert('x')</script>\"'&"


class Page(HTMLParser):
    """The tags of a page, its text, and its pictures; open tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.pictures: dict[str, Pillow.Image] = {}
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            found = dict(attrs)
            data = base64.b64decode(str(found["src"]).split("base64,")[1])
            self.pictures[str(found["alt"])] = Pillow.open(io.BytesIO(data))
        else:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def curated(home: Path) -> CuratedSet:
    return synthpipe.open_run(home / "runs" / "demo").curated


def large(side: int) -> Sample:
    """Return a composite with a hostile name that compresses badly."""
    rng = np.random.default_rng(0)
    classes = tuple(TissueClass(f"{HOSTILE}{number}", (9 * number, 200, 10)) for number in range(3))
    mask = (np.arange(side)[:, None] * 4 // side).astype(np.uint8).repeat(side, axis=1)
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Sample(image, mask, np.ones(3, np.uint8), Taxonomy(classes))


def test_a_composite(curated: CuratedSet) -> None:
    sample = curated[3]
    page = Page(sample._repr_html_())
    assert list(page.pictures) == ["image", "mask", "overlay"]
    assert np.array_equal(np.asarray(page.pictures["mask"]), sample.mask)
    for name, expected in (("image", sample.image), ("overlay", overlay(sample.image, sample.mask, sample.taxonomy))):
        assert np.abs(np.asarray(page.pictures[name]).astype(int) - expected).mean() < 6
    present = [name for value, name in enumerate(sample.taxonomy.names) if (sample.mask == value).any()]
    assert [text for text in page.text if text in sample.taxonomy.names] == present
    assert f"{(sample.mask == sample.taxonomy.index(present[0])).mean():.1%}" in page.text


@pytest.mark.parametrize("side", [1, 64, 224, 1000])
def test_names_are_escaped_and_pictures_small(side: int) -> None:
    html = sample_html(large(side))
    page = Page(html)
    assert len(html) < 300_000 and "script" not in page.tags
    assert max(picture.width for picture in page.pictures.values()) == min(side, 256)
    assert [text for text in page.text if HOSTILE in text][:1] == [f"{HOSTILE}0"]
    assert "background (ignored)" in page.text or side == 1


def test_a_set(curated: CuratedSet) -> None:
    html = curated._repr_html_()
    page = Page(html)
    assert len(html) < 300_000 and len(page.pictures) == 6
    text = "".join(page.text)
    assert (
        f"{curated.path}: 80 samples (20 Mosaic, 60 Bezier) of 64 \u00d7 64 pixels, from 10 slides or patients" in text
    )
    with_it = int((curated.labels[:, 0] > 0).sum())
    assert f"{with_it} ({with_it / 80:.1%})" in page.text
    share = curated.class_pixels[:, 1].sum() / curated.class_pixels.sum()
    assert f"{share:.1%}" in page.text
    first, *_, last = page.pictures
    assert (first, last) == ("0: Mosaic 0", f"79: Bezier {curated.origin(79)[1]}")  # type: ignore[index]
    signed = copy.copy(curated)
    signed.path = "https://me:secret@host/curated.zarr?X-Amz-Signature=secret"  # type: ignore[assignment]
    assert "https://host/curated.zarr" in curated_html(signed) and "secret" not in curated_html(signed)
    part = Page(curated.subset([70])._repr_html_())
    assert list(part.pictures) == [f"0: Bezier {curated.origin(70)[1]}"]  # type: ignore[index]
    assert "".join(Page(curated_html(curated.subset([]))).text).endswith("slides or patients")


def test_a_set_of_many_is_measured_in_part(curated: CuratedSet) -> None:
    many = curated.subset(np.arange(8000) % 80)
    text = "".join(Page(curated_html(many)).text)
    assert "8,000 samples (2,000 Mosaic, 6,000 Bezier)" in text and "pixels, in 256 samples" in text
    assert "class_pixels" not in vars(many)  # not all were read


def test_a_set_of_real_patches(curated: CuratedSet, tmp_path: Path) -> None:
    patches = [PatchRef(f"{name}.png", f"/{name}.png", "0" * 64, (0, 2), 64, 64, "slide 7") for name in "ab"]
    begin_pseudo_labelled(tmp_path / "pseudo.zarr", curated.description, {"checkpoint": "x"}, patches)
    write_pseudo_labelled(tmp_path / "pseudo.zarr", 0, patches, *curated.read([4, 9]))
    page = Page(synthpipe.open_curated(tmp_path / "pseudo.zarr")._repr_html_())
    assert list(page.pictures) == ["0: real", "1: real"]
    assert (
        ": 2 samples (2 real patches with predicted masks) of 64 \u00d7 64 pixels, from 1 slide or patient"
        in "".join(page.text)
    )


def test_a_run(home: Path) -> None:
    run = synthpipe.open_run(home / "runs" / "demo")
    html = run._repr_html_()
    assert len(html) < 300_000 and curated_html(run.curated) in html
    text = "".join(Page(html).text)
    assert f"{run.path}: run of demo, finished; fingerprint {run.fingerprint[:12]}…" in text
    assert ", Bezier candidates " in text and "bezier" not in text
    kept = run.journal["strategies"]["bezier"]["verdicts"]
    assert (
        f"Bezier{run.journal['strategies']['bezier']['candidates']}60{kept['too_few_classes']} too few classes" in text
    )


@pytest.fixture
def begun(home: Path, tmp_path: Path) -> Path:
    """Return a run with a hostile name that was stopped before its curated set."""
    path = tmp_path / "<b>run"
    shutil.copytree(home / "runs" / "demo", path, ignore=lambda folder, names: {"curated.zarr"} & set(names))
    write_json(path / "build.json", {"stages": {HOSTILE: 1.0}, "strategies": {}})
    data = read_json(path / "run.json")
    write_json(path / "run.json", {**data, "name": HOSTILE})
    return path


def test_a_run_that_is_not_finished(begun: Path) -> None:
    run = synthpipe.open_run(begun)
    page = Page(run_html(run))
    text = "".join(page.text)
    assert not run.finished and f"run of {HOSTILE}, not finished" in text and f"{HOSTILE} 1.0 s" in text
    assert not page.pictures and not {"script", "table"} & set(page.tags) and page.tags.count("b") == 1
    with pytest.raises(StoreError, match="this run is not finished, so it has no curated set yet"):
        _ = run.curated


def test_candidates_are_opened_whatever_their_verdict(home: Path) -> None:
    run = synthpipe.open_run(str(home / "runs" / "demo"))
    group = run.candidates("bezier")
    assert isinstance(group, zarr.Group)
    verdicts = np.asarray(group["verdict"][:])  # type: ignore[index]
    thrown = int(np.flatnonzero(verdicts)[0])
    sample = run.candidate("bezier", thrown)
    assert np.array_equal(sample.image, np.asarray(group["image"][thrown]))  # type: ignore[index]
    assert np.array_equal(sample.mask, np.asarray(group["mask"][thrown]))  # type: ignore[index]
    assert sample.labels.tolist() == [int((sample.mask == value).any()) for value in range(3)]
    kept = run.candidate(*(run.curated.origin(25) or ("mosaic", -1)))
    assert np.array_equal(kept.image, run.curated[25].image) and np.array_equal(kept.labels, run.curated[25].labels)
    with pytest.raises(StoreError, match=r"no bezier candidate -1; there are \d+, counted from 0"):
        run.candidate("bezier", -1)


def test_a_candidate_that_is_not_made_yet_is_refused(begun: Path) -> None:
    (begun / "candidates.zarr" / "mosaic" / "mask" / "c.0.0.0").unlink()
    with pytest.raises(StoreError, match="mosaic candidate 3 is not rendered yet"):
        synthpipe.open_run(begun).candidate("mosaic", 3)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"run\.json: not found"):
        synthpipe.open_run(tmp_path)
