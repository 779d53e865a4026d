from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from synthpipe.config.pipeline import Codec, StoreSection
from synthpipe.storage.integrity import DamageError, StoredArray, check_metadata, decode_shard, metadata_of
from synthpipe.storage.schema import CANDIDATE_ARRAYS, array
from synthpipe.storage.shards import object_path
from tests.storage.test_shards import SHARD, group_of, samples, write


@pytest.mark.parametrize("codec", get_args(Codec))
def test_a_shard_decodes_to_what_was_written_beyond_the_length_too(tmp_path: Path, codec: Codec) -> None:
    group = group_of(tmp_path, 6, StoreSection(shard=SHARD, image_codec=codec, mask_codec=codec))
    data = samples(2 * SHARD)
    for shard in range(2):
        write(group, shard, data)
    for name in CANDIDATE_ARRAYS:
        stored = StoredArray(tmp_path / "mosaic" / name, array(group, name))
        assert stored.shards() == {0, 1} and stored.object(1) == object_path(stored.array, 1)
        found = decode_shard(stored.array, stored.object(1).read_bytes())
        assert np.array_equal(found, data[name][SHARD:])


@pytest.mark.parametrize("name", CANDIDATE_ARRAYS)
def test_no_byte_of_a_shard_can_change_unseen(tmp_path: Path, name: str) -> None:
    group = group_of(tmp_path, SHARD)
    write(group, 0, samples(SHARD))
    stored = StoredArray(tmp_path / "mosaic" / name, array(group, name))
    whole = stored.object(0).read_bytes()
    decode_shard(stored.array, whole)
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        with pytest.raises(DamageError):
            decode_shard(stored.array, bytes(broken))
        with pytest.raises(DamageError):
            decode_shard(stored.array, whole[:place])
    for junk in (b"\0", b"junk", whole):
        with pytest.raises(DamageError):
            decode_shard(stored.array, whole + junk)
        with pytest.raises(DamageError):
            decode_shard(stored.array, junk + whole)


def test_a_sound_shard_of_another_array_is_refused(tmp_path: Path) -> None:
    group = group_of(tmp_path, SHARD)
    write(group, 0, samples(SHARD))
    stored = {name: StoredArray(tmp_path / "mosaic" / name, array(group, name)) for name in CANDIDATE_ARRAYS}
    for name, each in stored.items():
        for other in stored.keys() - {name}:
            with pytest.raises(DamageError):
                decode_shard(each.array, stored[other].object(0).read_bytes())


def test_metadata_may_differ_in_layout_alone(tmp_path: Path) -> None:
    group = group_of(tmp_path, SHARD)
    wanted = metadata_of(array(group, "mask"))
    assert (tmp_path / "mosaic" / "mask" / "zarr.json").read_bytes() == wanted
    assert (tmp_path / "mosaic" / "zarr.json").read_bytes() == metadata_of(group)
    fields = json.loads(wanted)
    check_metadata(json.dumps(fields, sort_keys=True).encode(), wanted)
    for change, place in (({"fill_value": 0}, "fill_value is 0"), ({"more": True}, "more is true"), ({}, "")):
        altered = {**fields, **change}
        if not change:
            altered["shape"][0] = 5
            place = r"shape\[0\] is 5; expected 4"
        with pytest.raises(DamageError, match=place):
            check_metadata(json.dumps(altered).encode(), wanted)
    with pytest.raises(DamageError, match="not JSON"):
        check_metadata(wanted[:-1], wanted)
