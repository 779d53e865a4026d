"""Fresh composites: every one is new, follows the set, and depends only on the set, the seed and its position."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage
from torch.utils.data import DataLoader

from synthpipe import open_curated
from synthpipe.cli.main import main
from synthpipe.compose import SAMPLER_VERSION, sample
from synthpipe.core.class_rule import has_enough_classes
from synthpipe.core.errors import ConfigError
from synthpipe.core.progress import Silent
from synthpipe.core.records import STRATEGIES, recipe_to_json
from synthpipe.curated import CuratedSet
from synthpipe.curated.fresh import ATTEMPTS, FreshBatch
from synthpipe.curated.fresh_torch import FreshDataset, FreshEpochs
from synthpipe.curated.materializing import materialize
from synthpipe.curated.torch_data import ResumableLoader
from synthpipe.filtering.scoring import Scorer
from synthpipe.storage.run import RunDirectory, read_json, write_json
from synthpipe.storage.stores import CuratedStore
from synthpipe.verification import verify
from tests.build.test_virtual import PLAIN, make, plain_run, virtual_run
from tests.conftest import pipeline, textured_donors

__all__ = ["plain_run", "virtual_run"]

Origin = tuple[int, int]


@pytest.fixture
def curated(plain_run: Path) -> CuratedSet:
    return open_curated(plain_run)


def fresh(curated: CuratedSet) -> FreshDataset:
    found = curated.to_torch(fresh=True)
    assert isinstance(found, FreshDataset)
    return found


def origins(batches: Iterator[Any] | list[Any]) -> list[Origin]:
    return [pair for batch in batches for pair in zip(batch["strategy"].tolist(), batch["index"].tolist(), strict=True)]


def pictures(images: np.ndarray) -> set[bytes]:
    return {hashlib.sha256(image.tobytes()).digest() for image in images}


def copied(source: Path, folder: Path, **changes: object) -> Path:
    """Copy the curated set of a run; a change of None removes an attribute."""
    path = Path(shutil.copytree(source / "curated.zarr", folder / "set.zarr"))
    fields = read_json(path / "zarr.json")
    fields["attributes"] = {key: value for key, value in (fields["attributes"] | changes).items() if value is not None}
    write_json(path / "zarr.json", fields)
    return path


def test_a_composite_depends_only_on_set_seed_and_position(curated: CuratedSet, plain_run: Path) -> None:
    whole = curated.fresh(seed=3).read(range(80))
    again = open_curated(plain_run).fresh(seed=3)
    order = np.random.default_rng(0).permutation(80).tolist()
    for start in range(0, 80, 7):
        part = order[start : start + 7]
        found = again.read(part)
        assert all(np.array_equal(getattr(found, name), getattr(whole, name)[part]) for name in FreshBatch._fields)
    unpickled = pickle.loads(pickle.dumps(again))
    assert np.array_equal(unpickled.read([41]).images, whole.images[[41]])
    assert not pictures(whole.images) & pictures(curated.fresh(seed=4).read(range(80)).images)


def test_an_origin_names_a_composite_and_its_recipe(curated: CuratedSet, plain_run: Path, tmp_path: Path) -> None:
    stream = curated.fresh(seed=5)
    made = stream.read([3, 30, 77])
    assert [index // ATTEMPTS for index in made.indices.tolist()] == [3, 30, 77]
    for number, (code, index) in enumerate(zip(made.strategies.tolist(), made.indices.tolist(), strict=True)):
        found = stream.composite(STRATEGIES[code], index)
        assert np.array_equal(found.image, made.images[number]) and np.array_equal(found.mask, made.masks[number])
        assert found.recipe.index == index
        output, mask = tmp_path / "image.png", tmp_path / "mask.png"
        arguments = ["replay", str(plain_run), STRATEGIES[code], str(index), "--fresh-seed", "5", "-o", str(output)]
        result = CliRunner().invoke(main, [*arguments, "--mask-output", str(mask)])
        assert result.exit_code == 0, result.output
        assert all(patch in result.output for patch in found.recipe.donors())
        with PillowImage.open(output) as image, PillowImage.open(mask) as shown:
            assert np.array_equal(np.asarray(image), made.images[number])
            assert np.array_equal(np.asarray(shown), made.masks[number])
    refused = CliRunner().invoke(
        main, ["replay", str(plain_run), "mosaic", str(2**63), "--fresh-seed", "5", "-o", "x.png"]
    )
    assert refused.exit_code == 1 and f"no fresh mosaic {2**63}; strategies are mosaic, bezier" in refused.output


def test_no_composite_is_in_the_run_or_occurs_twice(curated: CuratedSet) -> None:
    """Neither in two epochs, nor in two ranks, nor among the candidates of the build or of an extension."""
    shown: list[Any] = []
    for rank in (0, 1):
        loader = fresh(curated).loader(5, rank=rank, world=2)
        shown += [batch for _ in loader.epochs(3) for batch in loader]
    images = np.concatenate([batch["image"].permute(0, 2, 3, 1).numpy() for batch in shown])
    assert len(images) == len(pictures(images)) == len(set(origins(shown))) == 120
    renderer = fresh(curated).stream._renderer
    candidates = [renderer.render(STRATEGIES[code], index).image for code, index in origins(shown)]
    assert not pictures(images) & pictures(np.stack([*candidates, *curated.read(range(40))[0]]))


def test_strategies_classes_and_rules_are_those_of_the_set(curated: CuratedSet) -> None:
    made = curated.fresh().read(range(400))
    assert np.array_equal(np.bincount(made.strategies), 10 * np.bincount(curated.strategies))
    pixels = np.stack([np.bincount(mask.ravel(), minlength=4) for mask in made.masks]).astype(np.int32)
    assert has_enough_classes(pixels, 2, 0.01).all() and np.array_equal(made.labels, pixels[:, :3] > 0)
    shown, expected = (each.labels[each.strategies == 1].mean(0) for each in (made, curated))
    assert np.allclose(shown, expected, atol=0.05)


def pair_of(curated: CuratedSet, index: int) -> set[int]:
    return set(np.flatnonzero(curated.labels[index]).tolist())


def test_classes_are_as_frequent_as_in_a_set_that_a_filter_changed(curated: CuratedSet) -> None:
    """Sampling makes two pairs of classes equally often, but the set shows one of them in 19 of 20 Beziers."""
    common, other = (next(n for n in range(20, 40) if pair_of(curated, n) == pair) for pair in ({0, 1}, {1, 2}))
    part = curated.subset([*[common] * 19, other])
    made = part.fresh().read(range(20 * len(part)))
    assert np.abs(made.labels.mean(0) - part.labels.mean(0)).max() < 0.01


def test_weights_draw_the_samples_whose_places_are_taken(curated: CuratedSet) -> None:
    chosen = next(number for number in range(20, 40) if pair_of(curated, number) == {0, 1})
    weights = np.zeros(40)
    weights[chosen] = 1
    batches = list(fresh(curated).loader(20, weights=weights))
    assert all((batch["labels"].numpy() == [1, 1, 0]).all() and batch["strategy"].all() for batch in batches)
    assert len(set(origins(batches))) == 40


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_render_the_same_composites(curated: CuratedSet, method: str) -> None:
    keys = [[(position, position % 40) for position in range(start, start + 8)] for start in range(0, 48, 8)]
    data = fresh(curated)
    context = multiprocessing.get_context(method)
    batches = DataLoader(
        data, batch_sampler=keys, num_workers=2, multiprocessing_context=context, collate_fn=data.collate
    )
    expected = data.stream.read(range(48))
    assert np.array_equal(np.concatenate([batch["mask"] for batch in batches]), expected.masks)
    single = data[41]
    assert np.array_equal(single["image"].permute(1, 2, 0), expected.images[41])
    assert (int(single["strategy"]), int(single["index"])) == (expected.strategies[41], expected.indices[41])


def test_an_epoch_is_resumed_in_its_middle(curated: CuratedSet) -> None:
    """With other workers, and on one process instead of two."""

    def loader(batch_size: int = 8, workers: int = 0, rank: int = 0, world: int = 1) -> ResumableLoader:
        return fresh(curated).loader(batch_size, 2, workers, rank, world)

    through = loader()
    expected = [origins([batch]) for _ in through.epochs(2) for batch in through]
    begun = loader(workers=2)
    batches = [origins([batch]) for batch in begun]
    for number, batch in enumerate(begun):
        batches.append(origins([batch]))
        if number == 1:
            break
    state = json.loads(json.dumps(begun.state_dict()))
    assert state["fresh"] == "unfiltered"
    for resumed in (loader(), loader(workers=1)):
        resumed.load_state_dict(state)
        assert batches + [origins([batch]) for batch in resumed] == expected
    ranks = [loader(4, rank=rank, world=2) for rank in (0, 1)]
    for each in ranks:
        each.load_state_dict(state)
    steps = [origins(list(step)) for step in zip(*ranks, strict=True)]
    assert steps == expected[7:]


def test_a_state_of_fixed_composites_is_refused_and_the_other_way_round(curated: CuratedSet) -> None:
    fixed, new = curated.to_torch().loader(8), fresh(curated).loader(8)
    assert "fresh" not in fixed.state_dict()
    for one, other in ((fixed, new), (new, fixed)):
        with pytest.raises(ConfigError, match="a loader with another fresh"):
            one.load_state_dict(other.state_dict())


def test_a_transform_gets_arrays_and_origins_stay(curated: CuratedSet) -> None:
    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        assert set(sample) == {"image", "mask", "labels"}
        return {"flipped": sample["image"][:, ::-1].copy()}

    data = curated.to_torch(transform, fresh=True)
    assert isinstance(data, FreshDataset)
    batch = next(iter(data.loader(8, seed=6)))
    plain = next(iter(fresh(curated).loader(8, seed=6)))
    assert origins([batch]) == origins([plain])
    assert np.array_equal(batch["flipped"].numpy()[:, :, ::-1], plain["image"].permute(0, 2, 3, 1))


def test_a_fresh_data_set_has_no_length(curated: CuratedSet) -> None:
    """Else a DataLoader would show the same composites in each epoch."""
    with pytest.raises(TypeError, match="fresh composites have no end, so their data set has no length; use"):
        iter(DataLoader(fresh(curated), shuffle=True))
    with pytest.raises(IndexError, match="no fresh composite at position -1; positions are 0 to"):
        fresh(curated)[-1]


def test_a_part_uses_only_donors_of_its_slides(phantom: Path, tmp_path: Path) -> None:
    overrides = (*PLAIN, f"patches.root={phantom}", "mosaic=null", "curation.wanted=60", "store.pixels=virtual")
    whole = open_curated(make(tmp_path / "run", *overrides))
    with pytest.warns(UserWarning, match="this split drops"):
        split = whole.split({"train": 0.5, "val": 0.5})
    for name in ("train", "val"):
        stream = split[name].fresh()
        groups = {donor.group for donor in whole.fresh()._renderer.donors()}
        used = {
            stream._donors[patch].group  # type: ignore[index]
            for index in stream.read(range(50)).indices.tolist()
            for patch in stream.composite("bezier", index).recipe.donors()
        }
        assert used <= set(split.groups[name]) < groups


def test_rules_are_those_of_the_build(phantom: Path, tmp_path: Path) -> None:
    overrides = (*PLAIN, f"patches.root={phantom}", "curation.min_classes=3", "curation.min_class_share=0.15")
    more = ("bezier=null", "curation.wanted=8", "store.pixels=virtual")
    run = make(tmp_path / "run", *overrides, *more)
    moved = copied(run, tmp_path)
    made = open_curated(moved).fresh().read(range(40))
    pixels = np.stack([np.bincount(mask.ravel(), minlength=4) for mask in made.masks]).astype(np.int32)
    assert has_enough_classes(pixels, 3, 0.15).all() and (made.indices % ATTEMPTS > 0).any()
    (tmp_path / "strict").mkdir()
    strict = {"rule": "threshold", "threshold": 0.5, "min_classes": 3, "min_class_share": 0.4}
    impossible = open_curated(copied(run, tmp_path / "strict", curation=strict)).fresh()
    with pytest.raises(
        ConfigError, match=r"none of 10000 fresh mosaic composites follows .*: at least 3 classes with 40"
    ):
        impossible.read([0])


def test_sets_of_an_earlier_version_have_the_rules_of_their_run(plain_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(plain_run, tmp_path / "run"))
    store = CuratedStore.open(run / "curated.zarr", writable=True)
    expected = open_curated(run).fresh().read(range(8))
    store.forget_rules()
    assert not verify(run, 2, Silent()).faults
    assert np.array_equal(open_curated(run).fresh().read(range(8)).images, expected.images)
    moved = shutil.copytree(run / "curated.zarr", tmp_path / "set.zarr")
    with pytest.raises(
        ConfigError, match="without the rules of curation, and it is not in its run, which has them; use"
    ):
        open_curated(moved).fresh()


def test_sets_that_cannot_have_fresh_composites_are_refused(
    curated: CuratedSet, plain_run: Path, tmp_path: Path
) -> None:
    materialize(curated, tmp_path / "stored.zarr", Silent())
    with pytest.raises(ConfigError, match=r"its pixels are stored, so it has no donors .*; build with store\.pixels"):
        open_curated(tmp_path / "stored.zarr").to_torch(fresh=True)
    with pytest.raises(ConfigError, match="it has no samples, expected at least one"):
        curated.subset([]).fresh()
    classes = read_json(plain_run / "curated.zarr/zarr.json")["attributes"]["classes"]
    classes[0]["name"] = "carcinoma"
    with pytest.raises(
        ConfigError, match=r"it was edited: its classes are carcinoma, .*, but its settings have tumour"
    ):
        open_curated(copied(plain_run, tmp_path, classes=classes)).fresh()
    edited = Path(shutil.copytree(plain_run / "curated.zarr", tmp_path / "edited.zarr"))
    store = CuratedStore.open(edited, writable=True)
    labels = store.read("labels", slice(0, 8))
    labels[0] = [0, 0, 1]
    store.write("labels", 0, labels)
    with pytest.raises(
        ConfigError, match="it was edited: the labels of sample 0 name normal, but its mask shows tumour"
    ):
        open_curated(edited).fresh()


def scores(run: Path, made: FreshBatch) -> np.ndarray:
    """Score composites as the build does."""
    found = np.empty(len(made.images), np.float32)
    for code, strategy in enumerate(STRATEGIES):
        chosen = made.strategies == code
        found[chosen] = Scorer.load(RunDirectory(run).weights(strategy), "cpu").score(made.images[chosen], 8)
    return found


def test_the_filter_keeps_what_it_kept_in_the_set(virtual_run: Path) -> None:
    """Rule top_k: no score is below the lowest one of the strategy in the set; also in a part of the set."""
    curated = open_curated(virtual_run)
    best = curated.subset(np.argsort(-curated.p_real)[:12])
    for part in (curated, best):
        made = part.fresh(seed=1, kind="filtered").read(range(24))
        least = [curated.p_real[curated.strategies == code].min() for code in (0, 1)]
        assert (scores(virtual_run, made) >= np.array(least)[made.strategies]).all()
        assert (made.indices % ATTEMPTS > 0).any()
    plain = curated.fresh(seed=1).read(range(24))
    assert (scores(virtual_run, plain) < np.array(least)[plain.strategies]).any()
    again = curated.fresh(seed=1, kind="filtered")
    assert np.array_equal(again.read([7]).images[0], again.read(range(5, 9)).images[2])


def test_a_set_can_bring_its_filter_along(virtual_run: Path, tmp_path: Path) -> None:
    """And a threshold accepts higher scores only."""
    p_real = open_curated(virtual_run).p_real
    threshold = float(np.median(p_real))
    rules = {"rule": "threshold", "threshold": threshold, "min_classes": 2, "min_class_share": 0.01}
    path = copied(virtual_run, tmp_path, curation=rules)
    shutil.copytree(virtual_run / "filter", path / "filter")
    curated = open_curated(path)
    made = curated.fresh(kind="filtered").read(range(12))
    assert (scores(virtual_run, made) > threshold).all()
    loader = curated.to_torch(fresh="filtered").loader(6, workers=2)
    shown = list(loader)
    assert loader.state_dict()["fresh"] == "filtered" and len(set(origins(shown))) == 24
    positions, samples = zip(*(key for batch in FreshEpochs(24, 6) for key in batch), strict=True)
    expected = curated.fresh(kind="filtered").read(positions, samples)
    assert [index for _, index in origins(shown)] == expected.indices.tolist()


def test_a_filter_that_did_not_choose_the_set_is_refused(plain_run: Path, virtual_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="its mosaic composites have no scores, so no filter chose them; use fresh: unf"
    ):
        open_curated(plain_run).fresh(kind="filtered")
    path = copied(virtual_run, tmp_path)
    with pytest.raises(ConfigError, match=r"its mosaic filter is neither .*set\.zarr/filter/mosaic.* nor .*; copy the"):
        open_curated(path).fresh(kind="filtered")
    shutil.copytree(virtual_run / "filter", tmp_path / "filter")
    assert open_curated(path).fresh(kind="filtered").filter
    shutil.copy(tmp_path / "filter/bezier.safetensors", tmp_path / "filter/mosaic.safetensors")
    with pytest.raises(ConfigError, match=r"mosaic\.safetensors: gives sample 0 of .* the score .*, so another filter"):
        open_curated(path).fresh(kind="filtered")
    with pytest.raises(ConfigError, match="fresh: got 'all', expected unfiltered or filtered"):
        open_curated(path).to_torch(fresh="all")  # type: ignore[arg-type]


def test_golden_fresh_recipes() -> None:
    """Fresh composites must not change within a version of the sampler, so that trainings can be resumed."""
    recipes = [sample(pipeline(), each, 70_000, textured_donors(), "fresh", 7) for each in STRATEGIES]
    text = "\n".join(map(recipe_to_json, recipes))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN_RECIPES[SAMPLER_VERSION]


GOLDEN_RECIPES = {1: "3e2a13df011294f9620ea272ba27b5f888ded0418d390ffe47e47b7e1c03a31a"}
