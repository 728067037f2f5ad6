import json
import os

import numpy as np
import pytest
import zarr

from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.layout import Extent
from taba_core.errors import StoreError, UsageError, WorkError
from taba_core.model_spec import ModelSpec
from taba_core.store import Store

EXTENT = Extent(10, 4)  # as in conftest.py


def edit_attributes(path, **changes):
    meta = json.loads(path.read_text())
    meta["attributes"].update(changes)
    path.write_text(json.dumps(meta))


def test_a_store_is_made_once_and_opened_again(tmp_path):
    made = Store.open(tmp_path / "deep" / "store", mode="a")
    assert Store.open(made.path, mode="a") == made
    assert Store.open(str(made.path)).artifacts() == []


def test_a_directory_whose_creation_was_interrupted_is_ours(tmp_path):
    (tmp_path / "zarr.json.abc.partial").write_text("{")
    (tmp_path / "report").mkdir()
    assert Store.open(tmp_path, mode="a").artifacts() == []


def test_paths_that_cannot_be_stores_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file; a store is a directory"):
        Store.open(tmp_path / "file", mode="a")
    with pytest.raises(UsageError, match=r"no store at .*Check --store, or run a study to make it"):
        Store.open(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_foreign_directories_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"is not empty and no taba store \(it holds 'thesis.tex'\)"):
        Store.open(tmp_path, mode="a")
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_foreign_zarr_hierarchy_is_refused(tmp_path):
    zarr.create_group(str(tmp_path / "z"))
    with pytest.raises(UsageError, match="is a Zarr hierarchy but no taba store"):
        Store.open(tmp_path / "z", mode="a")


def test_another_schema_version_says_found_expected_and_the_way_out(store):
    edit_attributes(store.path / "zarr.json", schema_version=7)
    with pytest.raises(
        StoreError, match=r"has schema version 7, this taba reads version 2. Use the taba that made it"
    ):
        Store.open(store.path)


def test_a_damaged_root_is_reported(store):
    (store.path / "zarr.json").write_text("")
    with pytest.raises(StoreError, match=r"zarr.json is damaged"):
        Store.open(store.path)


def test_a_directory_that_is_not_writable_is_refused(store, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(StoreError, match="is not writable: fix its permissions or use another --store"):
        Store.open(store.path, mode="a")
    assert Store.open(store.path, mode="r").mode == "r"


def test_a_parent_that_is_a_file_is_reported_with_the_system_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkError, match=r"cannot write .*file/store: Not a directory \(ENOTDIR\)"):
        Store.open(tmp_path / "file" / "store", mode="a")


def test_a_store_open_for_reading_is_not_changed(store, generation):
    with pytest.raises(UsageError, match="open for reading only"):
        Store.open(store.path).ensure(generation, ["noise"], EXTENT, (3, 4, 4))


def test_artifacts_are_found_with_their_specs(store, filled, generation):
    inversion = Inversion(source=generation, num_inference_steps=5, forward_steps=2)
    assert store.find(inversion) is None
    with pytest.raises(UsageError, match=f"no artifact '{inversion.name}' .*It holds: {generation.name}"):
        store.open_artifact(inversion)
    made = store.ensure(inversion, ["latent"], EXTENT, (3, 4, 4))
    assert store.open_artifact(inversion) == store.find(inversion) == made
    assert [group.artifact for group in Store.open(store.path).artifacts()] == [generation, inversion]


def test_ensure_twice_changes_nothing_and_keeps_the_shards(filled, store, generation, coords):
    before = {p: p.read_bytes() for p in filled.path.rglob("*") if p.is_file()}
    again = store.ensure(generation, ["x_t", "noise"], EXTENT, (3, 4, 4), coords)
    assert {p: p.read_bytes() for p in filled.path.rglob("*") if p.is_file()} == before
    assert again.missing() == {}


def test_a_variable_and_a_coordinate_can_be_added_later(store, generation, coords):
    group = store.ensure(generation, ["noise"], EXTENT, (3, 4, 4))
    assert group.variables == ("noise",)
    group = store.ensure(generation, ["eps_t"], EXTENT, (3, 4, 4), coords)
    assert group.variables == ("noise", "eps_t")
    store.ensure(
        generation, ["eps_t"], EXTENT, (3, 4, 4), {"timestep": coords["timestep"]}
    )  # the other stays
    attrs = json.loads((group.path / "zarr.json").read_text())["attributes"]
    assert attrs["coordinates"] == "alpha_bar timestep"


def test_a_group_made_by_another_spec_is_refused(group, store, generation, coords):
    spec = generation.model_dump(mode="json") | {"seed": 1}
    edit_attributes(group.path / "zarr.json", spec=spec)
    with pytest.raises(StoreError, match=r"was made by another spec \(gaussian-generation-\w+\)"):
        store.ensure(generation, ["noise"], EXTENT, (3, 4, 4), coords)
    with pytest.raises(StoreError, match="was made by another spec"):
        store.open_artifact(generation)


def test_where_weights_lay_does_not_make_another_artifact(group, store, generation):
    moved = generation.model_copy(update={"model": ModelSpec(name="gaussian", location="/elsewhere")})
    assert store.open_artifact(moved).path == group.path


def test_a_spec_that_cannot_be_read_is_reported(group, store):
    edit_attributes(group.path / "zarr.json", spec={"seed": 0})
    with pytest.raises(StoreError, match="has a spec this taba cannot read"):
        store.artifacts()


def test_other_shapes_and_coordinates_are_refused(group, store, generation, coords):
    with pytest.raises(
        StoreError, match=r"holds float32 \(10, 3, 4, 4\) in shards of .*\(10, 3, 8, 8\) .* is asked"
    ):
        store.ensure(generation, ["noise"], EXTENT, (3, 8, 8), coords)
    with pytest.raises(StoreError, match=r"coordinate .*alpha_bar differs from the values of this run"):
        store.ensure(generation, ["noise"], EXTENT, (3, 4, 4), coords | {"alpha_bar": np.full(5, 0.5)})
    with pytest.raises(UsageError, match=r"coordinate 'timestep' has shape \(6,\), but there are 5 steps"):
        store.ensure(generation, ["noise"], EXTENT, (3, 4, 4), {"timestep": np.arange(6)})
    with pytest.raises(
        UsageError, match="coordinate 'sigma': those that can be given are timestep and alpha_bar"
    ):
        store.ensure(generation, ["noise"], EXTENT, (3, 4, 4), {"sigma": np.arange(5)})


def test_a_template_that_was_interrupted_is_completed(store, generation, coords):
    group = store.ensure(generation, ["noise"], EXTENT, (3, 4, 4), coords)
    (group.path / "alpha_bar" / "c.0").unlink()  # ended between the metadata and the values
    (group.path / "noise" / "zarr.json").unlink()
    group = store.ensure(generation, ["noise"], EXTENT, (3, 4, 4), coords)
    assert group.variables == ("noise",)
    np.testing.assert_array_equal(zarr.open_array(str(group.path / "alpha_bar"))[...], coords["alpha_bar"])
