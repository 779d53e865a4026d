"""Measure and check all parts on a GPU, or at a small size on the CPU; write a JSON file and print a table."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.gpu.page import PAGE, RESULTS, write_page
from benchmarks.gpu.part_results import is_wrong, table
from benchmarks.gpu.running import SHARES, run_parts
from benchmarks.gpu.scale import FULL, SMALL
from benchmarks.page import write_result
from synthpipe.storage.run import versions_of

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "segmentation-models-pytorch", "numpy", "zarr", "dask")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@click.command()
@click.option("--cpu", is_flag=True, help="Run all parts at a small size on the CPU, as a test.")
@click.option("--part", "names", multiple=True, type=click.Choice(tuple(SHARES)), help="Run only these parts [all].")
@click.option(
    "--seconds", default=400, show_default=True, help="Time for all parts; a part that takes too long is stopped."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="JSON to write [benchmarks/results/gpu/CARD.json]."
)
@click.option("--page", is_flag=True, help="Only write docs/gpu.md from the stored results.")
def main(cpu: bool, names: tuple[str, ...], seconds: int, output: Path | None, page: bool) -> None:
    """Measure and check synthpipe on the first GPU, and print a table.

    Each part runs in its own process and has a share of the time; the next parts get the time that it does not use. If
    a part fails or is stopped, its results so far and its error are kept, and the other parts run. The exit code is 0
    if all results are right.

    \b
    Examples:
      python -m benchmarks.gpu
      python -m benchmarks.gpu --part scoring -o scoring.json
      python -m benchmarks.gpu --cpu
      python -m benchmarks.gpu --page
    """
    if page:
        PAGE.write_text(write_page(), encoding="utf-8")
        click.echo(PAGE)
        return
    # one card is visible to the processes of all parts, or none with --cpu
    os.environ[_VISIBLE] = "" if cpu else os.environ.get(_VISIBLE, "0").split(",")[0]
    if cpu:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads are slower on such small images
    if not cpu and not torch.cuda.is_available():
        raise click.ClickException("torch finds no GPU; --cpu runs all parts at a small size on the CPU, as a test")
    card = "CPU" if cpu else torch.cuda.get_device_name(0)
    target = output or (None if cpu else RESULTS / f"{re.sub(r'[^A-Za-z0-9]+', '-', card)}.json")
    result: dict[str, Any] = {"card": card, **_settings(cpu), "parts": {}}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="synthpipe-gpu-", ignore_cleanup_errors=True) as folder:
        for name, part in run_parts(names or tuple(SHARES), Path(folder), cpu, seconds):
            result["parts"][name] = part
            result["seconds"] = time.monotonic() - start
            click.echo(f"{name}: {'WRONG' if is_wrong(part) else 'right'}, {part['seconds']:.0f} s", err=True)
            if target:  # after each part: an interrupted command keeps the finished ones
                write_result(target, result)
    click.echo("\n".join(table(result["parts"])))
    if wrong := [name for name, part in result["parts"].items() if is_wrong(part)]:
        raise click.ClickException(f"failed: {', '.join(wrong)}")


def _settings(cpu: bool) -> dict[str, Any]:
    """Return the versions and the settings that the figures depend on."""
    scale = SMALL if cpu else FULL
    return {
        "versions": versions_of(_PACKAGES),
        "cuda": torch.version.cuda,
        "cudnn": None if cpu else torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "memory": None if cpu else torch.cuda.get_device_properties(0).total_memory,
        "cores": len(os.sched_getaffinity(0)),
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32},
        "scale": {name: getattr(scale, name) for name in type(scale).__slots__},
    }


if __name__ == "__main__":
    main()
