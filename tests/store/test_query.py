import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import taba_core
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.layout import Extent
from taba_core.artifacts.regions import PlainRegions
from taba_core.errors import StoreError, UsageError
from taba_core.store.template import mark_as_no_data

EXTENT = Extent(10, 4)  # as in conftest.py


@pytest.fixture
def tree(filled, store, generation):
    inversion = Inversion(source=generation, num_inference_steps=5, forward_steps=1)
    latent = store.ensure(inversion, ["latent"], EXTENT, (3, 4, 4))
    latent.record(latent.write_shard(1, {"latent": np.ones((4, 3, 4, 4), "float32")}))
    store.ensure(PlainRegions(source=generation), ["region"], EXTENT, (3, 4, 4))
    store.write_result("correlation", table(), {"n": 10})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return taba_core.open_store(store.path)


def table():
    rows = ["noise", "latent"]
    data = {"value": ("row", np.array([0.25, 0.7])), "note": ("row", np.array(["floor", "much higher"]))}
    return xr.Dataset(data, coords={"row": rows})


def test_a_store_opens_as_one_lazy_tree_with_specs_as_attributes(tree, generation):
    node = tree[generation.name]
    assert node.attrs["spec"] == generation.model_dump(mode="json")
    assert (node.attrs["model"], node.attrs["seed"], node.attrs["num_inference_steps"]) == ("gaussian", 0, 5)
    assert node["x_t"].dims == ("sample", "step", "channel", "y", "x")
    assert node["x_t"].chunks is not None and node["x_t"].attrs["units"] == "standard deviations of the noise"
    assert {"sample", "step", "timestep", "alpha_bar"} == set(node.coords)


def test_the_expression_a_reader_would_write_gives_the_right_numbers(tree, generation):
    node = tree[generation.name]
    # sample i at level l is i + l / 100; the mean of 0..9 is 4.5
    found = node["x_t"].sel(step=3).mean().compute()
    assert float(found) == pytest.approx(4.53, rel=1e-6)
    assert int(node["x_t"].where(node.alpha_bar > 0.6, drop=True).sizes["step"]) == 2  # .9, .7, not .5


def test_sources_fields_are_on_top_of_a_derived_artifact(tree, generation):
    inversion = next(node for name, node in tree.children.items() if "inversion" in name)
    assert inversion.attrs["source"] == generation.name
    assert inversion.attrs["seed"] == 0 and inversion.attrs["forward_steps"] == 1


def test_what_was_not_written_is_nan_never_zero(tree):
    inversion = next(node for name, node in tree.children.items() if "inversion" in name)
    absent = np.isnan(inversion["latent"].values).all(axis=(1, 2, 3))
    assert absent.tolist() == [True] * 4 + [False] * 4 + [True] * 2
    regions = next(node for name, node in tree.children.items() if "regions" in name)
    assert (regions["region"].values == 255).all()


def test_a_dataset_is_found_by_what_it_is(tree, generation):
    assert taba_core.find(tree, kind="generation").attrs == tree[generation.name].attrs
    found = taba_core.find(tree, kind="inversion", forward_steps=1)
    assert found["latent"].chunks is not None and found.attrs["source"] == generation.name


def test_a_dataset_that_is_not_there_or_not_the_only_one_is_explained(tree, generation):
    with pytest.raises(
        UsageError, match=f"no dataset with kind='inversion', forward_steps=2.*{generation.name}"
    ):
        taba_core.find(tree, kind="inversion", forward_steps=2)
    with pytest.raises(UsageError, match=r"3 datasets with num_samples=10: .* Say one of: .*kind"):
        taba_core.find(tree, num_samples=10)


def test_results_are_nodes_of_the_tree(tree):
    assert float(tree["correlation"]["value"].sel(row="latent")) == 0.7
    assert tree["correlation"].attrs["n"] == 10


def test_variables_come_in_the_schemas_order_on_every_file_system(tree, generation):
    assert list(tree[generation.name].data_vars) == ["noise", "class_id", "x_t"]


def test_blocks_are_the_shards_samples_by_ten_steps_or_as_asked(tree, store, generation):
    assert tree[generation.name]["x_t"].chunks[:2] == ((4, 4, 2), (5,))
    asked = taba_core.open_store(store.path, chunks={"sample": 2, "step": 1})
    assert asked[generation.name]["x_t"].chunks[:2] == ((2,) * 5, (1,) * 5)


def test_a_node_has_the_samples_that_were_asked_and_on_demand_whole_shards(tree, store, generation, coords):
    def ids(artifact, **options):
        return taba_core.open_store(store.path, **options)[artifact.name]["sample"].values.tolist()

    other = generation.model_copy(update={"seed": 1})
    for asked, seen in ((6, 6), (3, 6), (7, 7)):  # the most that was ever asked stays
        store.ensure(other, ["noise"], Extent(8, 4), (3, 4, 4), coords, samples_asked=asked)
        assert ids(other) == list(range(seen)) and ids(other, whole_shards=True) == list(range(8))
    store.ensure(other, ["noise"], Extent(12, 4), (3, 4, 4), coords, samples_asked=9)
    assert ids(other) == list(range(9)) and ids(other, whole_shards=True) == list(range(12))
    assert ids(generation) == list(range(10))


def test_opening_what_is_no_store_says_so(tmp_path):
    with pytest.raises(UsageError, match="no store at"):
        taba_core.open_store(tmp_path)


PLAIN = """
import sys, warnings

class OnlyReaders:
    \"\"\"Stands for an environment with xarray, zarr, dask and what they need: everything else is not there.\"\"\"
    absent = {"taba_core", "workflows", "cluster", "torch", "ray", "pydantic", "diffusers", "scipy", "matplotlib",
              "skimage", "sklearn", "s3fs", "h5netcdf", "numba"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, OnlyReaders())
import numpy as np, xarray as xr
path, name = sys.argv[1:]
warnings.simplefilter("error")                 # a warning is a failure
tree = xr.open_datatree(path, engine="zarr", consolidated=False)
group = xr.open_zarr(f"{path}/{name}", consolidated=False)
for found in (tree[name], group):
    assert found["noise"].dims == ("sample", "channel", "y", "x"), found
    assert float(found["noise"].mean()) == 4.5
    assert found.attrs["num_inference_steps"] == 5 and "alpha_bar" in found.coords
assert group["x_t"].chunks is not None         # lazy, by dask
assert float(tree["correlation"]["value"].sel(row="noise")) == 0.25
assert not OnlyReaders.absent & set(sys.modules)
print("read", len(tree.children))
"""


def test_a_store_is_read_without_taba_and_without_a_warning(tree, store, generation):
    mark_as_no_data(store.place / "report")
    (store.path / "report" / "index.html").write_text("<html>")
    (store.path / "_ledger" / "status.json").write_text("{}")
    command = [sys.executable, "-c", PLAIN, str(store.path), generation.name]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stdout == "read 4\n" and done.stderr == "", done.stderr


def test_a_result_is_read_back_as_it_was(store):
    store.write_result("correlation", table(), {"spec": {"nested": [1, 2]}})
    found = store.read_result("correlation")
    xr.testing.assert_equal(found, table())
    assert found["row"].dtype.kind == found["note"].dtype.kind == "U"
    assert found.attrs == {"spec": {"nested": [1, 2]}, "kind": "result", "schema_version": 2}
    assert store.results() == ["correlation"] and store.read_result("absent") is None


def test_a_result_is_replaced_as_a_whole(store):
    store.write_result("a", table(), {})
    store.write_result("a", xr.Dataset({"other": 1.0}), {"second": True})
    assert list(store.read_result("a")) == ["other"]
    assert not list(store.path.rglob("*.partial"))


def test_a_result_that_fails_keeps_the_old_one(store, monkeypatch):
    store.write_result("a", table(), {})
    monkeypatch.setattr(
        xr.Dataset, "to_zarr", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(taba_core.errors.WorkError, match=r"No space left on device \(ENOSPC\)"):
        store.write_result("a", xr.Dataset({"other": 1.0}), {})
    assert list(store.read_result("a")) == ["value", "note"]
    assert not list(store.path.rglob("*.partial"))


def test_a_result_that_cannot_be_put_in_place_gives_the_old_one_back(store, monkeypatch):
    store.write_result("a", table(), {})
    rename = Path.rename

    def refuse_the_new(self, target):
        if self.name == "new":
            raise OSError(13, "denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    with pytest.raises(taba_core.errors.WorkError, match=r"Permission denied \(EACCES\)"):
        store.write_result("a", xr.Dataset({"other": 1.0}), {})
    assert list(store.read_result("a")) == ["value", "note"]


def test_a_result_cannot_take_the_place_of_an_artifact_or_the_report(store, group):
    with pytest.raises(UsageError, match="is that of an artifact in the store"):
        store.write_result(group.name, table(), {})
    with pytest.raises(UsageError, match="result name 'report': lower-case letters"):
        store.write_result("report", table(), {})
    with pytest.raises(UsageError, match="result name 'A b'"):
        store.write_result("A b", table(), {})
    with pytest.raises(StoreError, match="is no result but 'generation'"):
        store.read_result(group.name)


def test_importing_taba_core_and_its_store_loads_nothing_heavy():
    heavy = "{'torch', 'ray', 'zarr', 'xarray', 'dask', 'matplotlib', 'skimage'}"
    loaded = f"sorted({heavy} & set(sys.modules))"
    code = f"import sys, taba_core, taba_core.store; print({loaded}, taba_core.__version__)"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == f"[] {taba_core.__version__}\n", done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(
        AttributeError, match=r"module 'taba_core' has no attribute 'nothing'; it has: .*open_store"
    ):
        taba_core.nothing
