from pathlib import Path

import numpy as np
import pytest
import zarr

from taba_core.errors import StoreError


def damage(group, how, name="x_t", shard=1):
    file = Path(group.array(name).file(shard))
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "truncated":
        file.write_bytes(data[:-100])
    elif how == "longer":
        file.write_bytes(data + b"x")
    elif how == "flipped bit":
        data[1000] ^= 0b100
        file.write_bytes(data)
    return file


SHALLOW = {"missing": "missing", "empty": "size", "truncated": "size", "longer": "size"}


def test_a_whole_store_has_no_problems(filled):
    assert filled.verify() == [] and filled.verify(deep=True) == []


@pytest.mark.parametrize("how", SHALLOW)
def test_damage_that_changes_the_size_is_found_by_a_scan_and_computed_again(filled, blocks, how):
    file = damage(filled, how)
    (problem,) = filled.verify()
    assert (problem.kind, problem.variable, problem.shard, Path(problem.file)) == (
        SHALLOW[how],
        "x_t",
        1,
        file,
    )
    assert filled.missing() == {1: ("x_t",)}
    filled.record(filled.write_shard(1, {"x_t": blocks(filled, 1)["x_t"]}))
    assert filled.verify(deep=True) == [] and filled.missing() == {}


def test_a_flipped_bit_is_found_by_the_deep_check_only(filled):
    damage(filled, "flipped bit")
    assert filled.verify() == []
    (problem,) = filled.verify(deep=True)
    assert problem.kind == "checksum" and problem.shard == 1
    assert filled.missing() == {}  # until forgotten: only the deep check knows


def test_forgetting_a_damaged_shard_makes_the_next_run_compute_it(filled, blocks):
    file = damage(filled, "flipped bit")
    (found,) = filled.verify(deep=True, forget=True)
    assert found.kind == "checksum" and not file.exists()
    assert filled.missing() == {1: ("x_t",)}
    assert filled.adopt() == []
    filled.record(filled.write_shard(1, {"x_t": blocks(filled, 1)["x_t"]}))
    assert filled.missing() == {} and filled.verify(deep=True) == []


def test_a_forgotten_receipt_does_not_come_back_with_a_file_of_the_right_size(filled):
    file = damage(filled, "flipped bit")
    damaged = file.read_bytes()
    filled.verify(deep=True, forget=True)
    file.write_bytes(damaged)  # from a backup, say
    assert filled.missing() == {1: ("x_t",)} and filled.adopt() == []


def test_forgetting_touches_no_sound_shard(filled):
    before = {name: filled.array(name).sizes() for name in filled.variables}
    assert filled.verify(deep=True, forget=True) == []
    assert {name: filled.array(name).sizes() for name in filled.variables} == before


@pytest.mark.parametrize("how", ["missing", "empty", "truncated"])
def test_reading_a_shard_that_is_not_whole_says_so(filled, how):
    damage(filled, how)
    with pytest.raises(
        StoreError, match=r"c\.1\.0\.0\.0\.0 (is missing|has \d+ bytes, not 3944). Run the same command"
    ):
        filled.read_samples(0, 10, ["x_t"])
    assert filled.read_samples(8, 10, ["x_t"])["x_t"].shape[0] == 2  # other shards are not affected


def test_reading_a_flipped_bit_is_an_error_not_a_value(filled):
    damage(filled, "flipped bit")
    with pytest.raises(StoreError, match=r"samples 4 to 7 of .*x_t are damaged: .*taba verify --deep"):
        filled.read_shard(1, ["x_t"])


def test_why_sizes_are_checked_an_empty_file_reads_as_nan_without_an_error(filled):
    damage(filled, "empty", "noise")
    noise = zarr.open_array(str(filled.path / "noise"), mode="r")[...]
    assert np.isnan(noise[4:8]).all() and not np.isnan(noise[:4]).any()


def test_a_shard_without_receipt_and_an_orphan_are_reported(group, blocks):
    group.write_shard(0, blocks(group, 0))
    orphan = group.path / "noise" / "c.1.0.0.0.abc.partial"
    orphan.write_bytes(b"half")
    kinds = [(problem.kind, problem.variable, problem.shard) for problem in group.verify()]
    assert ("no receipt", "noise", 0) in kinds and ("orphan", "noise", None) in kinds
    assert ("missing", "x_t", 2) in kinds
    assert [Path(left) for left in group.remove_orphans()] == [orphan] and not orphan.exists()
    assert "orphan" not in {problem.kind for problem in group.verify()}


def test_a_problem_prints_as_one_line(filled):
    damage(filled, "truncated")
    (problem,) = filled.verify()
    # whole shard 3944 bytes (test_layout), less 100
    assert str(problem) == f"{filled.name} x_t shard 1: size: 3844 bytes, not 3944"
