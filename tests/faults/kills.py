"""``python -m tests.faults.kills``: kill workers and drivers at random moments, and compare all bytes."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import psutil

from tests.faults.builds import Builds, digests, kill_all, objects, workers_of


def kill_workers(builds: Builds, run: Path, kills: int, seed: int) -> int:
    """Build a run while killing at most `kills` of its workers; return the number of killed workers.

    The first one may be killed while it starts.
    """
    rng = random.Random(seed)
    build = builds.start(run, "--workers", "2")
    assert build.stderr
    done = 0
    try:
        while build.poll() is None:
            time.sleep(rng.uniform(0.1, 2.0))
            workers = workers_of(build)
            under_way = (run / "filter" / "training.zarr").exists()
            if done < kills and workers and (under_way or not done):
                try:
                    rng.choice(workers).kill()
                    done += 1
                except psutil.NoSuchProcess:
                    pass
        _, log = build.communicate()
        assert build.returncode == 0, log
    finally:
        if build.poll() is None:
            kill_all(build)
    return done


def kill_drivers(builds: Builds, run: Path, kills: int, seed: int, total: int) -> Iterator[str]:
    """Kill builds of a run with all their processes at random moments, and yield the stage of each.

    If a build ends before it is killed, the run is finished, and the remaining kills need another run.

    Parameters
    ----------
    builds, run : Builds and Path
        The builds and the run.
    kills, seed : int
        The number of kills, and the seed of the moments.
    total : int
        The number of objects of a finished run.

    Raises
    ------
    AssertionError
        A resumed build wrote a finished object again.
    """
    rng = random.Random(seed)
    before: dict[str, tuple[int, int]] = {}
    for moment in sorted(rng.randrange(total) for _ in range(kills)):
        build = builds.start(run, "--workers", "2")
        while len(objects(run)) < moment and build.poll() is None:
            time.sleep(0.02)
        try:
            _, log = build.communicate(timeout=rng.uniform(0.0, 2.0))
            assert build.returncode == 0, log
            break
        except subprocess.TimeoutExpired:
            kill_all(build)
        after = objects(run)
        _assert_kept(run, before, after)
        before = after
        yield _stage(run)
    builds.finish(run, "--workers", "2")
    _assert_kept(run, before, objects(run))


def _assert_kept(run: Path, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> None:
    complete = {name: written for name, written in before.items() if _is_complete(run, name, before)}
    again = [name for name, written in complete.items() if after.get(name) != written]
    assert not again, f"made twice: {again}"


_LAST = {"image": "c.{}.0.0.0", "group_steps": "c.{}.0.0", "p_real": "c.{}", "pixels": "c.{}.0"}
"""Arrays that are written last: those of stored pixels, a virtual curated set, virtual candidates and donors."""


def _is_complete(run: Path, name: str, found: dict[str, tuple[int, int]]) -> bool:
    """Whether a shard is stored in all arrays that are written together."""
    group, shard = name.rsplit("/", 2)[0], name.rsplit("/", 1)[1].split(".")[1]
    last = next((each for each in _LAST if (run / group / each).exists()), "image")
    return f"{group}/{last}/{_LAST[last].format(shard)}" in found


def _stage(run: Path) -> str:
    for name in (
        "curated.zarr",
        "candidates.zarr/bezier/p_real",
        "candidates.zarr/bezier",
        "candidates.zarr/mosaic/p_real",
    ):
        if (run / name).exists():
            return name
    if (run / "candidates.zarr").exists():
        return "candidates.zarr/mosaic"
    if (run / "filter" / "training.zarr" / "bezier" / "image" / "c.4.0.0.0").exists():
        return "filter training"
    return "filter/training.zarr" if (run / "filter" / "training.zarr").exists() else "catalog"


@click.command()
@click.option("--workers", default=30, show_default=True, help="Worker processes to kill.")
@click.option("--drivers", default=30, show_default=True, help="Builds to kill, with all their processes.")
@click.option("--seed", default=0, show_default=True)
@click.option("--pixels", type=click.Choice(["stored", "virtual"]), default="stored", show_default=True)
def main(workers: int, drivers: int, seed: int, pixels: str) -> None:
    """Kill workers and drivers of builds, and compare the finished runs with an undisturbed build."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        builds = replace(Builds.of_phantom(root / "phantom"), pixels=pixels)
        builds.finish(root / "whole", "--workers", "2")
        expected, total = digests(root / "whole"), len(objects(root / "whole"))
        done = number = 0
        while done < workers:
            killed = kill_workers(builds, root / f"workers-{number}", min(5, workers - done), seed + number)
            assert digests(root / f"workers-{number}") == expected
            done, number = done + killed, number + 1
        click.echo(f"{done} workers killed over {number} builds: all finished, every byte equal")
        stages: Counter[str] = Counter()
        number = 0
        while stages.total() < drivers:
            run = root / f"drivers-{number}"
            stages.update(kill_drivers(builds, run, min(8, drivers - stages.total()), seed + number, total))
            assert digests(run) == expected
            number += 1
        click.echo(
            f"{stages.total()} builds killed and resumed over {number} runs: every byte equal, no finished shard again"
        )
        click.echo("  " + ", ".join(f"{count} in {stage}" for stage, count in stages.most_common()))


if __name__ == "__main__":
    main()
