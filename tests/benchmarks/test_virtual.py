from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.virtual import main, write_page


@pytest.mark.slow
def test_both_strategies_are_measured_and_equal_to_stored_ones(tmp_path: Path) -> None:
    result, page = tmp_path / "result.json", tmp_path / "page.md"
    arguments = ("--count", "70", "--patches", "60", "-o", str(result), "--page", str(page))
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    mosaic, bezier = json.loads(result.read_text())["strategies"]
    assert (mosaic["strategy"], bezier["strategy"]) == ("mosaic", "bezier")
    assert mosaic["equal"] == mosaic["composites"] == bezier["equal"] == 70
    assert page.read_text() == write_page(result)
    assert mosaic["bytes_per_million"]["virtual"] < mosaic["bytes_per_million"]["virtual with recipes"]
