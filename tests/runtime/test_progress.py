from __future__ import annotations

import time

from tests.runtime.conftest import cluster_of, three_steps, two


def test_steps_announced_inside_tasks_reach_the_client() -> None:
    heard: list[int] = []
    with cluster_of(two()) as cluster:
        with cluster.announced(heard.append):
            assert sorted(cluster.run(three_steps, range(4))) == [0, 1, 2, 3]
            deadline = time.monotonic() + 10
            while len(heard) < 12 and time.monotonic() < deadline:
                time.sleep(0.01)
        list(cluster.run(three_steps, range(4)))
    assert heard == [2] * 12
