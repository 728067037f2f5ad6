"""Estimates: paired arithmetic, intervals against known standard errors, verdicts on intervals."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from taba_core.errors import UsageError
from taba_core.rng import normal
from taba_core.stats import (
    EntryKL,
    Estimate,
    Moments,
    MomentStatistic,
    PatchCorrelation,
    RowStatistic,
    all_positive,
    estimates,
    every,
    poisson_weights,
    positive,
    reduce_blocks,
)
from taba_core.stats.base import merge_means


@dataclass(frozen=True)
class MeanRow(RowStatistic):
    """Mean over samples of one number a sample."""

    variable: str = "x"

    @property
    def variables(self):
        return (self.variable,)

    def rows(self, block):
        return {"x": block[self.variable]}

    def summarise_sums(self, sums, count):
        return {"mean": sums["x"] / count}


@dataclass(frozen=True)
class MeanMoment(MomentStatistic):
    """The same mean as a moment statistic."""

    variable: str = "x"

    @property
    def variables(self):
        return (self.variable,)

    def partial(self, block):
        x = block[self.variable].astype(np.float64)
        return {"count": np.asarray(len(x)), "mean": x.mean()}

    def combine(self, a, b):
        return {"mean": merge_means(a, b, "mean")[0]}

    def summarise(self, state):
        return {"mean": np.asarray(state["mean"])}


def numbers(n, stream="x", seed=0):
    return normal(range(n), (), seed=seed, stream=stream)


def estimate_of(statistic, x, **options):
    reduced = reduce_blocks([{"sample": np.arange(len(x)), "x": x}], len(x), {"s": statistic})["s"]
    return estimates(reduced, **options)["mean"]


def bootstrap(*replicates, value=None):
    replicates = np.array(replicates, dtype=float)
    return Estimate(replicates.mean(axis=0) if value is None else np.array(value), replicates, "bootstrap", 9)


# ---------------------------------------------------------------- standard errors and intervals


def test_bootstrap_error_of_a_mean_is_the_textbook_one():
    x = numbers(2000)
    got = estimate_of(MeanRow(), x).standard_error
    assert_allclose(
        got, x.std() / np.sqrt(2000), rtol=0.08
    )  # relative error of a std from 1000 replicates: 2.2 %


def test_jackknife_error_of_a_mean_is_the_textbook_one_on_average():
    # the jackknife of a mean is s/sqrt(G) of the 20 group means: 1/sqrt(2 * 19) = 16 % off for one set
    squares = [estimate_of(MeanMoment(), numbers(320, seed=s)).standard_error ** 2 for s in range(60)]
    assert_allclose(np.sqrt(np.mean(squares)), 1 / np.sqrt(320), rtol=0.07)


def test_jackknife_of_a_mean_by_hand():
    # three groups of 16 with means 1, 2, 6: total 3; left out 4, 3.5, 1.5, mean 3
    # SE = sqrt(2/3 ((4-3)^2 + .5^2 + 1.5^2)) = sqrt(2/3 * 3.5) = 1.527525; t(2) at 97.5 % = 4.302653
    x = np.repeat([1.0, 2.0, 6.0], 16)
    got = estimate_of(MeanMoment(), x)
    assert_allclose(got.replicates, [4, 3.5, 1.5])
    assert_allclose(got.standard_error, 1.5275252, rtol=1e-7)
    assert_allclose(got.interval(), (3 - 4.302653 * 1.5275252, 3 + 4.302653 * 1.5275252), rtol=1e-6)


def test_a_short_last_group_is_weighted():
    # groups of 16, 16, 8 with means 0, 3, 6: mean 96/40 = 2.4; left out 96/24 = 4, 48/24 = 2, 48/32 = 1.5
    # h = 2.5, 2.5, 5; pseudo-values h*2.4 - (h-1)*theta_j = 0, 3, 6 (the group means, as it must be)
    # p = 3*2.4 - (.6*4 + .6*2 + .8*1.5) = 2.4; SE^2 = (2.4^2/1.5 + .6^2/1.5 + 3.6^2/4)/3 = 7.32/3
    got = estimate_of(MeanMoment(), np.repeat([0.0, 3.0, 6.0], [16, 16, 8]))
    assert_allclose(got.standard_error, np.sqrt(7.32 / 3), rtol=1e-12)


def test_percentile_interval_by_hand():
    # replicates 0..100: the 2.5 % and 97.5 % quantiles are 2.5 and 97.5
    low, high = bootstrap(*range(101)).interval()
    assert_allclose((low, high), (2.5, 97.5))


def test_bootstrap_intervals_cover_the_truth_at_their_level():
    # 200 sets of 100 numbers: expected 190, sd 3.1; the percentile interval is a little short (about 94 %)
    covered = 0
    for seed in range(200):
        low, high = estimate_of(MeanRow(), numbers(100, seed=seed), num_replicates=200).interval()
        covered += low < 0 < high
    assert 176 <= covered <= 199


def test_the_jackknife_is_conservative_on_white_noise():
    # of correlations picked for being large, and of squares of what is 0, it overestimates the error
    values, errors = {}, {}
    statistics = {"corr": PatchCorrelation("x", patch_size=4), "kl": EntryKL(None, "x")}
    for seed in range(30):
        x = normal(range(128), (2, 8, 8), seed=seed, stream="noise")
        for r in reduce_blocks([{"sample": np.arange(128), "x": x}], 128, statistics).values():
            for key, e in estimates(r).items():
                if key in ("mean_top", "excess_r2", "kl_excess"):
                    values.setdefault(key, []).append(float(e))
                    errors.setdefault(key, []).append(float(e.standard_error))
    for key in values:
        overestimate = np.sqrt(np.mean(np.square(errors[key]))) / np.std(values[key], ddof=1)
        assert 1 < overestimate < 3.5, (key, overestimate)


def test_one_group_has_no_interval():
    got = estimate_of(MeanMoment(), np.arange(10.0))
    assert float(got) == 4.5
    assert np.isnan(got.standard_error) and np.isnan(got.interval()).all()
    assert positive(got) == "not resolved"


def test_replicates_without_data_are_left_out():
    low, high = bootstrap([1, np.nan], [3, np.nan], [np.nan, np.nan], value=[2, 2]).interval()
    assert_allclose(low, [1.05, np.nan])  # quantiles of 1 and 3; nothing is known of the second
    assert_allclose(high, [2.95, np.nan])


def test_levels_outside_0_and_1_are_refused():
    with pytest.raises(UsageError, match="level=95 is no confidence level"):
        bootstrap(1, 2).interval(95)


# ---------------------------------------------------------------- weights


def test_weights_belong_to_seed_replicate_and_sample():
    whole = poisson_weights(np.arange(10), seed=3, num_replicates=20)
    assert_array_equal(poisson_weights(np.array([7, 2]), seed=3, num_replicates=20), whole[:, [7, 2]])
    assert_array_equal(poisson_weights(np.arange(10), seed=3, num_replicates=5), whole[:5])
    assert not np.array_equal(poisson_weights(np.arange(10), seed=4, num_replicates=20), whole)


def test_weights_are_poisson_of_mean_one():
    weights = poisson_weights(np.arange(500), seed=0, num_replicates=1000)
    shares = [np.mean(weights == k) for k in range(4)]
    # e^-1 / k!: .3679 .3679 .1839 .0613; standard error of a share of 500,000 below .0007
    assert_allclose(shares, [0.36788, 0.36788, 0.18394, 0.06131], atol=0.003)


# ---------------------------------------------------------------- arithmetic


def test_differences_on_the_same_samples_are_paired():
    # y = x + 1 for every sample: the means differ by 1 in every replicate, whatever the spread of x
    x = numbers(200)
    a, b = estimate_of(MeanRow(), x), estimate_of(MeanRow(), x + 1)
    difference = b - a
    assert_allclose(difference.interval(), (1, 1), atol=1e-6)
    assert a.standard_error > 0.05


def test_arithmetic_acts_on_value_and_replicates():
    a, b = bootstrap(1, 2, 3), bootstrap(4, 5, 9)
    for result, expected in [
        (a + b, [5, 7, 12]),
        (a - b, [-3, -3, -6]),
        (b - 1, [3, 4, 8]),
        (1 - b, [-3, -4, -8]),
        (2 * a, [2, 4, 6]),
        (b / a, [4, 2.5, 3]),
        (6 / a, [6, 3, 2]),
        (-a, [-1, -2, -3]),
        (abs(a - b), [3, 3, 6]),
        (a.log(), np.log([1, 2, 3])),
        (np.float64(1) - a, [0, -1, -2]),
        (a.map(lambda x: x**2), [1, 4, 9]),
    ]:
        assert_allclose(result.replicates, expected)
        assert result.kind == "bootstrap" and result.n == 9
    assert float(b / a) == 3  # value 6 / value 2, not the mean of the ratios


def test_indexing_means_and_broadcasting_keep_the_replicate_axis_first():
    a = bootstrap(*np.arange(24.0).reshape(4, 2, 3))  # four replicates of a (2, 3) value
    assert a[1, 2].replicates.tolist() == [5, 11, 17, 23]
    assert a[..., 0].shape == (2,) and a[1].shape == (3,)
    assert a.mean(axis=-1).replicates[0].tolist() == [1, 4]
    assert a.mean().replicates.tolist() == [2.5, 8.5, 14.5, 20.5]
    assert a.sum(axis=(0, 1)).replicates[0] == 15
    scalar = bootstrap(1, 2, 3, 4)
    assert_allclose((a * scalar).replicates[3], 4 * a.replicates[3])
    assert_allclose((a - np.array([1, 2, 3])).replicates[0, 1], [2, 2, 2])
    four = bootstrap(*np.arange(16.0).reshape(4, 4))  # a value as long as there are replicates
    assert_allclose((four * scalar).replicates[1], 2 * four.replicates[1])


def test_different_kinds_do_not_mix():
    jackknife = Estimate(np.array(1.0), np.array([1.0, 2, 3]), "jackknife", 48, (16, 16, 16))
    with pytest.raises(TypeError, match="cannot combine a bootstrap estimate with a jackknife estimate"):
        bootstrap(1, 2, 3) - jackknife
    exact = Estimate.exact(1.0)
    assert (jackknife - exact).kind == "jackknife" and (exact + 1).kind == "exact"
    assert (exact + 1).interval() == (2, 2) and (exact + 1).standard_error == 0


def test_unequal_replicates_do_not_pair():
    with pytest.raises(UsageError, match="cannot pair 3 with 2 bootstrap replicates"):
        bootstrap(1, 2, 3) - bootstrap(1, 2)
    groups = [Estimate(np.array(1.0), np.ones(3), "jackknife", n, (16, 16, n - 32)) for n in (48, 40)]
    with pytest.raises(UsageError, match=r"n=48 and n=40"):
        groups[0] - groups[1]


def test_intervals_of_moments_shrink_with_samples():
    def width(n):
        x = normal(range(n), (4,), seed=0, stream="x")
        reduced = reduce_blocks([{"sample": np.arange(n), "x": x}], n, {"m": Moments("x")})["m"]
        low, high = estimates(reduced)["std"].interval()
        return high - low

    assert_allclose(width(256) / width(1024), 2, rtol=0.2)  # sqrt(1024 / 256)


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("replicates", "verdict"), [([1, 2, 3], "holds"), ([-3, -2, -1], "fails"), ([-1, 0, 1], "not resolved")]
)
def test_a_verdict_is_read_off_the_interval(replicates, verdict):
    assert positive(bootstrap(*replicates)) == verdict


def test_all_of_an_array_must_hold():
    up, down, open_ = [1.0, 2.0], [-2.0, -1.0], [-1.0, 1.0]
    assert all_positive(bootstrap(*np.transpose([up, up]))) == "holds"
    assert all_positive(bootstrap(*np.transpose([up, open_]))) == "not resolved"
    assert all_positive(bootstrap(*np.transpose([up, down]))) == "fails"
    assert all_positive(bootstrap(*np.transpose([up, [np.nan, np.nan]]))) == "not resolved"
    with pytest.raises(UsageError, match=r"shape \(2,\); use all_positive"):
        positive(bootstrap(*np.transpose([up, up])))


def test_one_of_many_elements_fails_only_at_the_simultaneous_level():
    # 98 of 100 replicates are below 0: it fails alone (97.5 % quantile < 0), not as one of ten (99.75 %)
    column = np.concatenate([np.full(98, -1.0), np.full(2, 1.0)])
    assert positive(bootstrap(*column)) == "fails"
    many = np.full((100, 10), 1.0)
    many[:, 0] = column
    assert all_positive(bootstrap(*many)) == "not resolved"


def test_conjunctions_of_verdicts():
    assert every(["holds", "holds"]) == "holds"
    assert every(["holds", "not resolved"]) == "not resolved"
    assert every(["not resolved", "fails"]) == "fails"
    assert every([]) == "not resolved"


def test_exact_zero_is_not_positive():
    assert positive(Estimate.exact(0.0)) == "fails"
    assert positive(Estimate.exact(0.1)) == "holds"


def test_stacked_estimates_keep_their_pairs():
    rows = normal(range(40), (2,), seed=0, stream="rows")
    one, other = (
        estimates(reduce_blocks([{"sample": np.arange(40), "x": x}], 40, {"m": MeanRow()})["m"])["mean"]
        for x in rows.T
    )
    both = Estimate.stack([one, other, one])
    assert both.shape == (3,) and both.n == 40 and both.kind == "bootstrap"
    assert_array_equal(both.value, [one.value, other.value, one.value])
    assert_array_equal((both[0] - both[1]).replicates, (one - other).replicates)
    assert_array_equal((both[0] - both[2]).replicates, 0)
    with pytest.raises(TypeError, match="their replicates are no pairs"):
        Estimate.stack([one, Estimate.exact(1.0)])
    with pytest.raises(ValueError, match="at least one"):
        Estimate.stack([])


@pytest.mark.parametrize(
    "n", [300, 6000]
)  # 19 groups of rows, of 16 and the last of 12; 12 groups of moments, of 512
def test_replicates_of_patch_correlations_are_correlations_without_a_group(n):
    x = normal(range(n), (2, 4, 8), seed=3, stream="noise")
    x[:, 0, 0, 0] = 0.3
    x[:16, 0, 0, 0] = 0.4  # constant but in the first group: without it, it correlates with nothing
    statistic = PatchCorrelation("x", patch_size=4, top_k=3)
    reduced = reduce_blocks([{"sample": np.arange(n), "x": x}], n, {"s": statistic})["s"]
    found = estimates(reduced)
    stops = np.cumsum(reduced.group_sizes)
    for group, (size, stop) in enumerate(zip(reduced.group_sizes, stops, strict=True)):
        rest = np.delete(x, np.s_[stop - size : stop], axis=0).astype(np.float64)
        for patch in (0, 1):
            cut = rest[..., 4 * patch : 4 * patch + 4].reshape(len(rest), -1)
            cut = cut[:, cut.std(axis=0) > 1e-12]
            r = np.abs(np.corrcoef(cut.T)[np.triu_indices(cut.shape[1], k=1)])
            assert cut.shape[1] == (31 if patch == 0 and group == 0 else 32)
            assert_allclose(found["values"].replicates[group, patch], np.sort(r)[::-1][:3], atol=3e-7)
