"""Benchmarks run at any size, and what they compare is the same thing computed in two ways."""

import math

import numpy as np
import pytest

from cluster.pool.local import LocalExecutor
from taba_core import rng
from taba_core.errors import UsageError
from taba_core.stats.frechet import frechet_of_rows
from taba_core.stats.kernel_distance import kernel_distance
from taba_core.stats.manifold import neighbour_measures
from workflows.bench import (
    NAMES,
    correlation,
    correlation_memory,
    description,
    features,
    mixture,
    overhead,
    path_distance,
    plain_share,
    run_benchmarks,
    shard_runs,
    stats_scale,
    step_error,
)
from workflows.bench.paired import (
    Comparison,
    Measurement,
    Pairs,
    TableRow,
    print_measurement,
    run_pairs,
    timed,
)

SMALL_MIXTURE = {"num_components_per_photo": 1, "rank": 4}


def test_without_names_every_benchmark_is_listed_with_its_line(capsys):
    run_benchmarks([], repeats=1)
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(NAMES)
    assert all(description(name) in line for name, line in zip(NAMES, lines, strict=True))


def test_an_unknown_benchmark_is_refused_before_any_runs(capsys):
    with pytest.raises(UsageError, match="unknown benchmark 'mixtur': did you mean mixture"):
        run_benchmarks(["plain-share", "mixtur"], repeats=1)
    assert capsys.readouterr().out == ""


def test_sides_alternate_after_one_run_of_each_that_does_not_count():
    calls = []

    def side(name):
        def run():
            calls.append(name)
            return float(len(calls))

        return run

    pairs = run_pairs(side("A"), side("B"), repeats=2)
    assert calls == ["A", "B"] * 3
    assert (pairs.first, pairs.second) == ((3.0, 5.0), (4.0, 6.0))


def test_ratio_is_of_medians_and_pairs_keep_their_own():
    # medians 2 and 6: ratio 3; pairs 4/1, 6/2, 7/10
    pairs = Pairs((1.0, 2.0, 10.0), (4.0, 6.0, 7.0))
    assert pairs.medians == (2.0, 6.0) and pairs.ratio == 3.0
    assert pairs.ratios == (4.0, 3.0, 0.7)
    first, second = Comparison("what", "n", ("A", "B"), target="<= 1").rows(pairs)
    assert (first.side, first.median, first.spread, first.ratio) == ("A", "2 s", "1 s to 10 s", "")
    assert (second.side, second.ratio, second.pairs, second.target) == ("B", "3", "0.7 to 4", "<= 1")


def test_timed_measures_the_seconds_of_the_call(monkeypatch):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr("workflows.bench.paired.time.perf_counter", lambda: next(clock))
    assert timed(lambda: None)() == 2.5


def test_columns_nobody_fills_are_not_printed(capsys):
    print_measurement(Measurement((TableRow("share", "3", "A", "1 %", target=">= 1 %"),), {}, ("a note",)))
    header, _, row, note = capsys.readouterr().out.splitlines()
    assert header.split() == ["what", "n", "side", "median", "target"]
    assert row.split() == ["share", "3", "A", "1", "%", ">=", "1", "%"] and note == "  a note"


def test_all_components_at_once_are_the_loop_over_components():
    found = mixture.measure(
        repeats=1, batch_size=4, num_inference_steps=10, num_levels=3, options=SMALL_MIXTURE
    )
    assert found.figures["max_difference"] < 1e-3
    assert found.figures["image_nfe_per_second"] > 0
    assert len(found.rows) == 4 and "10 components of rank 4" in found.rows[0].what


def test_plain_share_is_a_share_and_does_not_depend_on_repeats():
    sizes = dict(num_samples=8, num_inference_steps=5, options=SMALL_MIXTURE)
    once, again = plain_share.measure(repeats=1, **sizes), plain_share.measure(repeats=3, **sizes)
    # The bottom right pixel is plain in every image: at least 1 / 1024.
    assert 1 / 1024 <= once.figures["generated"] < 1
    assert once.figures == again.figures


def test_inner_products_give_the_distances_of_the_definition():
    found = path_distance.measure(repeats=1, num_samples=3, num_steps=4, sample_shape=(1, 4, 4))
    # Two normals of d = 16 are about sqrt(32) apart; float64 keeps 15 digits of that.
    assert 3 < found.figures["largest"] < 9
    assert found.figures["max_difference"] < 1e-13


def test_cached_states_need_t_times_fewer_evaluations_for_the_same_predictions():
    found = step_error.measure(repeats=1, num_samples=2, num_inference_steps=5, model_name="gaussian")
    assert found.figures["nfe_cached"] == 5 and found.figures["nfe_restarted"] == 25
    assert found.figures["nfe_ratio"] == 5
    # 5 + 4 + 3 + 2 + 1 evaluations when replaced steps are skipped: 15 / 5
    assert found.figures["nfe_ratio_skipping"] == 3
    assert found.figures["max_difference"] < 1e-4


def test_the_state_of_the_correlation_does_not_grow_with_n():
    found = correlation_memory.measure(repeats=1, sizes=(512, 1024), sample_shape=(1, 16, 16)).figures
    # 4 patches of 64 positions: 64^2 co-moments and 64 means each, and the count, 8 bytes a number
    assert found["state_small"] == found["state_large"] == 8 * (4 * (64**2 + 64) + 1)
    assert found["state_bytes_large"] > 0 and math.isfinite(found["groups_bytes_large"])


def test_streamed_correlations_are_those_of_one_matrix():
    found = correlation.measure(
        repeats=1, num_samples=600, num_with_interval=300, sample_shape=(3, 16, 16)
    ).figures
    # float32 products on either side: 7 digits
    assert found["float32_difference"] < 1e-6 and found["float64_difference"] < 1e-6
    assert min(found["float32_ratio"], found["float64_ratio"], found["interval_ratio"]) > 0


def test_the_memory_of_every_statistic_is_flat_in_samples():
    names = ["correlation", "step-error", "frechet"]
    found = [
        stats_scale.measure(
            repeats=1, num_samples=n, sample_shape=(3, 16, 16), num_features=32, names=names
        ).figures
        for n in (1024, 4096)
    ]
    for name in names:
        small, large = (f[f"{name}_state_bytes"] for f in found)
        kept = {"step-error": 4, "moments": 4, "png": 4}.get(
            name, 1
        )  # rows a sample; a fixed state otherwise
        assert large <= 1.01 * kept * small, name
        assert found[1][f"{name}_peak_bytes"] < found[0][f"{name}_peak_bytes"] + 64e6, name


def test_measures_of_sets_of_features_are_those_of_arrays_and_their_memory_is_flat(tmp_path):
    sizes = (64, 256)
    found = features.measure(repeats=1, sizes=sizes, num_features=16, directory=str(tmp_path))
    assert len(found.rows) == 6 and not list(tmp_path.iterdir())
    for n in sizes:
        real = rng.normal(range(n), (16,), seed=0, stream="bench")
        samples = (rng.normal(range(n), (16,), seed=1, stream="bench") * 0.99).astype(np.float32)
        expected = {f"neighbours/{n}/{k}": v for k, v in neighbour_measures(real, samples).items()}
        expected[f"kernel/{n}/kernel"] = kernel_distance(real, samples)
        for name, estimate in expected.items():
            assert found.figures[name] == float(estimate.value), name
        assert found.figures[f"frechet/{n}/frechet"] == pytest.approx(
            frechet_of_rows(real, samples), rel=1e-4
        )
        assert 0 < found.figures[f"kernel/{n}/bytes"] < 64e6


def overhead_of(**options):
    return overhead.measure(
        repeats=1, model="gaussian", num_shards=3, samples_per_shard=4, num_steps=3, workers=2, **options
    )


def test_overhead_counts_every_shard_of_both_workloads():
    found = overhead_of(make_executor=lambda: LocalExecutor(workers=2))
    assert [row.side for row in found.rows[::2]] == ["bare loop, 2 processes"] * 2
    # 12 images: noise, image, latent of 3072 float32 and an int32 class; x_t and eps_t of 3 steps beside
    assert found.figures["images and latents/bytes"] >= 12 * (3 * 3072 * 4 + 4)
    paths = found.figures["whole sampling paths/bytes"]
    assert paths - found.figures["images and latents/bytes"] >= 12 * 3072 * 4 * (2 * 3 - 1)
    assert all(value > 0 for value in found.figures.values())


def test_bare_and_stored_shards_hold_the_same_arrays(tmp_path):
    import numpy as np

    from taba_core.store import Store
    from workflows.compute.worker import ShardWorker

    work = shard_runs.Work.of("images and latents", "gaussian", 2, 4, 3)
    _, units = shard_runs.stored_units(work, 1, tmp_path)
    for outcome in LocalExecutor().execute(units, shard_runs.BenchWorker):
        assert outcome.error is None
    worker = ShardWorker()
    for artifact, names in work.artifacts:
        computed = worker.compute(artifact, *work.extent.ids(1), names)
        stored = Store.open(tmp_path / "store").open_artifact(artifact).read_shard(1, names)
        for name in names:
            np.testing.assert_array_equal(stored[name], computed[name])


@pytest.mark.cluster
def test_overhead_runs_on_ray():
    found = overhead_of(workloads=("images and latents",))
    assert found.figures["images and latents/ratio"] > 0 and found.figures["start_seconds"] > 0
    assert "not counted" in found.notes[-1]
