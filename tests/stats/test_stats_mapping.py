"""Smallest-distance mapping: worked numbers, the definition, exact independence of blocks, and what is refused."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from stats_cases import NUM_SAMPLES, Backwards, arrays, assert_same_bits

from taba_core.errors import UsageError, WorkError
from taba_core.stats import (
    METRICS,
    SmallestDistance,
    accuracy,
    attraction,
    binomial_interval,
    equal_divisions,
    from_arrays,
    nearest,
    nearest_direct,
    reduce_pairs,
)
from taba_core.stats.attractors import (
    division_accuracies,
    rank_correlation,
    resampled_attraction,
    share_above,
    top_overlap,
)

DATA = {name: arrays()[name] for name in ("noise", "image", "latent")}
STATISTICS = {"noise": SmallestDistance("noise", "image"), "latent": SmallestDistance("latent", "image")}
each_metric = pytest.mark.parametrize("metric", METRICS)


def states(data=DATA, n=NUM_SAMPLES, **options):
    return reduce_pairs(from_arrays(data), n, STATISTICS, scheduler="sync", **options)


WHOLE = states()


def points(*rows):
    return np.array(rows, dtype=np.float32)[:, None, None, :]


def test_nearest_by_hand():
    # from (1, 0): to (0, 0) 1, to (4, 0) 3, to (1, 2) 2; from (5, 3): sqrt(34), sqrt(10), sqrt(17)
    found = nearest(points((1, 0), (5, 3)), points((0, 0), (4, 0), (1, 2)))
    assert found.id.tolist() == [0, 1]
    assert_allclose(found.distance, [1, np.sqrt(10)])
    # by cosine: (1, 0) points to (4, 0), cosine 1; (5, 3).(1, 2) = 11/sqrt(34 5) = .844, (5, 3).(4, 0) = .857
    found = nearest(points((1, 0), (5, 3)), points((0, 0), (4, 0), (1, 2)), "cosine")
    assert found.id.tolist() == [1, 1]
    assert_allclose(found.distance, [0, 1 - 5 / np.sqrt(34)], atol=1e-12)


def test_a_small_norm_attracts_by_distance_and_not_by_cosine():
    # argmin |n - x|^2 = argmin |x|^2 - 2 n.x: x = (.1, 0) costs .01 - .2 n_0, its rivals 4 - 4 n_i
    noise, image = points((0.8, 0), (0, 0.8), (0.5, 0.2)), points((2, 0), (0, 2), (0.1, 0.0))
    assert nearest(noise, image).id.tolist() == [2, 2, 2]
    assert nearest(noise, image, "cosine").id.tolist()[:2] == [0, 1]
    assert attraction(nearest(noise, image)).tolist() == [0, 0, 3]


@each_metric
@pytest.mark.parametrize(("a", "b"), [("noise", "image"), ("image", "latent")])
def test_screening_by_products_finds_what_the_definition_finds(metric, a, b):
    fast, direct = nearest(DATA[a], DATA[b], metric), nearest_direct(DATA[a], DATA[b], metric)
    assert_array_equal(fast.id, direct.id)
    assert_allclose(fast.distance, direct.distance, rtol=1e-13, atol=1e-13)


@each_metric
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_float32_states_are_screened_in_float32_unless_their_products_leave_its_range(metric, scale):
    # At 1e-25 products would all be 0, at 1e25 infinite.
    a, b = (np.float32(scale) * DATA[name] for name in ("noise", "image"))
    fast, wide = nearest(a, b, metric), nearest(a.astype(np.float64), b.astype(np.float64), metric)
    assert_array_equal(fast.id, wide.id)
    assert_array_equal(fast.distance, wide.distance)
    assert_array_equal(fast.id, nearest_direct(a, b, metric).id)


@each_metric
@given(seed=st.integers(0, 9), block=st.integers(1, 25), offset=st.sampled_from([0.0, 1e4]))
@settings(max_examples=20)
def test_ties_go_to_the_smallest_id_whatever_the_blocks(metric, seed, block, offset):
    # states on a coarse lattice, far from the origin: many are equal, and products lose most of their digits there
    draw = np.random.default_rng(seed)
    a = offset + draw.integers(0, 2, (23, 3)).astype(np.float64)
    b = offset + draw.integers(0, 2, (25, 3)).astype(np.float64)
    found, direct = nearest(a, b, metric, block=block), nearest_direct(a, b, metric)
    if metric == "l2":  # exact in these numbers
        assert_array_equal(found.id, direct.id)
    again = nearest(a, b, metric)
    assert_array_equal(found.id, again.id)
    assert found.distance.tobytes() == again.distance.tobytes()
    equal = (b[:, None] == b[None]).all(axis=-1)
    chosen = found.id[found.id >= 0]  # the origin has no cosine
    assert chosen.size and all(i == np.flatnonzero(equal[i])[0] for i in chosen)


@given(size=st.integers(9, 80), scheduler=st.sampled_from(["sync", "threads", Backwards()]))
@settings(max_examples=9)
def test_any_blocks_on_any_scheduler_give_the_same_bits(size, scheduler):
    got = reduce_pairs(
        from_arrays(DATA), NUM_SAMPLES, STATISTICS, scheduler=scheduler, workers=2, samples_per_read=size
    )
    for name in STATISTICS:
        assert_same_bits(got[name], WHOLE[name])


@given(order=st.permutations(range(9)), repeat=st.integers(0, 8))
@settings(max_examples=10)
def test_partial_minima_merge_in_any_order_and_any_number_of_times(order, repeat):
    statistic, read, labels = STATISTICS["noise"], from_arrays(DATA), np.zeros(24, dtype=np.int64)

    def block(i):
        return {**read(24 * i, min(24 * i + 24, NUM_SAMPLES), statistic.variables), "division": labels}

    def cut(one):
        return {**one, "division": labels[: len(one["sample"])]}

    blocks = [cut(block(i)) for i in range(3)]
    state = {}
    for pair in [*order, repeat]:
        before = pickle.dumps(state)
        merged = statistic.merge(state, statistic.partial(blocks[pair // 3], blocks[pair % 3]))
        assert pickle.dumps(state) == before
        state = merged
    assert_same_bits(state, WHOLE["noise"])


def test_both_directions_are_the_mappings_of_the_plain_function():
    for name, statistic in STATISTICS.items():
        found = statistic.found(WHOLE[name], NUM_SAMPLES)
        for metric in METRICS:
            there, back = (
                nearest(DATA[name], DATA["image"], metric),
                nearest(DATA["image"], DATA[name], metric),
            )
            assert_array_equal(found[f"forth/{metric}"].id, there.id)
            assert_array_equal(found[f"back/{metric}"].id, back.id)
            assert found[f"back/{metric}"].distance.tobytes() == back.distance.tobytes()


def test_divisions_are_mappings_of_their_own():
    division = np.random.default_rng(0).integers(0, 3, NUM_SAMPLES)  # as random classes: not consecutive
    got = states(division=division, samples_per_read=20)["latent"]
    found = STATISTICS["latent"].found(got, NUM_SAMPLES)["forth/l2"]
    for label in range(3):
        ids = np.flatnonzero(division == label)
        alone = nearest(DATA["latent"][ids], DATA["image"][ids])
        assert_array_equal(found.id[ids], ids[alone.id])
    shares = [np.mean(found.id[division == label] == np.flatnonzero(division == label)) for label in range(3)]
    assert_allclose(division_accuracies(found, division), shares)


def test_blocks_without_partners_are_not_read():
    read, asked = from_arrays(DATA), []

    def counting(start, stop, variables):
        asked.append(start)
        return read(start, stop, variables)

    reduce_pairs(
        counting, 64, STATISTICS, division=equal_divisions(64, 4), scheduler="sync", samples_per_read=16
    )
    assert sorted(asked) == [0, 16, 32, 48]


def test_divisions_of_a_number_they_do_not_divide_differ_by_one():
    assert np.bincount(equal_divisions(70, 8)).tolist() == [9, 9, 9, 8, 9, 9, 9, 8]
    with pytest.raises(UsageError, match=r"9 divisions of 8 samples; use 1 to 8\."):
        equal_divisions(8, 9)


def test_one_sample_is_its_own_nearest():
    one = {name: x[:1] for name, x in DATA.items()}
    found = STATISTICS["noise"].found(states(one, 1)["noise"], 1)
    assert all(rows.id.tolist() == [0] for rows in found.values())
    assert np.isnan(float(rank_correlation(found["forth/l2"], np.ones(1))))


def test_constant_images_tie_and_states_without_direction_have_no_cosine():
    data = {**DATA, "image": np.zeros_like(DATA["image"])}
    found = STATISTICS["noise"].found(states(data, samples_per_read=32)["noise"], NUM_SAMPLES)
    assert (found["forth/l2"].id == 0).all()
    assert float(accuracy(found["forth/l2"], num_replicates=10)) == 1 / NUM_SAMPLES
    for direction in ("forth", "back"):
        assert (found[f"{direction}/cosine"].id == -1).all()
        assert float(accuracy(found[f"{direction}/cosine"], num_replicates=10)) == 0
        assert attraction(found[f"{direction}/cosine"]).sum() == 0


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_states_that_are_not_finite_are_refused(value):
    data = {**DATA, "latent": DATA["latent"].copy()}
    data["latent"][40, 1, 2, 3] = value
    with pytest.raises(WorkError, match=r"sample 40 of latent holds NaN or infinite values"):
        states(data, samples_per_read=32)


def test_mixed_dtypes_are_the_same_numbers():
    whole = np.round(4 * DATA["noise"])
    for dtype in (np.int8, np.float16, np.float64):
        found, same = nearest(whole.astype(dtype), DATA["image"]), nearest(whole, DATA["image"])
        assert_array_equal(found.id, same.id)
        assert found.distance.tobytes() == same.distance.tobytes()


def test_missing_samples_and_impossible_requests_are_refused():
    state = states(n=20)["noise"]
    with pytest.raises(
        WorkError, match=r"SmallestDistance: 50 of 70 samples are missing, the first is sample 20"
    ):
        STATISTICS["noise"].found(state, NUM_SAMPLES)
    with pytest.raises(WorkError, match=r"read\(64, 80\) returned 6 samples of image for 16 ids"):
        states(n=80, samples_per_read=64)
    with pytest.raises(UsageError, match="division has shape"):
        states(division=np.zeros(3))
    with pytest.raises(UsageError, match="num_samples=0: nothing to reduce"):
        states(n=0)
    with pytest.raises(UsageError, match="metric='l1' is not known; use one of l2, cosine"):
        nearest(DATA["noise"], DATA["image"], "l1")
    with pytest.raises(UsageError, match=r"70 queries of 128 entries against 70 candidates of 64"):
        nearest(DATA["noise"], DATA["image"][:, :1])


def test_an_exact_interval_knows_misses_that_did_not_happen():
    assert_allclose(binomial_interval(256, 256), (0.025 ** (1 / 256), 1))
    # 8 of 10, Clopper and Pearson: .4439 to .9748
    assert_allclose(binomial_interval(8, 10), (0.4439, 0.9748), atol=1e-4)
    assert binomial_interval(0, 0) == (0, 1)
    assert [share_above(256, 256, x) for x in (0.985, 0.99)] == ["holds", "not resolved"]
    assert share_above(100, 256, 0.5) == "fails"
    with pytest.raises(UsageError, match="3 of 2 at level"):
        binomial_interval(3, 2)


def test_resampled_in_degrees_are_counts_under_the_weights_of_the_queries():
    from taba_core.stats import poisson_weights

    found = STATISTICS["noise"].found(WHOLE["noise"], NUM_SAMPLES)["forth/l2"]
    weights = poisson_weights(np.arange(NUM_SAMPLES), seed=0, num_replicates=7)
    direct = np.stack([np.bincount(found.id, weights=w, minlength=NUM_SAMPLES) for w in weights])
    assert_array_equal(resampled_attraction(found, num_replicates=7), direct)
    assert_array_equal(attraction(found), np.bincount(found.id, minlength=NUM_SAMPLES))


def test_rank_correlation_and_overlap_by_hand():
    # in-degrees 3, 1, 0, 0 against norms 1, 2, 3, 4: ranks 4, 3, 1.5, 1.5 and 1, 2, 3, 4
    # covariance sum 1.5(-1.5) + .5(-.5) + (-1)(.5) + (-1)(1.5) = -4.5; 4.5/sqrt(4.5 * 5) = .9487
    found = nearest(points((0, 0), (0, 0), (0, 1), (9, 9)), points((0, 0), (9, 8), (70, 0), (99, 0)))
    assert found.id.tolist() == [0, 0, 0, 1]
    rho = rank_correlation(found, np.array([1.0, 2, 3, 4]))
    assert_allclose(rho.value, -0.9487, atol=1e-4)
    # without query 3: in-degrees 3, 0, 0, 0, ranks 4, 2, 2, 2: -3/sqrt(3 5) = -.7746; without 0, 1 or 2 as before
    assert_allclose(rho.replicates, [-0.9487, -0.9487, -0.9487, -0.7746], atol=1e-4)
    assert float(top_overlap(found, np.array([1, 3]), num_replicates=20)) == 1
