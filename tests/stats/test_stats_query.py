"""Queries on xarray: every example runs; lazy; any subset has the bits of a reduction of that subset."""

import doctest
import inspect

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from query_store import NUM_SAMPLES, arrays, make_store, names_of_examples

from taba_core.errors import UsageError, WorkError
from taba_core.stats import (
    PatchCorrelation,
    ReconstructionError,
    RegionError,
    correlation_floor,
    estimates,
    from_arrays,
    query,
    reduce,
)

FUNCTIONS = [name for name in query.__all__ if name not in ("Options", "evaluate")]
DATA = arrays(range(NUM_SAMPLES))


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    path = tmp_path_factory.mktemp("query") / "store"
    make_store(path)
    return names_of_examples(path)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_every_query_runs(name, names):
    scope = {**names, "query": query, "ReconstructionError": ReconstructionError}
    examples = doctest.DocTestFinder(recurse=False).find(getattr(query, name), name, globs=scope)
    assert examples and examples[0].examples, f"{name} has no example"
    runner = doctest.DocTestRunner(verbose=False)
    report = []
    for example in examples:
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_query_says_what_it_rests_on(name):
    function = getattr(query, name)
    assert "options" in inspect.signature(function).parameters
    assert "see `" in function.__doc__


def expected(statistic, ids, columns, seed=0):
    """What a run over these samples returns."""
    part = {name: DATA[source][ids] for name, source in columns.items()}
    found = estimates(
        reduce(from_arrays(part), len(ids), {"s": statistic}, sample_ids=np.asarray(ids))["s"], seed
    )
    out = {}
    for name, estimate in found.items():
        low, high = estimate.interval()
        out |= {name: estimate.value, f"{name}_low": low, f"{name}_high": high}
    return out


def assert_bits(found, wanted):
    for name, value in wanted.items():
        assert found[name].values.tobytes() == np.asarray(value).tobytes(), name


SUBSETS = {
    "all": np.arange(NUM_SAMPLES),
    "a range": np.arange(5, 38),
    "a class": np.flatnonzero(DATA["class_id"] == 1),
    "mostly plain": np.flatnonzero(DATA["region"].mean(axis=(1, 2)) > 0.4),
    "one sample": np.array([7]),
}


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_subset_has_the_bits_of_a_run_over_it(subset, names):
    ids = SUBSETS[subset]
    noise, latent = names["generation"].noise.isel(sample=ids), names["inversion"].latent.isel(sample=ids)
    region = names["regions"].region.isel(sample=ids)
    found = query.region_error(noise, latent, region).compute()
    assert_bits(
        found,
        expected(
            RegionError("noise", "latent", "region"), ids, {k: k for k in ("noise", "latent", "region")}
        ),
    )
    moment = query.patch_correlation(latent, top_k=5).compute()
    assert_bits(moment, expected(PatchCorrelation("x", 8, 5), ids, {"x": "latent"}))
    assert found.attrs["n"] == moment.attrs["n"] == len(ids)


def test_a_prefix_of_a_store_is_the_store_of_fewer_samples(names, tmp_path):
    make_store(tmp_path / "small", num_samples=24)
    small = names_of_examples_of_24(tmp_path / "small")
    whole = [names["generation"].noise, names["inversion"].latent, names["regions"].region]
    a = query.region_error(*(x.where(x.sample < 24, drop=True) for x in whole)).compute()
    b = query.region_error(*small).compute()
    xr.testing.assert_identical(a, b)


def names_of_examples_of_24(path):
    import taba_core

    tree = taba_core.open_store(path)
    return [
        taba_core.find(tree, kind=k)[v]
        for k, v in (("generation", "noise"), ("inversion", "latent"), ("regions", "region"))
    ]


def test_order_layout_and_blocks_of_a_selection_do_not_change_bits(names):
    x = names["generation"].image
    whole = query.patch_correlation(x, top_k=5).compute()
    for other in (
        x.isel(sample=np.random.Generator(np.random.PCG64(0)).permutation(NUM_SAMPLES)),
        x.transpose("y", "x", "channel", "sample"),
        x.chunk({"sample": 7, "channel": 1}),
        x.load(),
    ):
        xr.testing.assert_identical(query.patch_correlation(other, top_k=5).compute(), whole)


def test_an_expression_is_queried_like_a_variable(names):
    gap = names["inversion"].latent - names["generation"].noise
    got = query.moments(gap).compute()
    assert_allclose(got["std"], (DATA["latent"] - DATA["noise"]).std(dtype=np.float64, ddof=1), rtol=1e-9)


def test_threads_and_another_process_give_the_same_bits(names):
    lazy = query.lag_correlation(names["inversion"].latent, num_replicates=50)
    once = lazy.compute(scheduler="sync")
    xr.testing.assert_identical(lazy.compute(scheduler="threads", num_workers=3), once)
    sent = cloudpickle.loads(cloudpickle.dumps(lazy))  # what a process or a cluster gets
    xr.testing.assert_identical(sent.compute(scheduler="sync"), once)


# ---------------------------------------------------------------- lazy


def never(block):
    raise AssertionError("read before it was computed")


def test_nothing_is_read_before_the_result_is_computed(names):
    x = names["inversion"].latent
    trap = x.copy(data=x.data.map_blocks(never, dtype=x.dtype, meta=np.empty((0,) * 4, x.dtype)))
    found = query.patch_correlation(trap)
    assert found["values"].shape == (4, 20) and found["values"].dims == ("patch", "rank")
    with pytest.raises(AssertionError, match="read before it was computed"):
        found.compute()


def test_the_graph_is_coarse(names):
    x = names["generation"].image
    many = xr.DataArray(dask.array.zeros((10240, 1, 8, 8), chunks=(32, 1, 8, 8)), dims=x.dims)
    # 20 groups of 512 samples at most four times finer, one end, and a few tasks a value: not one per chunk
    assert len(query.moments(many).__dask_graph__()) < 200


# ---------------------------------------------------------------- context


def test_a_result_carries_n_its_floor_and_its_parameters(names):
    found = query.patch_correlation(names["inversion"].latent.isel(sample=slice(32)), top_k=10).compute()
    floor = correlation_floor(32, 192, 10)
    assert (float(found.mean_top_floor), float(found.spread_floor)) == floor
    told = {k: found.attrs[k] for k in ("statistic", "n", "patch_size", "top_k", "interval", "level")}
    assert told == {
        "statistic": "PatchCorrelation",
        "n": 32,
        "patch_size": 8,
        "top_k": 10,
        "interval": "jackknife",
        "level": 0.95,
    }
    assert float(found.mean_top_low) < float(found.mean_top) < float(found.mean_top_high)


def test_a_wider_level_gives_a_wider_interval(names):
    x = names["generation"].noise
    wide, narrow = (query.lag_correlation(x, level=level).compute() for level in (0.99, 0.5))
    assert float(wide.value_low) < float(narrow.value_low) < float(narrow.value_high) < float(wide.value_high)


# ---------------------------------------------------------------- refusals


def test_arrays_of_other_samples_are_refused(names):
    noise, latent = names["generation"].noise, names["inversion"].latent
    with pytest.raises(UsageError, match="q holds other samples than p"):
        query.global_kl(noise.isel(sample=slice(8)), latent.isel(sample=slice(1, 9)))


def test_what_is_no_selection_of_samples_is_refused(names):
    noise = names["generation"].noise
    with pytest.raises(UsageError, match=r"moments: x has .* an array with the missing dimension sample"):
        query.moments(noise.isel(sample=0))
    with pytest.raises(UsageError, match="sample 3 of x was selected twice"):
        query.moments(noise.isel(sample=[3, 1, 3]))
    with pytest.raises(UsageError, match="nothing to reduce"):
        query.moments(noise.isel(sample=[]))


def test_samples_that_were_never_written_are_named(tmp_path):
    make_store(tmp_path / "s")
    (shard,) = (tmp_path / "s").glob("*-inversion-*/latent/c.1.0.0.0")
    shard.unlink()
    latent = names_of_examples(tmp_path / "s")["inversion"].latent
    with pytest.raises(WorkError, match=r"sample 16 of x holds NaN or infinite values \(16 such"):
        query.moments(latent).compute()
    assert query.moments(latent.isel(sample=slice(16))).compute().attrs["n"] == 16
