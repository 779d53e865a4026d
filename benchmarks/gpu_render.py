"""Check and measure rendering on a GPU: equal bytes, composites per second, and the share of scoring that it leaves."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import google_crc32c
import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.page import write_result
from synthpipe.compose import Block, Donors, render, render_block, sample_block
from synthpipe.compose.batches import Batch, pack_block
from synthpipe.compose.gpu import Renderer
from synthpipe.config.pipeline import Pipeline
from synthpipe.config.pipeline_file import load
from synthpipe.core.errors import SynthpipeError
from synthpipe.core.records import STRATEGIES, Donor, Strategy
from synthpipe.core.threads import available_cores, in_threads
from synthpipe.storage.run import versions_of

_DEMO = Path(__file__).parent.parent / "pipelines" / "demo.yaml"
_PACKAGES = ("numba", "numba-cuda", "numpy", "torch", "timm")
_MOSAICS = 500_000  # wanted Mosaics per second, rendered from uploaded recipes
_TARGET = 0.9  # wanted share of the bare network's rate

Checksums = NDArray[np.uint32]
"""(N, 2) uint32: the CRC-32C of each image and of each mask."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of a measurement.

    Attributes
    ----------
    kinds : tuple of tuple of str
        Settings of the composites whose bytes are compared.
    sizes : tuple of int
        Canvas sizes whose rates are measured, in pixels; the last one is scored.
    donors : int
        Number of donors whose rates are measured.
    batch : int
        Composites per launch.
    scored : int
        Images that the network computes at once.
    seconds : float
        Time for each rate.
    network : str
        The network that scores.
    """

    kinds: tuple[tuple[str, ...], ...]
    sizes: tuple[int, ...]
    donors: int
    batch: int
    scored: int
    seconds: float
    network: str


FULL = Scale(
    kinds=(
        ("canvas=112", "mosaic.tile=56"),
        ("canvas=[50, 90]", "mosaic.tile=[24, 20]", "mosaic.grid=[2, 4]", "bezier.points=40", "bezier.edgy=30"),
        ("mosaic.rotation=180", "mosaic.scale=0.75", "mosaic.shift=1", "mosaic.probability=1", "bezier.radius=1"),
        ("canvas=224", "mosaic.tile=112"),
    ),
    sizes=(64, 112, 224),
    donors=2000,
    batch=4096,
    scored=512,
    seconds=2.0,
    network="resnet18",
)
SIMULATED = Scale(
    kinds=(("canvas=[9, 11]", "mosaic.tile=[5, 6]"), ("canvas=[10, 34]", "mosaic.tile=40", "mosaic.grid=1")),
    sizes=(10,),
    donors=8,
    batch=2,
    scored=1,
    seconds=0.0,
    network="test_resnet",
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Composites of one strategy and kind, from index `start` on."""

    strategy: Strategy
    kind: tuple[str, ...]
    start: int
    count: int


@click.command()
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
@click.option("--composites", default=1_000_000, show_default=True, help="Composites of each strategy to compare.")
@click.option("--processes", type=int, help="Processes that render on the CPU [all cores].")
@click.option("--simulate", is_flag=True, help="Use numba's simulator at a tiny size, as a test without a GPU.")
def main(output: Path, composites: int, processes: int | None, simulate: bool) -> None:
    """Compare the bytes of a GPU and of the CPU, and measure both; the exit code is 0 if all checks hold.

    \b
    Examples:
      python -m benchmarks.gpu_render -o gpu-render.json
      python -m benchmarks.gpu_render --simulate --composites 8 -o simulated.json
    """
    numba.config.ENABLE_CUDASIM = simulate
    scale = SIMULATED if simulate else FULL
    result: dict[str, Any] = {
        "card": _card(simulate),
        "versions": versions_of(_PACKAGES),
        "scale": asdict(scale),
        "checks": {},
    }
    result["cores"] = available_cores()
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "instructions": lambda: _instructions(simulate),
        "rates": lambda: _rates(scale, simulate),
        "scoring": lambda: _scoring(scale, simulate),
        "equality": lambda: _equality(scale, composites, processes or available_cores()),
    }
    for name, step in steps.items():
        start = time.monotonic()
        try:
            found = step()
        except SynthpipeError as error:
            raise click.ClickException(str(error)) from error
        result["checks"] |= found.pop("checks", {})
        result[name] = {**found, "seconds": time.monotonic() - start}
        write_result(output, result)  # an interruption keeps what is done
        click.echo(f"{name}: {json.dumps(result[name])}")
    for check, holds in result["checks"].items():
        click.echo(f"{check}: {'yes' if holds else 'NO'}")
    if not all(result["checks"].values()):
        raise click.ClickException("a check failed")


def _equality(scale: Scale, count: int, processes: int) -> dict[str, Any]:
    """Render composites on the GPU and, in other processes, on the CPU; compare the checksums of all."""
    found: dict[str, Any] = {}
    with Renderer(mixed_donors()) as renderer, ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for strategy in STRATEGIES:
            different, done = [], 0
            chunks = list(_chunks(scale, strategy, count))
            results = in_threads(lambda chunk: pool.submit(render_chunk, chunk).result(), chunks, processes + 1)
            for chunk, (batch, expected) in zip(chunks, results, strict=True):
                images, masks = (each.copy_to_host() for each in renderer.render(batch))
                wrong = (_checksums(images, masks) != expected).any(axis=1)
                different += [f"{' '.join(chunk.kind)}: {chunk.start + int(index)}" for index in np.flatnonzero(wrong)]
                done += chunk.count
            found[strategy] = {"composites": done, "different": len(different), "first": different[:10]}
    checks = {f"{strategy}: equal bytes on GPU and CPU": not found[strategy]["different"] for strategy in STRATEGIES}
    return {**found, "checks": checks}


def render_chunk(chunk: Chunk) -> tuple[Batch, Checksums]:
    """Sample a chunk and render it on the CPU; return its packed recipes and the checksums of its composites."""
    donors, pipeline = mixed_donors(), load(_DEMO, chunk.kind)
    block = sample_block(pipeline, chunk.strategy, range(chunk.start, chunk.start + chunk.count), donors)
    composites = [render(block.recipe(number), donors) for number in range(len(block))]
    images, masks = ([getattr(each, name) for each in composites] for name in ("image", "mask"))
    return pack_block(block), _checksums(images, masks)


def _chunks(scale: Scale, strategy: Strategy, count: int) -> Iterator[Chunk]:
    """Yield chunks of a batch each, of all kinds in turn."""
    for number, done in enumerate(range(0, count, scale.batch)):
        round_, kind = divmod(number, len(scale.kinds))
        yield Chunk(strategy, scale.kinds[kind], round_ * scale.batch, min(scale.batch, count - done))


def _checksums(images: Sequence[Any], masks: Sequence[Any]) -> Checksums:
    pairs = [[google_crc32c.value(each.tobytes()) for each in pair] for pair in zip(images, masks, strict=True)]
    return np.array(pairs, np.uint32)


@lru_cache(maxsize=1)
def mixed_donors() -> Donors:
    """Return donors of many sizes with random pixels and some glass; some are smaller than a tile."""
    rng = np.random.default_rng(3)
    sizes = [(224, 224), (112, 112), (64, 64), (250, 231), (20, 11), (33, 1), (1, 40), (130, 300)]
    donors = []
    for number in range(48):
        size, label = sizes[number % len(sizes)], number % 3
        mask = np.where(rng.random(size) < 0.2, 3, label).astype(np.uint8)
        donors.append(
            Donor(f"{number:02}.png", f"s{number % 4}", label, rng.integers(0, 256, (*size, 3), np.uint8), mask)
        )
    return Donors(donors)


def _square_donors(count: int, side: int) -> Donors:
    """Return donors of one size, whose bank is too large for the caches of a GPU."""
    labels = np.arange(count, dtype=np.uint32) % 3
    bank = np.random.default_rng(4).integers(0, 1 << 24, (count, side, side), np.uint32) | labels[:, None, None] << 24
    planes = bank.view(np.uint8).reshape(count, side, side, 4)
    donors = (Donor(f"{n:06}.png", "s", n % 3, planes[n, ..., :3], planes[n, ..., 3]) for n in range(count))
    return Donors(donors, bank.reshape(-1))


def _pipeline(size: int) -> Pipeline:
    return load(_DEMO, (f"canvas={size}", f"mosaic.tile={size // 2}"))


def _sample(strategy: Strategy, size: int, donors: Donors, count: int) -> Block:
    return sample_block(_pipeline(size), strategy, range(count), donors)


def _rates(scale: Scale, simulate: bool) -> dict[str, Any]:
    """Measure the rates of all sizes and strategies."""
    rows = {}
    for size in scale.sizes:
        donors = _square_donors(scale.donors, size)
        with Renderer(donors) as renderer:
            for strategy in STRATEGIES:
                rows[f"{strategy} {size}"] = _row(renderer, strategy, size, scale)
    wanted = () if simulate else (112, 224)
    checks = {
        f"mosaic {size}: at least {_MOSAICS:,} per second": rows[f"mosaic {size}"]["uploaded"] >= _MOSAICS
        for size in wanted
    }
    return {"rows": rows, "checks": checks}


def _row(renderer: Renderer, strategy: Strategy, size: int, scale: Scale) -> dict[str, float]:
    """Return composites per second, by what is rendered.

    `sampled` samples, packs and renders; `sampling` renders nothing; `cpu` samples and renders on one core.
    """
    count, seconds = scale.batch, scale.seconds
    sample = partial(_sample, strategy, size, renderer.donors)
    packed = pack_block(sample(count))
    uploaded, out = renderer.upload(packed), renderer.render(packed)
    some = max(1, count // 16)
    images, masks = np.empty((some, size, size, 3), np.uint8), np.empty((some, size, size), np.uint8)
    return {
        "uploaded": _rate(lambda: renderer.render(uploaded, out), count, seconds),
        "packed": _rate(lambda: renderer.render(packed, out), count, seconds),
        "sampled": _rate(lambda: renderer.render(pack_block(sample(count)), out), count, seconds),
        "sampling": _rate(lambda: pack_block(sample(count)), count, seconds),
        "cpu": _rate(lambda: render_block(sample(some), images, masks), some, seconds),
    }


def _rate(function: Callable[[], object], count: int, seconds: float) -> float:
    """Return `count` times the calls of `function` per second; the GPU has finished all of them."""
    from numba import cuda

    function()
    cuda.synchronize()
    start, calls = time.perf_counter(), 0
    while True:
        for _ in range(max(1, calls)):  # twice as many each time, so that waiting for the GPU takes no share
            function()
        calls += max(1, calls)
        cuda.synchronize()
        if (passed := time.perf_counter() - start) >= seconds:
            return count * calls / passed


def _scoring(scale: Scale, simulate: bool) -> dict[str, Any]:
    """Return images per second of the bare network on resident images, and of all work of scoring in a build."""
    import torch

    from synthpipe.filtering.inference import infer
    from synthpipe.filtering.network import initial_network
    from synthpipe.filtering.rendering import RenderedImages

    device = torch.device("cpu" if simulate else "cuda")
    donors = _square_donors(scale.donors, size := scale.sizes[-1])
    settings = _pipeline(size).filter.model_copy(update={"network": scale.network})
    network = initial_network(settings, device)
    network.module.eval()
    pipeline = _pipeline(size)
    packed = pack_block(_sample("mosaic", size, donors, scale.batch))
    with Renderer(donors) as renderer, torch.inference_mode():
        out = renderer.render(packed)
        images = torch.from_numpy(out[0].copy_to_host()) if simulate else torch.as_tensor(out[0], device=device)

        def score() -> None:
            for part in images.split(scale.scored):  # type: ignore[no-untyped-call]
                network.logits(part)

        def sample(start: int, count: int) -> Block:
            return sample_block(pipeline, "mosaic", range(start, start + count), donors)

        def render_and_score() -> None:
            rendered = RenderedImages(renderer, sample, pipeline.taxonomy.background + 1)
            infer(network, rendered, scale.batch, (size, size), scale.scored)
            rendered.class_pixels()

        row = {
            "bare": _rate(score, len(images), scale.seconds),
            "rendered": _rate(render_and_score, scale.batch, scale.seconds),
        }
    share = row["rendered"] / row["bare"]
    checks = {} if simulate else {"rendering and scoring: at least 90 % of the bare network": share >= _TARGET}
    return {**row, "of_bare": share, "checks": checks}


def _instructions(simulate: bool) -> dict[str, Any]:
    """Check that the compiled kernels hold no floating-point instruction, whose rounding could differ from the CPU."""
    if simulate:
        return {}
    from synthpipe.compose import gpu_kernels

    donors = mixed_donors()
    with Renderer(donors) as renderer:
        for strategy in STRATEGIES:
            renderer.render(pack_block(_sample(strategy, 64, donors, 1)))
    kernels = (gpu_kernels.render_mosaics, gpu_kernels.render_beziers)
    texts = [text for kernel in kernels for text in kernel.inspect_asm().values()]
    floats = sorted({name for text in texts for name in re.findall(r"\w[\w.]*\.f(?:16|32|64)\b", text)})
    return {"float": floats, "checks": {"the kernels compute with integers alone": bool(texts) and not floats}}


def _card(simulate: bool) -> str:
    if simulate:
        return "numba's simulator"
    from numba import cuda

    name = cuda.get_current_device().name if cuda.is_available() else b"no GPU"
    return name.decode() if isinstance(name, bytes) else str(name)


if __name__ == "__main__":
    main()
