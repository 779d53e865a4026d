from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synthpipe.compose import SAMPLER_VERSION
from synthpipe.storage.donor_groups import donor_group_columns, read_donor_groups
from synthpipe.storage.stores import CuratedStore
from tests.conftest import pipeline


@pytest.mark.parametrize("pixels", ["stored", "virtual"])
@pytest.mark.parametrize("groups", [1, 255, 256, 70_000])
def test_groups_are_read_as_they_were_stored(tmp_path: Path, groups: int, pixels: str) -> None:
    settings, names = pipeline("store.shard=4", f"store.pixels={pixels}"), [str(number) for number in range(groups)]
    store = CuratedStore.of_run(tmp_path / "set.zarr", settings, names, "", 4, 3, SAMPLER_VERSION)
    last = groups - 1
    found = np.array([[0, -1, -1], [last, -1, -1], [0, max(1, last // 2), max(2, last)], [-1, -1, -1]], np.int32)
    ((name, samples),) = donor_group_columns(store, found).items()
    assert (
        samples.nbytes == {"donor_groups": 4 * 12, "group_steps": (1 + (groups > 255) + (groups > 65_535)) * 12}[name]
    )
    store.write(name, 0, samples)
    for chosen in (slice(0, 4), [3, 1, 2]):
        assert np.array_equal(read_donor_groups(store, chosen), found[chosen])
