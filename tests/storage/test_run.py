from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from synthpipe.core.errors import FilterError, StoreError
from synthpipe.storage import run as run_module
from synthpipe.storage.filter_report import EpochMetrics, FilterReport, load_report
from synthpipe.storage.run import RunDirectory, write_json
from tests.conftest import pipeline

JUDGED = {
    "candidates": 20,
    "acceptance": None,
    "verdicts": {"kept": 12, "surplus": 8},
    "class_share": {"tumour": 0.5},
    "donors": {"available": 5, "used": 4, "most_composites_of_one": 3},
}
REPORT = FilterReport(
    *("mosaic", "test_resnet", (EpochMetrics(0, 1.0, 1.0, 0.5, 0.5),), 0, 0.5, 0.5, 8, 2, 8, 2, "f" * 64, 1.5, "cpu")
)
DEEP = "[" * 200_000


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path)
    found.write(pipeline(), "0" * 64)
    return found


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("name", 5, "name is 5; input should be a valid string"),
        ("fingerprint", None, "fingerprint is None"),
        ("versions", {"numpy": 2}, r"versions\.numpy is 2"),
        ("versions", [], r"versions is \[\]; input should be a valid dictionary"),
        ("pipeline", "x", "pipeline is 'x'"),
        ("format_version", [1], r"format_version is \[1\], this synthpipe reads 1"),
    ],
)
def test_a_run_file_of_other_types_is_refused(run: RunDirectory, key: str, value: Any, message: str) -> None:
    write_json(run.run_file, run.read() | {key: value})
    with pytest.raises(StoreError, match=rf"run\.json: {message}"):
        run.read()


def test_a_pipeline_that_nothing_could_make_is_refused(run: RunDirectory) -> None:
    data = run.read()
    data["pipeline"]["curation"]["wanted"]["mosaic"] = 10**30
    write_json(run.run_file, data)
    with pytest.raises(StoreError, match=r"run\.json: this version cannot read the pipeline"):
        run.pipeline()


@pytest.mark.parametrize(
    "journal, message",
    [
        ({"stages": []}, r"stages is \[\]; input should be a valid dictionary"),
        ({"stages": {"donors": "5"}}, r"stages\.donors is '5'"),
        ({"stages": {"donors": float("nan")}}, r"stages\.donors is nan"),
        ({"finished": "no"}, "finished is 'no'; input should be a valid boolean"),
        ({"strategies": {"mosaic": []}}, r"strategies\.mosaic is \[\]"),
        ({"strategies": {"cut": {}}}, r"strategies\.cut.* is 'cut'"),
        (
            {"strategies": {"mosaic": {"verdicts": {"kept": 3}}}},
            r"strategies\.mosaic: missing fields: acceptance, candidates, ",
        ),
        (
            {"strategies": {"mosaic": JUDGED | {"candidates": 10**12}}},
            r"strategies\.mosaic\.candidates is 1000000000000",
        ),
        ({"strategies": {"mosaic": JUDGED | {"acceptance": "1"}}}, r"strategies\.mosaic\.acceptance is '1'"),
        (
            {"strategies": {"mosaic": JUDGED | {"donors": {"used": 1}}}},
            r"strategies\.mosaic\.donors\.available is missing",
        ),
    ],
)
def test_a_journal_of_other_types_is_refused(run: RunDirectory, journal: dict[str, Any], message: str) -> None:
    sound = {"stages": {"donors": 1.5}, "strategies": {"mosaic": {"filter": {"auroc": 0.5}, **JUDGED}}}
    write_json(run.build_file, sound)
    assert run.journal() == sound
    write_json(run.build_file, sound | journal)
    with pytest.raises(StoreError, match=rf"build\.json: {message}"):
        run.journal()


def test_json_without_end_or_bound_is_refused(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    run.build_file.write_text(DEEP)
    with pytest.raises(StoreError, match=r"build\.json: cannot be read as JSON: the JSON is nested too deeply"):
        run.journal()
    monkeypatch.setattr(run_module, "_MOST_JSON", 1000)
    with pytest.raises(StoreError, match="has 200000 bytes, expected at most 1000"):
        run.journal()
    run.build_file.unlink()
    os.mkfifo(str(run.build_file))
    with pytest.raises(StoreError, match="is a named pipe, expected a file"):
        run.journal()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"accuracy": "high"}, "accuracy is 'high'"),
        ({"auroc": float("inf")}, "auroc is inf"),
        ({"epochs": []}, "best_epoch is 0, but there are 0 epochs"),
        ({"best_epoch": -1}, "best_epoch is -1"),
        ({"epochs": [{"epoch": 0}]}, r"epochs\.0\.train_loss is missing"),
        ({"strategy": "cut"}, "strategy is 'cut'"),
        ({"more": 1}, "more is 1"),
        ({"network": ...}, "network is missing"),
        ({"format_version": 2}, "format_version is 2"),
    ],
)
def test_a_filters_report_of_other_types_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "mosaic.json"
    path.write_text(REPORT.to_json())
    assert load_report(path) == REPORT
    fields = {key: value for key, value in (REPORT.fields() | changes).items() if value is not ...}
    path.write_text(json.dumps(fields))
    with pytest.raises(FilterError, match=rf"mosaic\.json: is damaged, or is not the report of a filter: .*{message}"):
        load_report(path)
    path.write_text(DEEP)
    with pytest.raises(FilterError, match="nested too deeply"):
        load_report(path)
