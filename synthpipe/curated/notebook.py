"""HTML that notebooks show for a run, a curated set and a sample, with a few small pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import cv2
import numpy as np

from synthpipe.core.display import without_secrets
from synthpipe.core.display_names import STRATEGY, candidate, stage
from synthpipe.core.pictures import data_uri, jpeg, overlay, palette_png
from synthpipe.core.records import Image, Mask, Reason
from synthpipe.core.spacing import evenly_spaced
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.core.verdict_text import below_threshold_warning, verdict_text

if TYPE_CHECKING:
    from synthpipe.curated.curated_set import CuratedSet
    from synthpipe.curated.description import Sample
    from synthpipe.curated.run import Run

_LARGEST = 256  # pixels of the longer side of a single sample
_THUMBNAIL, _THUMBNAILS = 128, 6
_MEASURED = 256  # samples whose pixels are counted, so that a large set is shown quickly


def sample_html(sample: Sample) -> str:
    """Return HTML with image, mask and overlay of a sample, and the share of each class."""
    image, mask = _small(sample.image, _LARGEST), _small(sample.mask, _LARGEST)
    pictures = {
        "image": _photo(image),
        "mask": data_uri("image/png", palette_png(mask, sample.taxonomy)),
        "overlay": _photo(overlay(image, mask, sample.taxonomy)),
    }
    values = len(sample.taxonomy) + 1
    shares = np.bincount(sample.mask.ravel(), minlength=values)[:values] / sample.mask.size
    rows = [(_class(sample.taxonomy, value), f"{share:.1%}") for value, share in enumerate(shares) if share > 0]
    height, width = sample.mask.shape
    return _block(
        f"composite of {height} &times; {width} pixels", _figures(pictures), _table(("class", "pixels"), rows)
    )


def curated_html(curated: CuratedSet) -> str:
    """Return HTML with counts and classes of a set, and a few samples spread over it."""
    height, width = curated.size
    counts = ", ".join(f"{count:,} {STRATEGY.get(name, name)}" for name, count in curated.counts().items())
    slides = len(np.unique(curated.donor_groups[curated.donor_groups >= 0]))
    title = (
        f"<b>{escape(without_secrets(curated.path))}</b>: {len(curated):,} samples ({counts}) of {height} &times; "
        f"{width} pixels, from {slides:,} {'slide or patient' if slides == 1 else 'slides or patients'}"
    )
    if not len(curated):
        return _block(title)
    measured = curated.subset(evenly_spaced(len(curated), _MEASURED).tolist())
    pixels = measured.class_pixels.sum(0)
    samples = [*(f"{count:,} ({count / len(curated):.1%})" for count in (curated.labels > 0).sum(0)), ""]
    rows = [
        (_class(curated.taxonomy, value), samples[value], f"{share:.1%}")
        for value, share in enumerate(pixels / pixels.sum())
        if share or samples[value]
    ]
    head = "pixels" if len(measured) == len(curated) else f"pixels, in {len(measured)} samples"
    return _block(title, _table(("class", "samples with it", head), rows), _thumbnails(curated))


def run_html(run: Run) -> str:
    """Return HTML with the progress of a run, the verdicts of its candidates and, if finished, its curated set."""
    journal = run.journal
    state = "finished" if run.finished else "not finished"
    path, fingerprint = escape(without_secrets(run.path)), run.fingerprint[:12]
    title = f"<b>{path}</b>: run of {escape(run.name)}, {state}; fingerprint {fingerprint}…"
    rows, warnings = [], list[str]()
    for strategy, entry in journal["strategies"].items():
        verdicts: dict[Reason, int] = entry.get("verdicts") or {}
        others = ", ".join(
            f"{count:,} {verdict_text(reason, run.pipeline.ranked)}"
            for reason, count in verdicts.items()
            if count and reason != "kept"
        )
        kept = verdicts.get("kept", 0)
        numbers = (f"{entry.get('candidates', 0):,}", f"{kept:,}", others or "none")
        if below := entry.get("below_threshold"):
            warnings.append(
                f"<p>Warning: {escape(below_threshold_warning(strategy, below, run.pipeline.curation.threshold))}.</p>"
            )
        rows.append(tuple(map(escape, (STRATEGY[strategy], *numbers))))
    seconds = ", ".join(f"{escape(stage(name))} {spent:.1f} s" for name, spent in journal["stages"].items())
    parts = [_table(("strategy", "candidates", "kept", "not kept"), rows)] if rows else []
    parts += warnings
    parts += [f"<p>{seconds}</p>"] if seconds else []
    return _block(title, *parts, *([curated_html(run.curated)] if run.finished else []))


def _thumbnails(curated: CuratedSet) -> str:
    indices = evenly_spaced(len(curated), _THUMBNAILS).tolist()
    pictures = {}
    for index in indices:
        sample, origin = curated[index], curated.origin(index)
        image, mask = _small(sample.image, _THUMBNAIL), _small(sample.mask, _THUMBNAIL)
        name = f"{index}: {candidate(*origin)}" if origin else f"{index}: real"
        pictures[name] = _photo(overlay(image, mask, curated.taxonomy))
    return _figures(pictures)


def _small(picture: Image | Mask, largest: int) -> Image | Mask:
    height, width = picture.shape[:2]
    scale = largest / max(height, width)
    if scale >= 1:
        return picture
    how = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def _photo(image: Image) -> str:
    return data_uri("image/jpeg", jpeg(image))


def _class(taxonomy: Taxonomy, value: int) -> str:
    """Return HTML with a class's colour and name; the value after the last class is the background."""
    known = value < len(taxonomy)
    color = "#{:02x}{:02x}{:02x}".format(*(taxonomy.classes[value].color if known else taxonomy.background_color))
    name = taxonomy.names[value] if known else "background (ignored)"
    swatch = "display:inline-block;width:.8em;height:.8em;margin-right:.4em;border:1px solid #888;background:"
    return f'<span style="{swatch}{color}"></span>{escape(name)}'


def _figures(pictures: dict[str, str]) -> str:
    """Return HTML with pictures, given as URLs, and their names below."""
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:.5em">'
        + "".join(
            f'<figure style="margin:0"><img src="{address}" alt="{escape(name)}" style="min-width:96px;'
            f'image-rendering:pixelated"><figcaption>{escape(name)}</figcaption></figure>'
            for name, address in pictures.items()
        )
        + "</div>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; its cells must be HTML."""
    cell = ' style="text-align:left"'
    top = "".join(f"<th{cell}>{name}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td{cell}>{value}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _block(title: str, *parts: str) -> str:
    return f"<div><p>{title}</p>{''.join(parts)}</div>"
