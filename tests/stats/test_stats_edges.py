"""What every statistic does at the edges: bad values, constants, empty regions, one sample, missing samples."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from stats_cases import NUM_SAMPLES, STATISTICS, arrays, block

from taba_core.errors import UsageError, WorkError
from taba_core.stats import MergeTree, Quantiles, ValueMean, estimates, from_arrays, reduce, reduce_blocks

DATA = arrays()
every_statistic = pytest.mark.parametrize("name", STATISTICS)
# What a constant, or a single sample, leaves undefined; everything else must be a number.
UNDEFINED_FOR_CONSTANTS = {
    "patch correlation": {"excess_r2"},
    "object correlation": {"excess_r2"},
    "lag correlation": {"lags", "value"},
    "moments": {"skewness", "excess_kurtosis", "jarque_bera"},
    "global kl": {"kl"},
    "region error": {"correlation", "kl"},
    "spectrum by region": {"slope"},
    "step error": {"std_ratio"},
    "triangle in the bins of the reference": {
        "most_probable",
        "peak_width",
        "peaks",
    },  # no bin below 1 degree
    "channel pca": {"share"},
    "power spectrum": {"slope"},
    "difference power": {"ratio"},  # equal images have no difference
    "feature alignment": {"cka", "cka_unbiased", "svcca"},
}


def reduced(name, data, **options):
    n = len(data["noise"])
    return reduce_blocks([block(data, 0, n)], n, {"s": STATISTICS[name]}, **options)["s"]


def quiet_summary(name, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = reduced(name, data)
        found = estimates(result, num_replicates=20)
    assert all(estimate.n == len(data["noise"]) for estimate in found.values())
    return result.summary()


FLOATS = [(n, v) for n, s in STATISTICS.items() for v in s.variables if DATA[v].dtype.kind == "f"]


@pytest.mark.parametrize(("name", "variable"), FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_by_sample_and_name(name, variable, value):
    spoiled = {**DATA, variable: DATA[variable].copy()}
    spoiled[variable].reshape(NUM_SAMPLES, -1)[37, 0] = value
    statistics = {"s": STATISTICS[name]}
    for read in (
        lambda: reduced(name, spoiled),
        lambda: reduce(from_arrays(spoiled), NUM_SAMPLES, statistics, scheduler="sync"),
        lambda: STATISTICS[name].update({}, block(spoiled, 32, 48)),
    ):
        with pytest.raises(
            WorkError, match=rf"sample 37 of {variable} holds NaN or infinite values \(1 such"
        ):
            read()


@every_statistic
def test_constants_give_a_number_or_nan_and_no_warning(name):
    constant = {key: np.full_like(x, x.flat[0]) for key, x in DATA.items()}
    constant["probability"] = np.full_like(DATA["probability"], 0.25)
    values = quiet_summary(name, constant)
    undefined = {key for key, value in values.items() if not np.isfinite(value).any()}
    assert undefined == UNDEFINED_FOR_CONSTANTS.get(name, set())


@every_statistic
@pytest.mark.parametrize("filled", [0, 1])
def test_an_empty_region_is_nan_beside_numbers(name, filled):
    values = quiet_summary(name, {**DATA, "region": np.full_like(DATA["region"], filled)})
    if "region" not in STATISTICS[name].variables:
        return
    for key in ("error", "std", "variance", "bits", "data_pooled"):
        if key in values:
            by_region = values[key].reshape(3, -1)
            assert np.isnan(by_region[filled]).all() or name == "png bits of the reference"
            assert np.isfinite(by_region[[1 - filled, 2]]).all()


@every_statistic
def test_one_sample_gives_values_of_the_usual_shapes_and_no_interval_of_a_moment(name):
    values = quiet_summary(name, {key: x[:1] for key, x in DATA.items()})
    many = reduced(name, DATA).summary()
    assert {k: np.shape(v) for k, v in values.items()} == {k: np.shape(v) for k, v in many.items()}


@every_statistic
@pytest.mark.parametrize("n", [2, 16, 17, 47])
def test_samples_that_do_not_fill_the_last_block_count(name, n):
    part = {key: x[:n] for key, x in DATA.items()}
    whole, by_block = reduced(name, part).summary(), STATISTICS[name].init()
    for start in range(0, n, 5):  # any blocks at all: agrees to rounding
        by_block = STATISTICS[name].update(by_block, block(part, start, min(start + 5, n)))
    for key, value in STATISTICS[name].summarise(by_block).items():
        assert_allclose(value, whole[key], rtol=1e-6, atol=1e-9)


@every_statistic
def test_numbers_of_another_type_with_the_same_values_give_the_same_values(name):
    halves = {k: x.astype(np.float16) if x.dtype.kind == "f" else x for k, x in DATA.items()}
    # half precision for some variables, the same values in double precision for the others
    mixed = {
        k: x.astype(np.float64) if i % 2 and x.dtype.kind == "f" else x
        for i, (k, x) in enumerate(halves.items())
    }
    doubles = {k: x.astype(np.float64) if x.dtype.kind == "f" else x for k, x in halves.items()}
    a, b = reduced(name, mixed).summary(), reduced(name, doubles).summary()
    for key in a:
        if (
            "correlation" in name
        ):  # products of float32 deviations, rounded before or after the mean is taken off
            assert_allclose(a[key], b[key], atol=5e-7)
        else:
            assert np.asarray(a[key]).tobytes() == np.asarray(b[key]).tobytes(), key


@every_statistic
def test_a_missing_shard_is_named_and_no_value_given(name):
    tree = MergeTree(STATISTICS[name], NUM_SAMPLES)
    for index in (0, 1, 2, 4):
        tree.add(index, STATISTICS[name].partial(block(DATA, 16 * index, min(16 * index + 16, NUM_SAMPLES))))
    with pytest.raises(
        WorkError, match=r"1 of 5 blocks are missing, the first is block 3 \(samples 48 to 63\)"
    ):
        tree.finish()


@every_statistic
def test_a_missing_variable_is_named(name):
    gone = STATISTICS[name].variables[-1]
    with pytest.raises(WorkError, match=f"samples 0 to 69 come without {gone}"):
        whole = {key: x for key, x in block(DATA, 0, NUM_SAMPLES).items() if key != gone}
        reduce_blocks([whole], NUM_SAMPLES, {"s": STATISTICS[name]})


@every_statistic
def test_values_of_parts_do_not_merge(name):
    statistic, parts = STATISTICS[name], [block(DATA, 0, 16), block(DATA, 16, 32)]
    a, b = (statistic.summarise(statistic.partial(part)) for part in parts)
    for wrong in (lambda: statistic.merge(a, b), lambda: MergeTree(statistic, 16).add(0, a)):
        with pytest.raises(
            UsageError, match="no state and does not merge: the value of the whole is not the mean"
        ):
            wrong()
    results = [reduce_blocks([part], 16, {"s": statistic})["s"] for part in (parts[0], block(DATA, 0, 16))]
    with pytest.raises(TypeError):
        results[0] + results[1]


@every_statistic
def test_estimates_of_parts_do_not_average(name):
    statistic = {"s": STATISTICS[name]}
    found = [
        estimates(reduce(from_arrays(part), 20, statistic, sample_ids=ids)["s"], num_replicates=5)
        for ids in (np.arange(20), np.arange(20, 40))
        for part in [{key: x[ids] for key, x in DATA.items()}]
    ]
    for key in found[0]:
        with pytest.raises(UsageError, match="cannot add estimates of different samples"):
            (found[0][key] + found[1][key]) / 2


def test_bootstrap_estimates_of_different_samples_compare():
    # two classes: keyed weights make their replicates independent, so the spreads add in squares
    x = DATA["score"]
    found = [
        estimates(reduce(from_arrays({"score": x[ids]}), 32, {"s": ValueMean("score")}, sample_ids=ids)["s"])[
            "mean"
        ]
        for ids in (np.arange(32), np.arange(32, 64))
    ]
    gap = found[0] - found[1]
    assert_allclose(gap.value, x[:32].mean() - x[32:64].mean())
    together = np.hypot(found[0].standard_error, found[1].standard_error)
    assert_allclose(gap.standard_error, together, rtol=0.1)


def test_shapes_that_would_broadcast_are_refused():
    thin = {**DATA, "latent": DATA["latent"][:, :1], "reconstruction": DATA["reconstruction"][:, :1]}
    for name in ("region error", "entry kl", "reconstruction", "structural similarity"):
        with pytest.raises(UsageError, match="compared entry by entry and must agree"):
            reduced(name, thin)


def test_rows_and_samples_must_be_as_many():
    with pytest.raises(WorkError, match="score has 69 rows for 70 samples"):
        reduced("quantiles", {**DATA, "score": DATA["score"][1:]})


def test_a_metric_of_pairs_is_one_number_a_sample():
    for statistic in (ValueMean("score"), Quantiles("score")):
        with pytest.raises(
            UsageError, match=r"score has shape \(4, 2\).* it takes one number for each sample"
        ):
            reduce_blocks([{"sample": np.arange(4), "score": np.zeros((4, 2))}], 4, {"s": statistic})
