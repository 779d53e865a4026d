"""Data cards of runs and exports are true and escaped, and their own validators accept them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pytest
import yaml

from synthpipe.build import build
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline import Pipeline
from synthpipe.curated import CuratedSet
from synthpipe.export import FORMS
from synthpipe.report.data_cards.croissant import croissant
from synthpipe.report.data_cards.facts import RunSummary, card_facts, finished_run_of
from synthpipe.report.data_cards.readme import escaped, readme
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.run import RunDirectory
from synthpipe.verification import repair, verify
from tests.export.conftest import exported, noise
from tests.export.test_forms import Exports, by_key, digests


def refuse(*_: object) -> None:
    raise AssertionError("asked the network")


def dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> mlcroissant.Dataset:
    """Open a Croissant file without the network; it has no date, so that equal sets have equal files."""
    monkeypatch.chdir(folder)
    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "connect", refuse)
        patched.setattr(socket, "getaddrinfo", refuse)
        found = mlcroissant.Dataset(jsonld="croissant.json")
    issues = found.metadata.ctx.issues
    assert not issues.errors
    assert all("datePublished" in warning for warning in issues.warnings)
    return found


def header(text: str) -> dict[str, Any]:
    _, top, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(top)
    return found


def test_a_run_has_cards(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (run / "README.md").read_text()
    curated, journal = CuratedSet(run / "curated.zarr"), json.loads((run / "build.json").read_text())
    shown = curated.labels[:11].sum(axis=0)
    assert f"| Mosaic | 11 | {' | '.join(map(str, shown))} |" in card
    share = journal["strategies"]["bezier"]["class_share"]["stroma"]
    assert f"{share:.1%}" in card and "| Bezier | 11 | no filter | 11 | 0 | 0 | 0 | 0 |" in card
    assert f"40 patches of {len(_slides(run))} slides" in card
    assert json.loads((run / "run.json").read_text())["catalog_digest"] in card
    assert curated.fingerprint in card and curated.digest in card and "arXiv:2412.20924" in card
    assert "Not for diagnosis" in card and "License: not given: the license of the source patches applies" in card
    assert str(run.parent) not in card + (run / "croissant.json").read_text(), "a path of this machine"
    assert header(card)["license"] == "unknown"
    found = dataset(run, monkeypatch)
    patches = list(found.records("patches"))
    assert len(patches) == 40 and patches[0]["patches/classes"].decode() in card
    assert [row["classes/name"] for row in found.records("classes")] == ["tumour", "stroma", "normal", "background"]
    assert shutil.which("sha256sum") is None or _sums_hold(run)


def _slides(run: Path) -> set[str]:
    rows = (run / "catalog.csv").read_text().splitlines()[1:]
    return {row.rsplit(",", 1)[1] for row in rows}


def _sums_hold(run: Path) -> bool:
    sums = (run / "SHA256SUMS").read_text()
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=run, capture_output=True, check=False)
    return "README.md" in sums and "croissant.json" in sums and done.returncode == 0


def test_cards_are_verified_and_mended(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = {name: (copy / name).read_bytes() for name in ("README.md", "croissant.json")}
    (copy / "README.md").write_text("Certified for diagnosis.")
    (copy / "croissant.json").unlink()
    found = verify(copy, 0, LogReporter())
    assert {fault.path.name for fault in found.faults} == set(before)
    assert not repair(copy, 0, 0, LogReporter()).faults
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_a_license_decides_no_byte_of_the_set(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    chunks = {name: digest for name, digest in digests(copy).items() if ".zarr/" in name}
    old = RunDirectory(copy).pipeline()
    licensed = old.model_copy(update={"license": "CC-BY-NC-4.0"})
    assert licensed.fingerprint() == old.fingerprint()
    build(licensed, copy, ClusterSettings(Local(0)), LogReporter())
    card = (copy / "README.md").read_text()
    assert header(card)["license"] == "cc-by-nc-4.0" and "License: CC-BY-NC-4.0" in card
    assert json.loads((copy / "croissant.json").read_text())["license"] == "CC-BY-NC-4.0"
    assert {name: digest for name, digest in digests(copy).items() if ".zarr/" in name} == chunks
    assert not verify(copy, 0, LogReporter()).faults
    exported(CuratedSet(copy / "curated.zarr"), "hf", tmp_path / "hf")
    assert header((tmp_path / "hf" / "README.md").read_text())["license"] == "cc-by-nc-4.0"


@pytest.mark.parametrize("form", FORMS)
def test_every_export_has_cards(form: str, exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (exports(form) / "README.md").read_text()
    assert "40 patches of" in card and "22 images of 32 x 36 pixels" in card and "classes.json" in card
    assert header(card)["size_categories"] == ["n<1K"]
    dataset(exports(form), monkeypatch)


def test_croissant_reads_the_pixels_of_all_forms_but_tars(
    curated: CuratedSet, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    colors = np.frombuffer(curated.taxonomy.palette(), np.uint8).reshape(256, 3)
    found, positions = dataset(exports("png"), monkeypatch), by_key(curated)
    images = {row["images-by-name/name"]: row["images-by-name/pixels"] for row in found.records("images-by-name")}
    masks = {row["masks-by-name/name"]: row["masks-by-name/pixels"] for row in found.records("masks-by-name")}
    assert images.keys() == masks.keys() and len(images) == len(curated)
    for name, image in images.items():
        sample = curated[positions[name.decode().split("-")[0]]]
        assert np.array_equal(np.asarray(image), sample.image)
        assert np.array_equal(np.asarray(masks[name]), colors[sample.mask])  # it converts to RGB
    for form, masks_of, suffix in (("nnunet", "labels", "_0000.png"), ("fiftyone", "masks", ".png")):
        found = dataset(exports(form), monkeypatch)
        images = {row["images-by-name/name"]: row["images-by-name/pixels"] for row in found.records("images-by-name")}
        masks = {row[f"{masks_of}-by-name/name"]: row for row in found.records(f"{masks_of}-by-name")}
        assert len(images) == len(masks) == len(curated)
        for key, position in positions.items():
            assert np.array_equal(np.asarray(images[f"{key}{suffix}".encode()]), curated[position].image)
            values = np.asarray(masks[f"{key}.png".encode()][f"{masks_of}-by-name/pixels"])
            expected = (curated[position].mask + 1) % (4 if form == "fiftyone" else 5)
            assert np.array_equal(values.reshape(*expected.shape, -1)[..., 0], expected)
    for row in dataset(exports("hf"), monkeypatch).records("composites"):
        sample = curated[positions[row["composites/key"].decode()]]
        assert np.array_equal(np.asarray(row["composites/image"]), sample.image)
        assert np.array_equal(np.asarray(row["composites/mask"]), sample.mask)
    found = dataset(exports("coco"), monkeypatch)
    names = {row["images-by-name/name"] for row in found.records("images-by-name")}
    assert names == {row["listed-images/name"] for row in found.records("listed-images")} and len(names) == 22


def test_sets_outside_of_their_run_have_shorter_cards(tmp_path: Path, run: Path) -> None:
    curated = noise(tmp_path / "run" / "pseudo.zarr")
    assert finished_run_of(curated) is None
    card = readme(card_facts(curated, None), ["- files"])
    assert "| real patches with predicted masks | 12 |" in card and "Source patches" not in card
    assert "weakly-labelled histopathology patches. A network trained on composites predicts the class" in card
    assert "synthpipe pseudo-label CHECKPOINT" in card and "c" * 64 in card and "synthpipe build" not in card
    described = json.loads(croissant(card_facts(curated, None), [], []))
    for text in (card, json.dumps(described)):
        assert "pseudo-labels" in text and "real patients" in text and "synthetic:" not in text
        assert "it comes from" not in text and "assembled" not in text
    assert "synthetic" not in header(card)["tags"] + described["keywords"]
    shutil.copytree(run / "curated.zarr", tmp_path / "alone" / "curated.zarr")
    assert finished_run_of(CuratedSet(tmp_path / "alone" / "curated.zarr")) is None


def test_text_of_others_is_shown_as_it_is(run: Path, tmp_path: Path) -> None:
    assert escaped("a\x1b[2Jb") == r"a\\x1b\[2Jb"
    assert escaped("<script>\n| a_b* [x](y) & #") == r"&lt;script&gt; \| a\_b\* \[x\](y) &amp; \#"
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.zarr"))
    pipeline: Pipeline = RunDirectory(run).pipeline()
    evil = "a: <b>\n# | [c](d)"
    data = json.loads((copy / "run.json").read_text())
    data["pipeline"] = pipeline.model_copy(update={"name": evil, "license": evil}).model_dump(mode="json")
    (copy / "run.json").write_text(json.dumps(data))
    facts = card_facts(CuratedSet(run / "curated.zarr"), RunDirectory(copy))
    card = readme(facts, [])
    assert header(card)["license_name"] == evil and header(card)["license"] == "other"
    body = card.split("---\n", 2)[2]
    assert "<b>" not in body and r"License: a: &lt;b&gt; \# \| \[c\](d)" in body
    assert json.loads(croissant(facts, [], []))["license"] == evil


def with_rule(run: RunSummary, rule: str) -> Pipeline:
    """Return the pipeline of a run with a filter and another rule of curation."""
    parts = {
        "filter": run.pipeline.filter.model_copy(update={"enabled": True}),
        "curation": run.pipeline.curation.model_copy(update={"rule": rule}),
    }
    return run.pipeline.model_copy(update=parts)


def test_a_card_states_the_figures_of_a_filter(run: Path) -> None:
    facts = card_facts(CuratedSet(run / "curated.zarr"), RunDirectory(run))
    assert facts.run
    strategies = {
        name: {**entry, "acceptance": 0.084, "verdicts": {"kept": 11, "looks_synthetic": 120}}
        for name, entry in facts.run.strategies.items()
    }
    best = {"val_best_accuracy": 0.913, "val_best_threshold": 0.0812}
    filters = {
        "mosaic": {"accuracy": 0.662, "auroc": 0.9764, "best_epoch": 0, "epochs": [best]},
        "bezier": {"accuracy": 0.913, "auroc": 0.9764, "best_epoch": 0, "epochs": [{}]},
    }
    pipeline = with_rule(facts.run, "threshold")
    summary = replace(facts.run, strategies=strategies, filters=filters, pipeline=pipeline)
    card = readme(replace(facts, run=summary), [])
    assert "8.4% | 11 | 120 | 0 | 0 | 0 |" in card and "has no filter" not in card
    assert "accuracy 0.662 at the threshold 0.5, at best 0.913 (threshold 0.0812), AUROC 0.976" in card
    assert card.count("are not calibrated") == 1 and "curation.threshold near 0.0812" in card
    accuracy = "accuracy 0.913 at the threshold 0.5, AUROC 0.976"
    assert f"The Bezier filter distinguishes real from synthetic with {accuracy}." in card
    assert "Curation keeps the first candidates that score above 0.5." in card and "Warning" not in card


def test_a_card_warns_of_composites_that_the_filter_rejects(run: Path) -> None:
    facts = card_facts(CuratedSet(run / "curated.zarr"), RunDirectory(run))
    assert facts.run
    entry = {**facts.run.strategies["bezier"], "candidates": 20, "acceptance": 0.08}
    entry |= {"verdicts": {"kept": 11, "surplus": 9}, "below_threshold": {"count": 10, "kept": 11, "lowest": 0.00125}}
    report = {"accuracy": 0.9, "auroc": 0.97, "best_epoch": 0, "epochs": [{}]}
    pipeline = with_rule(facts.run, "top_k")
    summary = replace(facts.run, pipeline=pipeline, strategies={"bezier": entry}, filters={"bezier": report})
    card = readme(replace(facts, run=summary), [])
    assert "| filter accepts | kept | too few classes | donor used too often | ranked below the cut |" in card
    assert "| Bezier | 20 | 8.0% | 11 | 0 | 0 | 9 |" in card
    assert "Curation keeps the highest scores, however low they are. The filter accepts scores above 0.5." in card
    assert "10 of the 11 kept Bezier composites score no more than curation.threshold (0.5), the lowest 0.001" in card
