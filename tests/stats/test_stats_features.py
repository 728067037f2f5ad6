"""Statistics of features: Fréchet and kernel distances, Inception score, precision and recall, alignment, cosines."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from taba_core.errors import UsageError
from taba_core.rng import normal
from taba_core.stats import (
    CosineSimilarity,
    FeatureAlignment,
    FeatureMoments,
    FrechetDistance,
    InceptionScore,
    estimates,
    frechet_distance,
    from_arrays,
    kernel_alignment,
    reduce,
    reduce_blocks,
)


def features(n, d, name="x"):
    return normal(range(n), (d,), seed=0, stream=name).astype(np.float64)


def reduced(statistic, **arrays):
    n = len(next(iter(arrays.values())))
    return reduce(from_arrays(arrays), n, {"s": statistic}, scheduler="sync", workers=1)["s"]


def summary(statistic, **arrays):
    return reduced(statistic, **arrays).summary()


# ---------------------------------------------------------------- Fréchet distance


def test_frechet_distance_of_diagonal_gaussians_by_hand():
    # means (0, 0) and (3, 4): 25; standard deviations (1, 2) and (3, 2): (1-3)^2 + (2-2)^2 = 4
    got = frechet_distance(np.zeros(2), np.diag([1.0, 4.0]), np.array([3.0, 4.0]), np.diag([9.0, 4.0]))
    assert_allclose(got, 29, rtol=1e-12)


@pytest.mark.parametrize("n", [40, 300])  # rows, and co-moments
def test_frechet_distance_is_the_matrix_square_root(n):
    p, q = features(n, 6), features(n, 6, "y") @ np.diag([1, 2, 1, 0.5, 1, 1]) + 0.3
    got = summary(FrechetDistance("p", "q"), p=p, q=q)
    cov_p, cov_q = np.cov(p.T), np.cov(q.T)
    root = scipy.linalg.sqrtm(cov_p @ cov_q).real
    gap = np.square(p.mean(0) - q.mean(0)).sum()
    assert_allclose(got["distance"], gap + np.trace(cov_p + cov_q - 2 * root), rtol=1e-9)
    assert_allclose(got["mean_gap"], gap, rtol=1e-9)


def test_a_singular_covariance_has_a_distance():
    # three samples in five dimensions; the product of the covariances has no inverse
    p = features(3, 5)
    assert_allclose(summary(FrechetDistance("p", "q"), p=p, q=p + 2.0)["distance"], 5 * 4, rtol=1e-6)


def test_sets_of_different_sizes_are_compared_by_their_moments():
    p, q = features(70, 4), features(150, 4, "y")
    a, b = (summary(FeatureMoments("x"), x=x) for x in (p, q))
    assert_allclose(b["covariance"], np.cov(q.T), rtol=1e-10)
    same = summary(FrechetDistance("p", "q"), p=p, q=q[:70])["distance"]
    half = summary(FeatureMoments("x"), x=q[:70])
    assert_allclose(
        frechet_distance(a["mean"], a["covariance"], half["mean"], half["covariance"]), same, rtol=1e-9
    )
    assert frechet_distance(a["mean"], a["covariance"], b["mean"], b["covariance"]) > 0


def test_rows_are_kept_in_their_own_type_and_give_the_same_bits():
    p, q = (features(40, 6, name).astype(np.float32) for name in "pq")
    narrow, wide = (
        reduced(FrechetDistance("p", "q"), p=a, q=b) for a, b in ((p, q), (p * 1.0, q.astype("f8")))
    )
    assert narrow.total["rows"].dtype == np.float32 and wide.total["rows"].dtype == np.float64
    for name, value in narrow.summary().items():
        assert value.tobytes() == wide.summary()[name].tobytes()


# ---------------------------------------------------------------- Inception score


def test_inception_score_by_hand():
    # every sample certain of its own of K = 4 classes: mean KL = ln 4, score 4; none informative: score 1
    assert_allclose(summary(InceptionScore("p"), p=np.eye(4))["score"], 4)
    assert_allclose(summary(InceptionScore("p"), p=np.full((10, 4), 0.25))["score"], 1)


def test_inception_score_is_its_definition_over_all_samples():
    p = np.exp(features(200, 5))
    p /= p.sum(axis=1, keepdims=True)
    kl = (p * np.log(p / p.mean(axis=0))).sum(axis=1).mean()
    assert_allclose(summary(InceptionScore("p"), p=p)["score"], np.exp(kl), rtol=1e-10)


def test_logits_are_no_probabilities():
    with pytest.raises(UsageError, match=r"p must hold class probabilities .* Apply the softmax first"):
        summary(InceptionScore("p"), p=features(4, 3))


# ---------------------------------------------------------------- alignment


def hsic_unbiased(k, l):
    """HSIC_1 of Song et al. (2012), as written."""
    n = len(k)
    k, l = k - np.diag(np.diagonal(k)), l - np.diag(np.diagonal(l))
    total = np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()
    return total / (n * (n - 3))


def alignment_directly(x, y, dims):
    centred = [z - z.mean(0) for z in (x, y)]
    k, l = (z @ z.T for z in centred)
    cka = (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())
    unbiased = hsic_unbiased(k, l) / np.sqrt(hsic_unbiased(k, k) * hsic_unbiased(l, l))
    u, v = (np.linalg.svd(z / z.std(0), full_matrices=False)[0][:, :dims] for z in centred)
    return cka, unbiased, np.linalg.svd(u.T @ v, compute_uv=False).mean()


# rows by samples; rows by features; co-moments merged over a tree
@pytest.mark.parametrize(("n", "d"), [(20, 40), (100, 6), (700, 6)])
def test_alignment_is_its_definition_in_every_form(n, d):
    x = features(n, d) + 3.0
    y = x[:, :4] @ features(4, 4, "mix") + features(n, 4, "noise") - 1.0
    got = summary(FeatureAlignment("x", "y", dims=3), x=x, y=y)
    assert_allclose([got["cka"], got["cka_unbiased"], got["svcca"]], alignment_directly(x, y, 3), rtol=1e-8)
    assert_allclose(kernel_alignment(x, y, samples_per_block=64), got["cka"], rtol=1e-8)


def test_alignment_ignores_rotation_scale_and_shift():
    x = features(300, 5)
    rotation = np.linalg.qr(features(5, 5, "rotation"))[0]
    got = summary(FeatureAlignment("x", "y", dims=5), x=x, y=7 * x @ rotation + 100)
    assert_allclose([got["cka"], got["cka_unbiased"], got["svcca"]], 1, rtol=1e-9)


def test_unbiased_alignment_of_independent_sets_is_zero_and_biased_is_not():
    # 50 samples of 20 features: the biased value is about d/(d + n), the unbiased one 0 on average
    found = [
        summary(FeatureAlignment("x", "y"), x=features(50, 20, f"x{s}"), y=features(50, 20, f"y{s}"))
        for s in range(40)
    ]
    biased, unbiased = (np.array([f[key] for f in found]) for key in ("cka", "cka_unbiased"))
    assert biased.min() > 0.2
    assert abs(unbiased.mean()) < 3 * unbiased.std() / np.sqrt(40)


# ---------------------------------------------------------------- cosines


def test_cosines_by_hand():
    # (1,0).(0,1) = 0; (3,4).(4,3) = 24/25; (1,0).(-2,0) = -1; a zero vector has none
    u, v = np.array([[1.0, 0], [3, 4], [1, 0], [0, 0]]), np.array([[0.0, 1], [4, 3], [-2, 0], [1, 1]])
    got = summary(CosineSimilarity("u", "v"), u=u, v=v)
    assert_allclose(got["mean"], (0 + 0.96 - 1) / 3)
    assert_allclose(got["clip_score"], 2.5 * 0.96 / 3)
    assert got["pairs"] == 3


# ---------------------------------------------------------------- any split


@given(order=st.permutations(range(8)), cut=st.integers(1, 7))
@settings(max_examples=20)
def test_alignment_through_every_form_merges_to_the_same_bits(order, cut):
    # 8 blocks of 128 samples: co-moments from the start of each, in any order, over two workers
    from taba_core.stats import MergeTree

    total = MergeTree(STATISTIC, 1024, max_groups=1)
    for part in (order[:cut], order[cut:]):
        own = MergeTree(STATISTIC, 1024, max_groups=1)
        for index in part:
            own.add(index, STATES[index], level=3)
        total.absorb(own.parts)
    got = total.finish().total
    assert {k: v.tobytes() for k, v in got.items()} == WHOLE


STATISTIC = FeatureAlignment("x", "y", dims=2)
PAIR = {"x": features(1024, 3), "y": features(1024, 2, "y")}
STATES = [
    reduce_blocks(
        [{"sample": np.arange(128), **{k: v[i * 128 : i * 128 + 128] for k, v in PAIR.items()}}],
        128,
        {"s": STATISTIC},
    )["s"].total
    for i in range(8)
]
WHOLE = {k: v.tobytes() for k, v in reduced(STATISTIC, **PAIR).total.items()}


def test_an_estimate_of_an_alignment_has_an_interval():
    found = estimates(reduced(STATISTIC, **PAIR))
    low, high = found["cka"].interval()
    assert low < float(found["cka"]) < high
