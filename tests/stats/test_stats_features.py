"""Statistics of features: Fréchet and kernel distances, Inception score, precision and recall, alignment, cosines."""

import itertools

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from taba_core.errors import UsageError
from taba_core.rng import normal
from taba_core.stats import (
    CosineSimilarity,
    FeatureAlignment,
    FeatureBlocks,
    FeatureMoments,
    FrechetDistance,
    InceptionScore,
    density_coverage,
    estimates,
    frechet_distance,
    from_arrays,
    kernel_alignment,
    kernel_distance,
    neighbour_measures,
    precision_recall,
    reduce,
    reduce_blocks,
)
from taba_core.stats.feature_blocks import cut
from taba_core.stats.manifold import judge, nearest_squares


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


# ---------------------------------------------------------------- precision and recall

LINE = np.array([[0.0], [1.0], [3.0], [10.0]])


def test_nearest_distances_by_hand():
    # neighbours of 0: 1, 3; of 1: 1, 2; of 3: 2, 3; of 10: 7, 9; a point is not its own neighbour
    got = np.sqrt(nearest_squares(LINE, 2, scheduler="sync"))
    assert_allclose(got, [[1, 3], [1, 2], [2, 3], [7, 9]])


def test_precision_and_recall_by_hand():
    # k = 1: radii of the real points 1, 1, 2, 7: they cover -1..2, 1..5, 3..17. Generated -1, 4 and 16 lie inside,
    # 30 does not: precision 3/4. Radii of the generated 5, 5, 12, 14: they cover -6..9, 4..28, 16..44: recall 4/4.
    found = precision_recall(LINE, np.array([[-1.0], [4.0], [16.0], [30.0]]), k=1, scheduler="sync")
    assert (float(found["precision"]), float(found["recall"])) == (0.75, 1.0)
    assert found["precision"].n == 4 and found["precision"].interval()[0] < 0.75


def test_precision_and_recall_are_the_definition():
    real, fake = features(90, 4), 0.7 * features(70, 4, "fake") + 0.4
    found = precision_recall(real, fake, k=3, scheduler="sync", num_replicates=10)

    def share(queries, centres):
        within = np.linalg.norm(centres[:, None] - centres, axis=-1)
        radius = np.sort(within, axis=1)[:, 3]  # the first is the point itself
        return (np.linalg.norm(queries[:, None] - centres, axis=-1) <= radius).any(axis=1).mean()

    assert_allclose(float(found["precision"]), share(fake, real))
    assert_allclose(float(found["recall"]), share(real, fake))


def test_balls_may_be_judged_in_parts():
    points, x = features(30, 3), features(50, 3, "queries")
    squares = np.linspace(0.2, 1.4, 30) ** 2
    whole = judge(x, points, [squares, squares / 4], scheduler="sync")
    parts = [
        judge(x, points[part], [squares[part], squares[part] / 4], scheduler="sync")
        for part in (slice(0, 7), slice(7, 20), slice(20, 30))
    ]
    # Inside one ball is an OR over parts, the number of balls a sum, the nearest centre the least.
    assert_array_equal(whole.inside, np.any([part.inside for part in parts], axis=0))
    assert_array_equal(whole.balls, np.sum([part.balls for part in parts], axis=0))
    assert_allclose(whole.nearest, np.min([part.nearest for part in parts], axis=0), rtol=1e-12)
    assert 0 < whole.inside[1].sum() < whole.inside[0].sum() < 50


def test_density_and_coverage_by_hand():
    # k = 1: the real points 0, 1, 3, 10 have the balls -1..1, 0..2, 1..5, 3..17. Generated -1 and -.5 lie in one ball,
    # 4 in two, 30 in none: density (1 + 1 + 2 + 0) / (1 x 4) = 1. Balls with a generated point: of 0 (-1, its border),
    # of 3 and of 10 (4); that of 1 has none: coverage 3/4. The share of generated points in any ball is 3/4 too.
    found = density_coverage(LINE, np.array([[-1.0], [-0.5], [4.0], [30.0]]), k=1, scheduler="sync")
    assert (float(found["density"]), float(found["coverage"])) == (1.0, 0.75)
    # All generated points on one real one: every one lies in the balls of 0 (its own) and, on its border, of 1.
    # Density 2 exceeds 1, precision is 1, and coverage sees that half of the real points are missed.
    fake = np.zeros((6, 1))
    found = density_coverage(LINE, fake, k=1, scheduler="sync")
    assert (float(found["density"]), float(found["coverage"])) == (2.0, 0.5)
    assert (found["density"].n, found["coverage"].n) == (6, 4)
    assert (
        float(precision_recall(LINE, np.linspace(0, 1e-3, 6)[:, None], k=1, scheduler="sync")["precision"])
        == 1.0
    )


def test_density_and_coverage_are_the_definition():
    real, fake, k = features(90, 4), 0.7 * features(70, 4, "fake") + 0.4, 5
    found = density_coverage(real, fake, k=k, scheduler="sync", num_replicates=10)
    radius = np.sort(np.linalg.norm(real[:, None] - real, axis=-1), axis=1)[
        :, k
    ]  # the first is the point itself
    inside = np.linalg.norm(real[:, None] - fake, axis=-1) <= radius[:, None]
    assert_allclose(float(found["density"]), inside.sum() / (k * len(fake)))
    assert_allclose(float(found["coverage"]), inside.any(axis=1).mean())
    # The share of generated samples in any ball is another number, that of precision.
    assert abs(inside.any(axis=0).mean() - inside.any(axis=1).mean()) > 0.01


def test_all_four_at_once_are_those_asked_for_by_two():
    real, fake = features(60, 3), 0.8 * features(60, 3, "fake")
    options = {"scheduler": "sync", "num_replicates": 20}
    found = neighbour_measures(real, fake, precision_k=2, density_k=4, **options)
    alone = precision_recall(real, fake, k=2, **options) | density_coverage(real, fake, k=4, **options)
    assert tuple(found) == tuple(alone) == ("precision", "recall", "density", "coverage")
    for name, estimate in found.items():
        assert estimate.value == alone[name].value and float(estimate.value) > 0, name
        assert_array_equal(estimate.replicates, alone[name].replicates)


def test_neighbours_that_do_not_exist_are_refused():
    for found, said in (
        (lambda: nearest_squares(LINE, 4), "4 points have no 4 neighbours each; use a smaller k"),
        (lambda: nearest_squares(LINE, 0), "k=0: a neighbourhood has at least one neighbour"),
        (lambda: judge(LINE, features(3, 2), []), "points of 2 and 1 features have no distance"),
        (lambda: precision_recall(LINE, features(9, 2)), "give two sets of the same features"),
        (lambda: density_coverage(LINE, LINE, k=4), "use a smaller k"),
        (
            lambda: nearest_squares(np.where(LINE == 3, np.nan, LINE), 1),
            "samples 0 to 3 hold values that are not",
        ),
    ):
        with pytest.raises(UsageError, match=said):
            found()


# ---------------------------------------------------------------- sets that are read block by block


class Counted:
    """An array that is read where it is cut; it knows how many rows were read at most, and how often it was."""

    def __init__(self, values):
        self.values, self.shape, self.rows, self.reads = values, values.shape, 0, 0

    def __getitem__(self, samples):
        found = self.values[samples]
        self.rows, self.reads = max(self.rows, len(found)), self.reads + 1
        return found


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of seven rows, so that few samples are many blocks."""
    from taba_core.stats import feature_blocks

    monkeypatch.setattr(feature_blocks, "BLOCK_ROWS", 7)


def measured(real, fake, scheduler="sync"):
    kernel = kernel_distance(real, fake, num_groups=3, scheduler=scheduler)
    neighbours = neighbour_measures(real, fake, num_replicates=5, scheduler=scheduler)
    return {"kernel": kernel} | neighbours


def test_sets_in_blocks_have_the_measures_of_whole_sets(monkeypatch):
    real, fake = features(50, 6), 0.8 * features(50, 6, "fake") + 0.1
    whole = measured(real, fake)
    monkeypatch.setattr("taba_core.stats.feature_blocks.BLOCK_ROWS", 7)
    assert cut(slice(3, 20)) == [slice(3, 10), slice(10, 17), slice(17, 20)]
    for name, estimate in measured(real, fake).items():
        assert_allclose(estimate.value, whole[name].value, rtol=1e-10, err_msg=name)
        assert_allclose(estimate.replicates, whole[name].replicates, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("kind", ["zarr", "dask", "counted", "xarray"])
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_no_place_no_chunks_and_no_scheduler_change_a_bit(small_blocks, tmp_path, kind, scheduler):
    sets = [features(50, 6).astype(np.float32), (0.8 * features(50, 6, "fake")).astype(np.float32)]
    expected = measured(*sets)
    given = [stored(one, kind, tmp_path / str(index)) for index, one in enumerate(sets)]
    for name, estimate in measured(*given, scheduler=scheduler).items():
        assert estimate.value.tobytes() == expected[name].value.tobytes(), name
        assert estimate.replicates.tobytes() == expected[name].replicates.tobytes(), name
    if kind == "counted":
        assert max(one.rows for one in given) == 7 and min(one.reads for one in given) > 8


def stored(values, kind, place):
    import dask.array
    import xarray
    import zarr

    if kind == "counted":
        return Counted(values)
    if kind == "xarray":
        return xarray.DataArray(values, dims=("sample", "feature"))
    if kind == "dask":
        return dask.array.from_array(values, chunks=(9, 4))
    array = zarr.create_array(str(place), shape=values.shape, chunks=(5, 6), dtype="float32")
    array[:] = values
    return array


def test_the_mean_of_blocks_is_the_mean_of_the_array_to_the_bit(small_blocks):
    x = features(50, 6) * 1e3
    blocks = FeatureBlocks.of(x)
    assert blocks.mean().tobytes() == x.mean(axis=0).tobytes()
    assert (len(blocks), blocks.num_features) == (50, 6) and FeatureBlocks.of(blocks) is blocks
    assert FeatureBlocks.of(x.reshape(50, 2, 3).tolist()).num_features == 6


def test_rows_are_kept_in_their_own_type_and_give_the_same_bits():
    p, q = (features(40, 6, name).astype(np.float32) for name in "pq")
    narrow, wide = (
        reduced(FrechetDistance("p", "q"), p=a, q=b) for a, b in ((p, q), (p * 1.0, q.astype("f8")))
    )
    assert narrow.total["rows"].dtype == np.float32 and wide.total["rows"].dtype == np.float64
    for name, value in narrow.summary().items():
        assert value.tobytes() == wide.summary()[name].tobytes()


# ---------------------------------------------------------------- kernel distance


def direct_kernel_distance(r, g):
    def kernel(u, v):
        return (u @ v / len(u) + 1) ** 3

    within = [np.mean([kernel(u, v) for u, v in itertools.permutations(x, 2)]) for x in (r, g)]
    return sum(within) - 2 * np.mean([kernel(u, v) for u in r for v in g])


def test_kernel_distance_is_its_definition():
    r, g = features(25, 3), features(25, 3, "g") + 0.5
    got = kernel_distance(r, g, num_groups=4, scheduler="sync")
    assert_allclose(float(got), direct_kernel_distance(r, g), rtol=1e-10)
    # left-out groups: the same definition on the others; group 0 is samples 0..5
    assert_allclose(got.replicates[0], direct_kernel_distance(r[6:], g[6:]), rtol=1e-9)
    assert got.group_sizes == (6, 6, 6, 7)


def test_kernel_distance_is_unbiased_and_resolves_a_shift():
    values = [
        float(
            kernel_distance(
                features(60, 4, f"r{s}"), features(60, 4, f"g{s}"), num_groups=2, scheduler="sync"
            )
        )
        for s in range(60)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(60)
    low, _ = kernel_distance(features(200, 4), features(200, 4, "g") + 0.5).interval()
    assert low > 0


def test_kernel_distance_needs_no_order_of_tasks():
    r, g = features(50, 3), features(50, 3, "g")
    first, second = (kernel_distance(r, g, scheduler=s) for s in ("sync", "threads"))
    assert first.value.tobytes() == second.value.tobytes()
    assert first.replicates.tobytes() == second.replicates.tobytes()


def test_kernel_distances_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="two sets of equally many samples"):
        kernel_distance(features(3, 2), features(4, 2))
    with pytest.raises(UsageError, match="not finite"):
        kernel_distance(features(3, 2), np.full((3, 2), np.nan))


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
