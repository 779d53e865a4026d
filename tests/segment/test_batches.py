from __future__ import annotations

import numpy as np
import pytest
import torch

from synthpipe.curated import CuratedSet
from synthpipe.segment.batches import Steps, batches, steps_per_epoch
from synthpipe.segment.masks import masked_images
from synthpipe.segment.sources import Composites, MaskedCrops, RealPatches
from tests.segment.conftest import DataSet, settings


@pytest.fixture(scope="module")
def steps(data_set: DataSet) -> Steps:
    data = data_set.training_data()
    return Steps(settings(), data.composites, data.real)


def test_a_batch_has_composites_first_and_then_real_patches(steps: Steps, data_set: DataSet) -> None:
    batch = steps[0]
    assert batch["images"].shape == (8, 3, 32, 32) and batch["images"].dtype == torch.uint8
    assert batch["composites"] == 4 and batch["views"].shape == (8, 7) and batch["labels"].shape == (8, 3)
    assert int(batch["masks"][:4].max()) <= 3 and set(batch["masks"][4:].flatten().tolist()) <= {0, 3}
    curated = CuratedSet(data_set.curated)
    images = [torch.from_numpy(sample.image).permute(2, 0, 1) for sample in curated]
    found = [next(n for n, each in enumerate(images) if torch.equal(each, image)) for image in batch["images"][:4]]
    for place, index in enumerate(found):
        assert torch.equal(batch["masks"][place], torch.from_numpy(curated[index].mask))
        assert batch["labels"][place].tolist() == curated.labels[index].tolist()


def test_each_pass_shows_every_sample_once_in_another_order(data_set: DataSet) -> None:
    data = data_set.training_data()
    steps = Steps(settings(composites=6, real=0), data.composites, data.real)
    passes = [torch.cat([steps[step]["images"] for step in range(start, start + 4)]) for start in (0, 4)]
    sums = [[int(image.long().sum()) for image in images] for images in passes]
    everything = sorted(int(sample.image.astype(int).sum()) for sample in CuratedSet(data_set.curated))
    assert sorted(sums[0]) == sorted(sums[1]) == everything and sums[0] != sums[1]


def test_a_step_is_the_same_whoever_reads_it(steps: Steps) -> None:
    """In any order, by any number of processes, from any step on."""
    expected = {step: steps[step] for step in (5, 2, 3, 4)}
    for workers in (0, 2):
        for number, batch in enumerate(batches(steps, 2, 6, workers, pin_memory=False)):
            wanted = expected[2 + number]
            for name in ("images", "masks", "labels", "views"):
                assert torch.equal(batch[name], wanted[name]), name


def test_devices_share_a_steps_batch_out(steps: Steps, data_set: DataSet) -> None:
    data = data_set.training_data()
    shares = [Steps(settings(), data.composites, data.real, rank, 2)[1] for rank in (0, 1)]
    whole = steps[1]
    assert [share["composites"] for share in shares] == [2, 2]
    for name in ("images", "masks", "labels", "views"):
        values = whole[name]
        for rank, share in enumerate(shares):
            expected = torch.cat([values[:4][rank::2], values[4:][rank::2]])
            assert torch.equal(share[name], expected), name


def test_another_seed_gives_other_batches(steps: Steps, data_set: DataSet) -> None:
    data = data_set.training_data()
    other = Steps(settings(seed=1), data.composites, data.real)[0]
    assert not torch.equal(other["images"], steps[0]["images"])
    assert not torch.equal(other["views"], steps[0]["views"])


def test_an_epoch_is_a_pass_over_the_first_source(data_set: DataSet) -> None:
    data = data_set.training_data()
    assert data.composites and data.real
    assert steps_per_epoch(settings(steps_per_epoch=None, composites=5), [data.composites, data.real]) == 5
    assert steps_per_epoch(settings(), [data.composites]) == 3


def test_two_curated_sets_are_one_source(data_set: DataSet) -> None:
    one = CuratedSet(data_set.curated)
    two = Composites([one, one])
    indices = [3, 25, 47, 24, 0]
    images, masks, labels = two.read(indices, [])
    for place, index in enumerate(indices):
        sample = one[index % 24]
        assert np.array_equal(images[place], sample.image) and np.array_equal(masks[place], sample.mask)
        assert np.array_equal(labels[place], sample.labels)
    assert len(two) == 48


def test_crops_of_masked_images_show_the_truth(data_set: DataSet) -> None:
    images = masked_images(data_set.validation)
    source = MaskedCrops(images, data_set.description)
    rngs = [np.random.default_rng(seed) for seed in range(20)]
    crops, masks, labels = source.read([number % 2 for number in range(20)], rngs)
    assert len(np.unique(crops.reshape(20, -1), axis=0)) == 20
    for crop, mask, label, number in zip(crops, masks, labels, range(20), strict=True):
        image, truth = images[number % 2].read(data_set.description.taxonomy)
        places = np.lib.stride_tricks.sliding_window_view(image, (32, 32, 3))[:, :, 0]
        y, x = np.argwhere((places == crop).all((2, 3, 4)))[0]
        assert np.array_equal(truth[y : y + 32, x : x + 32], mask)
        assert [index in mask for index in range(3)] == label.astype(bool).tolist()


def test_crops_are_the_same_whether_their_images_are_held(data_set: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    images = masked_images(data_set.validation)

    def crops() -> list[np.ndarray]:
        source = MaskedCrops(images, data_set.description)
        return [source.read([0, 1, 0, 1], [np.random.default_rng(seed) for seed in range(4)])[0] for _ in range(2)]

    held = crops()
    whole = images[0].read(data_set.description.taxonomy)
    monkeypatch.setattr("synthpipe.segment.sources._HELD", sum(part.nbytes for part in whole))  # of one alone
    assert np.array_equal(held, crops()) and np.array_equal(held[0], held[1])


def test_real_patches_are_brought_to_the_canvas_with_their_glass(data_set: DataSet) -> None:
    patches = data_set.catalog().patches
    images, masks, labels = RealPatches(patches, data_set.description).read(range(len(patches)), [])
    assert images.shape == (40, 32, 32, 3) and set(np.unique(masks)) == {0, 3}
    assert images[masks == 3].mean() > 225 > images[masks == 0].mean()
    assert [tuple(np.flatnonzero(row)) for row in labels] == [patch.classes for patch in patches]
