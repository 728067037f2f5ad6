"""A group grows by whole shards: what is stored stays, what is new is missing, and readers see one array."""

import json

import numpy as np
import pytest
import xarray as xr

from taba_core.artifacts.layout import Extent
from taba_core.errors import StoreError
from taba_core.store import Store

SHAPE = (3, 4, 4)
WHOLE = Extent(12, 4)


@pytest.fixture
def grown(store, generation, coords, blocks):
    """Three written shards of four samples each, then room for five."""
    names = ["noise", "x_t", "class_id"]
    group = store.ensure(generation, names, WHOLE, SHAPE, coords)
    for shard in range(3):
        group.record(group.write_shard(shard, blocks(group, shard)))
    return store.ensure(generation, names, Extent(20, 4), SHAPE, coords)


def test_only_the_new_shards_are_missing_and_the_old_files_are_as_they_were(grown, blocks):
    assert sorted(grown.missing()) == [3, 4]
    assert grown.verify(deep=True) == [] or {p.kind for p in grown.verify(deep=True)} == {"missing"}
    np.testing.assert_array_equal(grown.read_samples(0, 12, ["noise"])["noise"][:, 0, 0, 0], np.arange(12))


def test_a_grown_group_is_byte_for_byte_one_that_was_made_as_large(
    grown, tmp_path, generation, coords, blocks
):
    for shard in (3, 4):
        grown.record(grown.write_shard(shard, blocks(grown, shard)))
    names = ["noise", "x_t", "class_id"]
    fresh = Store.open(tmp_path / "fresh", mode="a").ensure(generation, names, Extent(20, 4), SHAPE, coords)
    for shard in range(5):
        fresh.record(fresh.write_shard(shard, blocks(fresh, shard)))

    def files(group):
        return {str(p.relative_to(group.path)): p.read_bytes() for p in group.path.rglob("*") if p.is_file()}

    assert files(grown) == files(fresh)
    assert grown.missing() == {} and grown.verify(deep=True) == []


def test_a_variable_that_nobody_asks_more_of_is_not_missing_and_says_why_it_ends(
    store, generation, coords, blocks
):
    group = store.ensure(generation, ["noise", "x_t"], WHOLE, SHAPE, coords)
    for shard in range(3):
        block = blocks(group, shard)
        group.record(group.write_shard(shard, {name: block[name] for name in ("noise", "x_t")}))
    group = store.ensure(generation, ["noise"], Extent(20, 4), SHAPE, coords)
    assert group.missing() == {3: ("noise",), 4: ("noise",)}
    with pytest.raises(StoreError, match="only the first 12 samples of 'x_t' were asked for so far"):
        group.read_samples(12, 16, ["x_t"])
    lazy = xr.open_zarr(group.place.zarr_store(), consolidated=False, chunks=None)
    assert lazy.sizes["sample"] == 20 and np.isnan(lazy.x_t[12:].values).all()


def test_growth_that_was_interrupted_is_completed(store, generation, coords, grown):
    meta = grown.path / "zarr.json"
    attrs = json.loads(meta.read_text())
    attrs["attributes"]["num_samples"] = 12  # the driver died before the group said that it has grown
    meta.write_text(json.dumps(attrs))
    again = store.ensure(generation, ["noise"], Extent(20, 4), SHAPE, coords)
    assert again.extent == Extent(20, 4)
    assert json.loads(meta.read_text())["attributes"]["num_samples"] == 20


@pytest.mark.follows(" samples in shards of ", ". Use another --store.")
def test_a_group_never_shrinks_and_keeps_the_size_of_its_shards(grown, store, generation, coords, tmp_path):
    assert store.ensure(generation, ["noise"], WHOLE, SHAPE, coords).extent == Extent(20, 4)
    with pytest.raises(
        StoreError, match=r"holds 20 samples in shards of 4; it cannot become 24 in shards of 8"
    ):
        store.ensure(generation, ["noise"], Extent(24, 8), SHAPE, coords)
    another = Store.open(tmp_path / "another", mode="a")
    assert another.ensure(generation, ["noise"], Extent(24, 8), SHAPE, coords).extent == Extent(24, 8)
