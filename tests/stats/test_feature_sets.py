"""Kernel distance, precision, recall, density and coverage: worked numbers, definitions, and sets read in blocks."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from stats_cases import Backwards

from taba_core.errors import UsageError
from taba_core.rng import normal
from taba_core.stats import (
    FeatureBlocks,
    density_coverage,
    kernel_distance,
    neighbour_measures,
    precision_recall,
)
from taba_core.stats.feature_blocks import cut
from taba_core.stats.manifold import judge, nearest_squares


def features(n, d, name="x"):
    return normal(range(n), (d,), seed=0, stream=name).astype(np.float64)


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
@pytest.mark.parametrize("scheduler", ["sync", "threads", Backwards()])
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
