"""The phantom data set: its files, its classes, and a second call with the same specification."""

from __future__ import annotations

import hashlib
import json
import re
import resource
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage

from synthpipe.config.pipeline import PatchesSection
from synthpipe.core.errors import ConfigError, StoreError
from synthpipe.core.records import Image, Mask
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.phantom import PHANTOM_TAXONOMY, PhantomSpec, PhantomSummary, slide_name, write_phantom
from synthpipe.patches.phantom.fields import grain, smooth_field, strands
from synthpipe.patches.phantom.tissue import render_slide
from synthpipe.patches.phantom.windows import choose_windows

SMALL = PhantomSpec(seed=3, slides=3, patches=12, size=48, images=1)
GLASS = PHANTOM_TAXONOMY.background


def read(path: Path) -> Image:
    with PillowImage.open(path) as picture:
        return np.asarray(picture)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomSummary]:
    directory = tmp_path_factory.mktemp("phantom")
    return directory, write_phantom(directory, PhantomSpec())


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_phantom(tmp_path / "phantom", SMALL)
    return tmp_path / "phantom"


class TestRenderSlide:
    def test_same_arguments_give_same_bytes_for_any_number_of_threads(self) -> None:
        threads = cv2.getNumThreads()
        try:
            cv2.setNumThreads(1)
            image, mask = render_slide(1, 2, 150, 130)
            cv2.setNumThreads(4)
            again, same_mask = render_slide(1, 2, 150, 130)
        finally:
            cv2.setNumThreads(threads)
        assert (image == again).all()
        assert (mask == same_mask).all()
        assert (image.shape, mask.shape) == ((150, 130, 3), (150, 130))
        assert image.dtype == mask.dtype == np.uint8

    def test_mask_is_the_one_of_old(self) -> None:
        _, mask = render_slide(2**64 - 1, 5, 96, 128)
        assert hashlib.sha256(mask.tobytes()).hexdigest()[:16] == "0f4591e003ea32b8"

    @pytest.mark.skipif(not cv2.__version__.startswith("4."), reason="OpenCV 5 draws other bytes")
    def test_image_is_the_one_of_old(self) -> None:
        image, _ = render_slide(2**64 - 1, 5, 96, 128)
        assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == "2ed9d57c94770f2a"

    @pytest.mark.parametrize("other", [(1, 3), (2, 2)])
    def test_seed_and_slide_each_change_everything(self, other: tuple[int, int]) -> None:
        (image, mask), (other_image, other_mask) = render_slide(1, 2, 96, 96), render_slide(*other, 96, 96)
        assert (image != other_image).any(axis=2).mean() > 0.9
        assert (mask != other_mask).any()

    def test_stain_varies_from_slide_to_slide(self) -> None:
        tissue = []
        for slide in range(8):
            image, mask = render_slide(0, slide, 200, 200)
            tissue.append(image[mask != GLASS].mean(axis=0))
        assert (np.std(tissue, axis=0) > 6).all()

    def test_glass_is_white_and_tissue_is_not(self) -> None:
        slides = [render_slide(0, slide, 300, 300) for slide in range(6)]
        bright = [(np.median(image[mask == index], axis=1) > 225).mean() for image, mask in slides for index in (0, 1)]
        glass = np.concatenate([image[mask == GLASS].mean(axis=1) for image, mask in slides])
        assert max(bright) < 0.2
        assert (glass > 225).mean() > 0.95

    @pytest.mark.parametrize("sides", [(48, 48), (48, 300), (301, 49)])
    def test_small_and_odd_slides_render(self, sides: tuple[int, int]) -> None:
        for slide in range(5):
            assert render_slide(0, slide, *sides)[1].shape == sides

    def test_too_small_slide_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="47 x 300 pixels: each side must be at least 48"):
            render_slide(0, 0, 47, 300)


def test_fields_have_mean_0_and_deviation_1() -> None:
    rng = np.random.Generator(np.random.Philox(0))
    ramp = np.broadcast_to(np.arange(600, dtype=np.float32), (600, 600)) / np.float32(5)
    fields = [smooth_field(rng, (600, 600), 8.3), grain(rng, (600, 600), 1.3), strands(rng, ramp.T, ramp)]
    for field in fields:
        assert field.dtype == np.float32
        assert abs(field.mean()) < 0.15
        assert 0.75 < field.std() < 1.3


class TestChooseWindows:
    @pytest.mark.parametrize("slide", range(4))
    def test_labels_agree_with_mask(self, slide: int) -> None:
        _, mask = render_slide(4, slide, 400, 420)
        windows = choose_windows(np.random.default_rng(slide), mask, 20, 64)
        assert len({(window.y, window.x) for window in windows}) == 20
        for window in windows:
            inside = mask[window.y : window.y + window.height, window.x : window.x + window.width]
            assert inside.shape == (window.height, window.width)
            assert all(58 <= side <= 83 for side in inside.shape)
            check_label(inside, window.classes)

    def test_bare_slide_is_refused(self) -> None:
        with pytest.raises(
            ConfigError, match="has 0 windows of about 50 pixels that can be labelled, but 3 are needed"
        ):
            choose_windows(np.random.default_rng(0), np.full((200, 200), GLASS, np.uint8), 3, 50)


def check_label(mask: Mask, classes: tuple[int, ...]) -> None:
    shares = np.bincount(mask.ravel(), minlength=4) / mask.size
    assert shares[GLASS] <= 0.6
    for index in range(3):
        assert shares[index] > 0.02 if index in classes else shares[index] <= 0.005


class TestSpec:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"seed": -1}, "phantom seed: got -1, expected an integer from 0"),
            ({"seed": 2**64}, "phantom seed"),
            ({"seed": 1.5}, r"phantom seed: got 1\.5"),
            ({"slides": 0}, "phantom slides: got 0, expected an integer from 1 to 10000"),
            (
                {"slides": 8, "patches": 7},
                "phantom patches: got 7, expected an integer from 8 .* at least one per slide",
            ),
            ({"size": 47}, "phantom size: got 47, expected an integer from 48 to 1024"),
            ({"size": 2000}, "phantom size"),
            ({"images": -1}, "phantom images"),
            ({"images": True}, "phantom images: got True"),
        ],
    )
    def test_nonsense_is_refused(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            PhantomSpec(**fields)


class TestLayout:
    def test_training_patches_load_with_labels_and_slides(self, default: tuple[Path, PhantomSummary]) -> None:
        directory, summary = default
        claims = read_layout(PatchesSection(root=str(directory), layout="wsss4luad"), PHANTOM_TAXONOMY)
        assert not any(claim.problems for claim in claims)
        counts: dict[str, int] = {}
        for claim in claims:
            label = PHANTOM_TAXONOMY.label(claim.classes)
            counts[label] = counts.get(label, 0) + 1
        assert counts == summary.training
        assert sum(counts.values()) == 400
        assert {claim.group for claim in claims} == {slide_name(index) for index in range(12)}

    def test_label_sets_are_balanced(self, default: tuple[Path, PhantomSummary]) -> None:
        training = default[1].training
        singles = [training[name] for name in PHANTOM_TAXONOMY.names]
        assert min(singles) >= 0.15 * 400
        assert 400 - sum(singles) >= 0.3 * 400

    def test_patches_are_windows_of_their_slides(self, small: Path) -> None:
        slides = {slide_name(index): render_slide(3, index, 192, 192, 48 * 2.6) for index in range(3)}
        paths = list((small / "1.training").iterdir())
        assert len(paths) == 12
        for path in paths:
            match = re.fullmatch(r"(\d{7})-(\d+)-(\d+)-\[([01]), ([01]), ([01])\]", path.stem)
            assert match
            patch, (image, mask) = read(path), slides[match[1]]
            assert all(43 <= side <= 62 for side in patch.shape[:2])
            window = np.s_[
                int(match[2]) : int(match[2]) + patch.shape[0], int(match[3]) : int(match[3]) + patch.shape[1]
            ]
            assert (image[window] == patch).all()
            check_label(mask[window], tuple(index for index in range(3) if match[4 + index] == "1"))
            masked = f"{match[1]}-{match[2]}-{match[3]}.png"
            assert (small / "masked" / "img" / masked).read_bytes() == path.read_bytes()
            with PillowImage.open(small / "masked" / "mask" / masked) as truth:
                assert (np.asarray(truth) == mask[window]).all() and truth.mode == "P"
        assert [len(list((small / "masked" / kind).iterdir())) for kind in ("img", "mask")] == [12, 12]

    def test_images_have_palette_masks_and_slides_of_their_own(self, default: tuple[Path, PhantomSummary]) -> None:
        directory, summary = default
        slides = [{path.name.split("-")[0] for path in (directory / "1.training").iterdir()}]
        assert (summary.validation, summary.test) == (6, 6)
        for folder in ("2.validation", "3.testing"):
            names = sorted(path.name for path in (directory / folder / "img").iterdir())
            assert names == sorted(path.name for path in (directory / folder / "mask").iterdir())
            assert len(names) == 6
            slides.append({name.split("-")[0] for name in names})
            present: set[int] = set()
            for name in names:
                with PillowImage.open(directory / folder / "mask" / name) as mask:
                    assert mask.mode == "P"
                    palette = mask.getpalette()
                    assert palette
                    assert palette[:12] == list(PHANTOM_TAXONOMY.palette()[:12])
                    indices = np.asarray(mask)
                assert read(directory / folder / "img" / name).shape == (*indices.shape, 3)
                present |= set(np.unique(indices).tolist())
            assert present == {0, 1, 2, GLASS}
        assert sum(map(len, slides)) == len(set.union(*slides)) == 24
        assert len({read(path).shape for path in directory.glob("[23].*/img/*.png")}) > 8


class TestWriting:
    def test_equal_specs_give_equal_bytes(self, small: Path, tmp_path: Path) -> None:
        write_phantom(tmp_path / "again", SMALL)
        assert tree(small) == tree(tmp_path / "again")

    def test_finished_one_is_left_alone(self, small: Path) -> None:
        times = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
        summary = write_phantom(small, SMALL, on_patch=lambda: pytest.fail("something was written"))
        assert not summary.written
        assert sum(summary.training.values()) == SMALL.patches
        assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == times

    def test_progress_counts_every_picture(self, tmp_path: Path) -> None:
        calls: list[int] = []
        assert write_phantom(tmp_path, SMALL, on_patch=lambda: calls.append(1)).written
        assert len(calls) == SMALL.pictures == 14

    @pytest.mark.parametrize("survivors", [0, 5, 13])
    def test_interrupted_writing_is_completed(self, small: Path, tmp_path: Path, survivors: int) -> None:
        calls: list[int] = []

        def interrupt() -> None:
            calls.append(1)
            if len(calls) > survivors:
                raise KeyboardInterrupt

        target = tmp_path / "interrupted"
        with pytest.raises(KeyboardInterrupt):
            write_phantom(target, SMALL, interrupt)
        assert not (target / "phantom.json").exists()
        half = next((target / "1.training").iterdir())
        half.rename(half.with_name(f".{half.name}.{'0' * 32}.partial"))
        assert write_phantom(target, SMALL).written
        assert tree(target) == tree(small)

    def test_interrupted_writing_of_another_spec_is_refused(self, small: Path) -> None:
        record = json.loads((small / "phantom.json").read_text())
        (small / "phantom.json").unlink()
        marker = {"format_version": record["format_version"], "spec": record["spec"]}
        (small / "phantom.unfinished.json").write_text(json.dumps(marker))
        with pytest.raises(StoreError, match=r"holds another phantom \(spec\.size: 48 -> 50\); delete this folder"):
            write_phantom(small, PhantomSpec(seed=3, slides=3, patches=12, size=50, images=1))
        assert write_phantom(small, SMALL).written

    def test_lost_patch_is_written_again(self, small: Path) -> None:
        before = tree(small)
        next((small / "1.training").iterdir()).unlink()
        assert write_phantom(small, SMALL).written
        assert tree(small) == before

    def test_another_spec_is_refused(self, small: Path) -> None:
        before = tree(small)
        with pytest.raises(StoreError, match=r"another phantom \(spec\.images: 1 -> 6; .*spec\.seed: 3 -> 0"):
            write_phantom(small, PhantomSpec())
        assert tree(small) == before

    @pytest.mark.parametrize("name", ["1.training/mine-[1, 0, 0].png", "2.validation/mask/1003370-0-0.png"])
    def test_foreign_patch_in_a_phantom_is_refused(self, small: Path, name: str) -> None:
        (small / name).write_bytes(b"")
        with pytest.raises(StoreError, match=rf"holds '{re.escape(name)}', not part of the phantom; remove them"):
            write_phantom(small, SMALL)

    def test_foreign_patch_in_an_unfinished_phantom_is_refused(self, small: Path) -> None:
        (small / "phantom.json").rename(small / "phantom.unfinished.json")
        record = json.loads((small / "phantom.unfinished.json").read_text())
        (small / "phantom.unfinished.json").write_text(json.dumps({**record, "files": []}))
        (small / "3.testing" / "notes.txt").write_bytes(b"")
        with pytest.raises(StoreError, match=r"holds '3\.testing/notes\.txt', not part of the phantom"):
            write_phantom(small, SMALL)

    def test_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        for name in "abcd":
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(StoreError, match="holds 'a', 'b', 'c' and 1 more but no phantom; choose a new or empty"):
            write_phantom(tmp_path, SMALL)
        assert len(tree(tmp_path)) == 4

    def test_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreError, match="is not a folder; choose another"):
            write_phantom(tmp_path / "file", SMALL)

    @pytest.mark.parametrize(
        "text", ["{", "[]", '{"spec": {}}', '{"spec": {}, "format_version": 1, "summary": {"a": 1}}']
    )
    def test_damaged_record_is_refused(self, small: Path, text: str) -> None:
        (small / "phantom.json").write_text(text)
        with pytest.raises(StoreError, match=r"phantom\.json: is damaged"):
            write_phantom(small, SMALL)

    @pytest.mark.parametrize("room", [0, 300])
    def test_full_disk_is_explained(self, tmp_path: Path, room: int) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(StoreError, match=r"cannot be written: File too large; allow larger files"):
                write_phantom(tmp_path, SMALL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert {path.name for path in tmp_path.iterdir()} == (
            {"phantom.unfinished.json", "1.training"} if room else set()
        )


Slides = list[tuple[Image, Mask]]


@pytest.fixture(scope="module")
def slides() -> tuple[Slides, Slides]:
    """Return slides to fit colours to, and other slides."""
    fitted = [render_slide(0, slide, 300, 300, 140.0) for slide in range(10)]
    return fitted, [render_slide(0, slide, 300, 300, 140.0) for slide in range(10, 20)]


class TestLearning:
    """On new slides, a threshold on colours must fail, and a classifier of textures must succeed."""

    @pytest.mark.parametrize("window", [1, 5, 15, 31])
    @pytest.mark.parametrize("classes", [(0, 1, 2), (0, 1, 2, 3)])
    def test_mean_colours_do_not_segment(
        self, slides: tuple[Slides, Slides], window: int, classes: tuple[int, ...]
    ) -> None:
        (colors, labels), (unseen, truth) = (_pixels(part, window, classes) for part in slides)
        means = np.stack([colors[labels == index].mean(axis=0) for index in classes])
        guess = np.argmin([((unseen - mean) ** 2).sum(axis=1) for mean in means], axis=0)
        overlap = [((guess == k) & (truth == k)).sum() / ((guess == k) | (truth == k)).sum() for k in classes]
        assert np.mean(overlap) < 0.6

    def test_texture_tells_patches_apart(self, default: tuple[Path, PhantomSummary]) -> None:
        directory, _ = default
        unseen, labels, colors, textures = [], [], [], []
        held_out = {slide_name(index) for index in range(8, 12)}
        for path in sorted((directory / "1.training").iterdir()):
            digits = path.stem[-8:-1].split(", ")
            if digits.count("1") == 1:
                image = read(path)
                unseen.append(path.name.split("-")[0] in held_out)
                labels.append(digits.index("1"))
                colors.append(image.reshape(-1, 3).mean(axis=0))
                textures.append(_texture(image))
        by_color, by_texture = (
            _accuracy(np.array(features), np.array(labels), np.array(unseen)) for features in (colors, textures)
        )
        assert by_texture > 0.85
        assert by_texture > by_color + 0.1


def _pixels(slides: Slides, window: int, classes: tuple[int, ...]) -> tuple[NDArray[np.float64], Mask]:
    colors = np.concatenate([cv2.blur(image, (window, window)).reshape(-1, 3) for image, _ in slides])
    labels = np.concatenate([mask.ravel() for _, mask in slides])
    counted = np.isin(labels, classes)
    return colors[counted].astype(np.float64), labels[counted]


def _texture(image: Image) -> list[float]:
    """Describe edges at three scales: energy, common direction and density."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    grey = (grey - grey.mean()) / grey.std()  # blind to colour, stain and contrast
    features = []
    for sigma in (1, 2, 4):
        smooth = cv2.GaussianBlur(grey, (0, 0), sigma)
        down, right = np.gradient(smooth)
        energy = (down**2).mean() + (right**2).mean()
        coherence = np.hypot((down**2).mean() - (right**2).mean(), 2 * (down * right).mean()) / energy
        busy = np.abs(cv2.Laplacian(smooth, -1)).mean() / np.hypot(down, right).mean()
        features += [float(np.log(energy)), float(coherence), float(busy)]
    return features


def _accuracy(features: NDArray[np.float64], labels: NDArray[np.int64], unseen: NDArray[np.bool_]) -> float:
    """Fit a logistic regression to training patches and return its accuracy on new patches."""
    seen = features[~unseen]
    scaled = np.column_stack([(features - seen.mean(axis=0)) / seen.std(axis=0), np.ones(len(features))])
    inputs, targets = scaled[~unseen], np.eye(3)[labels[~unseen]]
    weights = np.zeros((scaled.shape[1], 3))
    for _ in range(1000):
        odds = np.exp(inputs @ weights)
        weights -= inputs.T @ (odds / odds.sum(axis=1, keepdims=True) - targets) * (0.5 / len(inputs))
    return float(((scaled[unseen] @ weights).argmax(axis=1) == labels[unseen]).mean())
