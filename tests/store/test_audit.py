import json
import re

import numpy as np
import pytest
import xarray as xr
import zarr

from taba_core.artifacts.layout import Extent, num_inodes
from taba_core.store.audit import audit

EXTENT = Extent(10, 4)  # as in conftest.py


@pytest.fixture
def whole(filled, store):
    store.write_result("correlation", xr.Dataset({"value": ("row", np.arange(5000.0))}), {"n": 10})
    return store


def found(store, **options):
    return [(p.kind, p.artifact, p.variable) for p in audit(store, **options).problems]


def test_a_whole_store_has_no_problems_and_says_how_much_was_read(whole, filled):
    deep = audit(whole, deep=True)
    assert deep.problems == () and (deep.artifacts, deep.results) == (1, 1)
    # three shards each of noise (792 bytes), class_id (40) and x_t (3944), and metadata; test_layout has the sums
    assert deep.bytes > 3 * (792 + 3944)


@pytest.mark.parametrize("name", ["sample", "step", "timestep", "alpha_bar"])
@pytest.mark.parametrize("how", ["flipped bit", "missing", "empty"])
def test_damaged_coordinates_are_found_and_written_again(whole, filled, generation, coords, name, how):
    file = filled.path / name / "c.0"
    data = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if how == "empty" else bytes([data[0] ^ 1]) + data[1:])
    assert found(whole) == []
    assert found(whole, deep=True) == [("coordinate", filled.name, name)]
    whole.ensure(generation, ["noise"], EXTENT, (3, 4, 4), coords)
    assert found(whole, deep=True) == [] and file.read_bytes() == data


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("alpha_bar", 2.0, r"outside \[0, 1\]"),
        ("alpha_bar", np.nan, "not finite"),
        ("step", 9, "is not 1, 2, 3"),
    ],
)
def test_coordinates_without_a_checksum_are_judged_by_their_values(whole, filled, name, value, text):
    # a store of a version that kept none
    array = zarr.open_array(str(filled.path / name), mode="r+")
    array[2] = value
    meta = filled.path / name / "zarr.json"
    plain = json.loads(meta.read_text())
    del plain["attributes"]["file_crc32"]
    meta.write_text(json.dumps(plain))
    (problem,) = audit(whole, deep=True).problems
    assert problem.kind == "coordinate"
    assert re.search(text, problem.detail)


@pytest.mark.parametrize("how", ["flipped bit", "missing", "empty"])
def test_damaged_results_are_found_and_forgotten(whole, how):
    file = whole.path / "correlation" / "value" / "c" / "0"
    data = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if how == "empty" else data[:-1] + bytes([data[-1] ^ 1]))
    assert found(whole) == [] and not whole.has_result("correlation")
    assert found(whole, deep=True, forget=True) == [("result", "correlation", "")]
    assert whole.read_result("correlation") is None  # the next run analyses it anew
    assert not whole.has_result("correlation")


def test_a_result_that_is_there_is_known_by_its_checksums_without_being_decoded(whole, filled, monkeypatch):
    monkeypatch.setattr(xr, "open_zarr", None)
    assert whole.has_result("correlation")
    assert not whole.has_result("another") and not whole.has_result(filled.name)
    (whole.path / "correlation" / "zarr.json").write_text("{")
    assert not whole.has_result("correlation")


def test_a_result_without_checksums_is_read_instead(whole):
    meta = whole.path / "correlation" / "zarr.json"
    plain = json.loads(meta.read_text())
    del plain["attributes"]["files_crc32"]
    meta.write_text(json.dumps(plain))
    assert found(whole, deep=True) == [] and whole.has_result("correlation")
    (whole.path / "correlation" / "value" / "c" / "0").write_bytes(b"")
    assert found(whole, deep=True) == [("result", "correlation", "")] and not whole.has_result("correlation")


def test_files_that_are_not_tabas_are_named_and_left_alone(whole, filled):
    places = [
        "notes.txt",
        "other/x",
        f"{filled.name}/y",
        f"{filled.name}/extra/z",
        f"{filled.name}/noise/c.9.0.0.0",
    ]
    for name in places:
        (whole.path / name).parent.mkdir(exist_ok=True)
        (whole.path / name).write_text("mine")
    said = [str(problem) for problem in audit(whole, deep=True, forget=True).problems]
    assert len(said) == 5 and all("unknown file" in line for line in said)
    assert any(line.startswith("notes.txt: unknown file: is not of taba's making") for line in said)
    assert all((whole.path / name).read_text() == "mine" for name in places)


def test_the_files_of_an_artifact_are_as_many_as_planned(filled, generation):
    inodes = 1 + sum(1 for _ in filled.path.rglob("*")) + 1  # the group's own folder, and its ledger
    # group: folder, metadata, ledger = 3; four coordinates of 3; three arrays of folder + metadata + 3 shards
    assert num_inodes(filled.variables, filled.extent) == inodes == 3 + 12 + 3 * 5
