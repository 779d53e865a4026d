"""Remarks on patches before a build, and on what it kept at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synthpipe.build import build, remarks
from synthpipe.build.outcome import rare_classes
from synthpipe.build.status import status_of
from synthpipe.cli.progress import LogReporter
from synthpipe.core.records import REASONS, PatchRef
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.summary import summarise
from synthpipe.verification import repair
from tests.conftest import pipeline
from tests.patches.test_catalog import save


def catalog(*counts: int, size: tuple[int, int] = (64, 64)) -> Catalog:
    """Donors of some classes, each of a slide of its own."""
    patches = [
        PatchRef(f"{label}-{number:03}", "", "0" * 64, (label,), *size, f"{label}-{number}")
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    return Catalog(tuple(patches))


def test_groups_matter_to_a_filter_alone() -> None:
    found = catalog(3, 3, 3)
    with_filter, without = (list(remarks(pipeline(f"filter.enabled={flag}"), found)) for flag in ("true", "false"))
    assert any("every patch counts as a slide of its own" in remark for remark in with_filter)
    assert not any("slide" in remark for remark in without)


def test_narrow_donors_are_reported() -> None:
    (remark,) = (each for each in remarks(pipeline(), catalog(2, 2, 2, size=(20, 90))) if "long" in each)
    assert remark.startswith("6 donors are over 4 times as long as wide (the first: '0-000'): they are stretched")
    assert not any("long" in each for each in remarks(pipeline(), catalog(2, 2, 2, size=(20, 80))))


def entry(kept: int, shares: tuple[float, ...], normal: dict[str, int]) -> dict[str, Any]:
    names = ("tumour", "stroma", "normal")
    return {
        "candidates": 600,
        "verdicts": {"kept": kept},
        "class_share": dict(zip(names, shares, strict=True)),
        "class_verdicts": {name: dict.fromkeys(REASONS, 0) | normal for name in names},
    }


def test_classes_that_are_hardly_kept_are_told_with_the_reason() -> None:
    entries = {
        "mosaic": entry(200, (0.5, 0.485, 0.015), {"kept": 2, "looks_synthetic": 40, "surplus": 1}),
        "bezier": entry(200, (0.5, 0.5, 0.0), {}),
    }

    def remark_for(*overrides: str) -> str:
        (remark,) = rare_classes(pipeline(*overrides), catalog(50, 40, 4), entries)
        return remark

    assert remark_for() == (
        "normal has 0.8% of the kept pixels: 4 of 94 donors show it; 43 of 600 Mosaic candidates show it (2 kept, 40 "
        "looks synthetic, 1 ranked below the cut); 0 of 600 Bezier candidates show it; set donors.balance_classes: "
        "true, or add donors"
    )
    assert "1 not needed" in remark_for("curation.rule=threshold")
    assert remark_for("donors.balance_classes=true").endswith("; add donors")
    entries["bezier"]["class_share"]["normal"] = 0.005
    assert list(rare_classes(pipeline(), catalog(50, 40, 4), entries)) == []


def test_a_run_says_what_it_hardly_shows_and_keeps_its_patches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is extended and repaired though some of its patches are too small by now; counts are those of the plan."""
    for number in range(6):
        save(tmp_path / "set" / ("tumour", "stroma")[number % 2] / f"{number}.png", number, 40, 40)
    save(tmp_path / "set/tumour/line.png", 7, 2, 40)
    keys = [
        *(f"patches.root={tmp_path / 'set'}", "patches.layout=folders", "canvas=32", "mosaic.tile=16", "bezier=null"),
        *("filter.enabled=false", "curation.candidates=12", "curation.max_candidates=80", "store.shard=8"),
    ]
    run = RunDirectory(tmp_path / "run")
    cluster = ClusterSettings(Local(0))
    journal = build(pipeline(*keys, "curation.wanted=12", "patches.min_side=1"), run.path, cluster, LogReporter())
    rare = (
        "normal has 0.0% of the kept pixels: 0 of 7 donors show it; 0 of 12 Mosaic candidates show it; add "
        "single-class patches of it"
    )
    for told in (journal, run.journal(), status_of(run.path), summarise(run.path)):
        assert told["remarks"][-1] == rare
    assert rare in run.report_page.read_text()
    assert "mosaic candidate composites: 12 in " in capsys.readouterr().err
    assert {each["composites"] for each in status_of(run.path)["progress"]} == {12}
    before = load_catalog(run.path, pipeline().taxonomy)
    build(pipeline(*keys, "curation.wanted=20"), run.path, cluster, LogReporter(), extend=True)
    assert "mosaic candidate composites: 4 in " in capsys.readouterr().err  # of a third shard of 8
    assert load_catalog(run.path, pipeline().taxonomy) == before and len(before.patches) == 7
    table = run.tables()[0]
    table.write_text(table.read_text().replace(f"{tmp_path / 'set'}", "/elsewhere"))
    assert repair(run.path, 0, 0, LogReporter()).faults == ()
    assert load_catalog(run.path, pipeline().taxonomy) == before
