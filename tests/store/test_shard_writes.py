import errno
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.layout import Extent
from taba_core.artifacts.regions import PlainRegions
from taba_core.errors import StoreError, UsageError, WorkError
from taba_core.model_spec import ModelSpec
from taba_core.store import Receipt, Store

EXTENT = Extent(10, 4)  # as in conftest.py


def files_below(path):
    return sorted(p.name for p in path.rglob("*") if p.is_file())


def test_what_is_written_is_read_back(filled, blocks):
    for shard in range(filled.num_shards):
        wanted = blocks(filled, shard)
        found = filled.read_shard(shard, wanted)
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])
            assert found[name].dtype == wanted[name].dtype


def test_samples_are_read_across_shards_and_steps_in_the_asked_order(filled):
    found = filled.read_samples(3, 9, ["x_t", "noise"], steps=[5, 1])
    assert found["x_t"].shape == (6, 2, 3, 4, 4) and found["noise"].shape == (6, 3, 4, 4)
    np.testing.assert_array_equal(found["noise"][:, 0, 0, 0], [3, 4, 5, 6, 7, 8])
    # sample 3 at levels 5 and 1: 3.05, 3.01
    np.testing.assert_allclose(found["x_t"][0, :, 0, 0, 0], [3.05, 3.01], rtol=1e-6)


@pytest.mark.parametrize("steps", [[2, 3, 4], [1], [4, 2], [5, 5]])
def test_chosen_steps_equal_the_same_rows_of_all(filled, steps):
    everything = filled.read_samples(0, 10, ["x_t"])["x_t"]
    chosen = filled.read_samples(0, 10, ["x_t"], steps=steps)["x_t"]
    np.testing.assert_array_equal(chosen, everything[:, np.array(steps) - 1])


def test_every_shard_file_has_the_planned_size_even_the_short_last_one(filled):
    for name in filled.variables:
        array = filled.array(name)
        assert array.sizes() == [(shard, array.layout.shard_bytes) for shard in range(3)]


def test_a_receipt_says_what_is_on_disk_and_survives_json(group, blocks):
    receipt = group.write_shard(2, blocks(group, 2), {"device": "cpu"})
    assert Receipt.from_json(receipt.to_json()) == receipt
    for name, record in receipt.variables.items():
        file = group.path / name / record.file
        assert file.stat().st_size == record.bytes
        assert group.array(name).file(2).crc32() == record.crc
    assert receipt.info == {"device": "cpu"} and receipt.worker.endswith(f":{os.getpid()}")


def test_writing_the_same_values_again_gives_the_same_bytes(group, blocks):
    first = group.write_shard(1, blocks(group, 1)).variables
    assert group.write_shard(1, blocks(group, 1)).variables == first


def test_a_group_can_be_sent_to_a_worker(group, blocks):
    sent = pickle.loads(pickle.dumps(group))
    receipt = sent.write_shard(0, blocks(group, 0))
    group.record(receipt)
    assert 0 not in group.missing()


def test_an_all_plain_or_all_other_mask_counts_as_present(store, generation):
    # Zarr leaves chunks equal to the fill value out by default; constant shards must not look missing.
    regions = store.ensure(PlainRegions(source=generation), ["region"], EXTENT, (3, 4, 4))
    for shard, value in enumerate([0, 1, 0]):
        start, stop = regions.shard_range(shard)
        regions.record(regions.write_shard(shard, {"region": np.full((stop - start, 4, 4), value, "uint8")}))
    assert regions.missing() == {}


def test_a_shard_equal_to_the_fill_value_is_stored(tmp_path, generation):
    group = Store.open(tmp_path / "s", "a").ensure(
        generation, ["decoded"], EXTENT, (4, 4, 4), decoded_shape=(3, 8, 8)
    )
    group.record(group.write_shard(0, {"decoded": np.zeros((4, 3, 8, 8), "uint8")}))  # black = fill value 0
    assert 0 not in group.missing()


def test_the_zarr_trap_this_guards_against_is_real(tmp_path):
    # The setting made at creation is lost when the array is opened again: the chunk is left out.
    path = str(tmp_path / "a")
    zarr.create_array(
        path, shape=(4,), chunks=(4,), dtype="u1", fill_value=0, config={"write_empty_chunks": True}
    )
    zarr.open_array(path, mode="r+")[...] = np.zeros(4, "u1")
    assert not (tmp_path / "a" / "c" / "0").exists()


@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 4), slice(0, 1)])
@pytest.mark.follows("; write it whole.")
def test_part_of_a_shard_is_refused_and_the_whole_one_is_written(group, blocks, rows):
    part = {"noise": blocks(group, 0)["noise"][rows]}
    with pytest.raises(
        UsageError, match=r"shape \(\d, 3, 4, 4\), but a whole shard is \(4, 3, 4, 4\); write it whole"
    ):
        group.write_shard(0, part)
    group.record(group.write_shard(0, blocks(group, 0)))
    assert 0 not in group.missing()


def test_why_parts_are_refused_two_writers_of_one_shard_lose_rows(tmp_path):
    # Each writer reads the shard, changes its row, writes the shard: the second undoes the first.
    path = str(tmp_path / "a")
    zarr.create_array(path, shape=(2, 8), chunks=(1, 8), shards=(2, 8), dtype="f4", fill_value=float("nan"))
    file = tmp_path / "a" / "c" / "0" / "0"
    array = zarr.open_array(path, mode="r+")
    array[0] = 1.0
    seen_by_both = file.read_bytes()
    array[1] = 2.0
    file.write_bytes(seen_by_both)  # the other writer, who started before row 1 was there
    assert np.isnan(zarr.open_array(path, mode="r")[1]).all()


@pytest.mark.follows("; convert it.")
def test_wrong_types_names_and_shards_are_refused(group, blocks):
    noise = blocks(group, 0)["noise"]
    with pytest.raises(UsageError, match="type float64, but the store holds float32; convert it"):
        group.write_shard(0, {"noise": noise.astype("float64")})
    assert group.write_shard(0, {"noise": noise.astype("float64").astype("float32")})
    with pytest.raises(UsageError, match="unknown generation variable 'nois'"):
        group.write_shard(0, {"nois": noise})
    with pytest.raises(StoreError, match=r"no variable 'image' in .*Run the study that needs it"):
        group.write_shard(0, {"image": noise})
    with pytest.raises(UsageError, match="shards are 0 to 2"):
        group.write_shard(3, {"noise": noise})
    with pytest.raises(UsageError, match="no arrays to write"):
        group.write_shard(0, {})


def test_values_that_are_not_finite_are_refused_and_nothing_is_written(group, blocks):
    bad = {name: array.copy() for name, array in blocks(group, 1).items()}
    bad["x_t"][2, 3, 0, 1, 1] = np.nan
    bad["x_t"][3, 0, 0, 0, 0] = np.inf
    # shard 1 starts at sample 4, so row 2 is sample 6
    with pytest.raises(
        WorkError, match=r"shard 1 of 'x_t' .*2 of 960 values are not finite \(first: sample 6\)"
    ):
        group.write_shard(1, bad)
    assert not list(group.path.glob("*/c.1*"))


def test_the_value_that_means_unwritten_is_refused(store, generation):
    regions = store.ensure(PlainRegions(source=generation), ["region"], EXTENT, (3, 4, 4))
    with pytest.raises(WorkError, match="64 of 64 values are 255, which means not written"):
        regions.write_shard(0, {"region": np.full((4, 4, 4), 255, "uint8")})


@pytest.mark.parametrize(
    ("code", "name", "way_out"),
    [
        (errno.ENOSPC, "ENOSPC", "Free space or use another --store"),
        (errno.EDQUOT, "EDQUOT", "Free some of your quota"),
        (errno.EROFS, "EROFS", "Use a --store on a writable file system"),
        (errno.EACCES, "EACCES", "Fix the permissions"),
    ],
)
def test_a_file_system_that_refuses_leaves_nothing_partial(group, blocks, monkeypatch, code, name, way_out):
    before = files_below(group.path)

    def refuse(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(
        WorkError, match=rf"cannot write .*c\.0.*\({name}\).*Nothing partial was kept. {way_out}"
    ) as e:
        group.write_shard(0, blocks(group, 0))
    assert e.value.__cause__.errno == code
    assert files_below(group.path) == before


LIMITED = """
import resource, sys, numpy as np
from taba_core.errors import WorkError
from taba_core.artifacts.base import from_attrs
from taba_core.store import Store
group = Store.open(sys.argv[1]).artifacts()[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))   # x_t shards have 3944 bytes
try:
    group.write_shard(0, {"x_t": np.zeros((4, 5, 3, 4, 4), "float32")})
except WorkError as error:
    print(error)
"""


def test_a_real_limit_of_the_operating_system_is_reported_the_same_way(group):
    command = [sys.executable, "-c", LIMITED, str(group.store)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert "File too large (EFBIG). Nothing partial was kept. Raise the file size limit" in done.stdout, (
        done.stderr
    )
    assert not list(group.path.glob("x_t/*partial")) and 0 in group.missing(["x_t"])


def test_hundred_megabytes_take_seconds(tmp_path):
    spec = Generation(model=ModelSpec(name="m"), batch_size=64, num_inference_steps=100, seed=0)
    group = Store.open(tmp_path / "s", "a").ensure(spec, ["x_t"], Extent(64, 64), (4, 32, 32))
    block = np.random.default_rng(0).standard_normal((64, 100, 4, 32, 32), dtype="float32")
    began = time.perf_counter()
    receipt = group.write_shard(0, {"x_t": block})
    written = time.perf_counter() - began
    found = group.read_shard(0, ["x_t"])["x_t"]
    print(f"105 MB shard: write {written:.2f} s, read {time.perf_counter() - began - written:.2f} s")
    assert receipt.variables["x_t"].bytes == 104_857_600 + 100 * 20 + 4
    np.testing.assert_array_equal(found, block)
