"""One pass, any scheduler, the same bits; missing, duplicate and foreign samples are refused."""

import functools
import os
import subprocess
import sys
import tracemalloc

import dask
import numpy as np
import pytest
from numpy.testing import assert_allclose
from stats_cases import NUM_SAMPLES, STATISTICS, Backwards, arrays, assert_same_bits, block

from taba_core.errors import UsageError, WorkError
from taba_core.rng import normal
from taba_core.stats import (
    FeatureMoments,
    FrechetDistance,
    MergeTree,
    Moments,
    PatchCorrelation,
    estimates,
    from_arrays,
    reduce,
    reduce_blocks,
)
from taba_core.stats.reread import reduce_rereading
from taba_core.stats.tree import group_level

DATA = arrays()
READ = from_arrays(DATA)
WHOLE = reduce_blocks([block(DATA, 0, NUM_SAMPLES)], NUM_SAMPLES, STATISTICS)


@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "sync"},
        {"scheduler": "threads", "workers": 1},
        {"scheduler": "threads", "workers": 5},
        {"scheduler": dask.get},
        {"scheduler": Backwards()},
        {"samples_per_read": 16},
        {"samples_per_read": 256},
    ],
    ids=["sync", "1 thread", "5 threads", "a function", "a mapper", "read 16", "read 256"],
)
def test_schedulers_workers_and_read_sizes_give_the_same_bits(options):
    reduced = reduce(READ, NUM_SAMPLES, STATISTICS, **options)
    for name in STATISTICS:
        assert_same_bits(reduced[name].total, WHOLE[name].total)
        for group, expected in zip(reduced[name].groups, WHOLE[name].groups, strict=True):
            assert_same_bits(group, expected)


def test_processes_give_the_same_bits():
    chosen = {name: STATISTICS[name] for name in ("patch correlation", "step error")}
    reduced = reduce(READ, NUM_SAMPLES, chosen, scheduler="processes", workers=2)
    for name in chosen:
        assert_same_bits(reduced[name].total, WHOLE[name].total)


def noise_block(start, stop, variables):
    return {"sample": np.arange(start, stop), "x": normal(range(start, stop), (1, 8, 8), seed=0, stream="x")}


@pytest.mark.parametrize("workers", [1, 3, 40])
def test_many_blocks_in_nodes_of_any_size_give_the_same_bits(workers):
    # 1,000 samples = 63 blocks: 16 groups of four blocks; 40 workers get one block a node instead
    statistics = {"c": PatchCorrelation("x", patch_size=4), "m": Moments("x")}
    whole = reduce_blocks([noise_block(0, 1000, ())], 1000, statistics)
    reduced = reduce(noise_block, 1000, statistics, workers=workers)
    assert len(whole["c"].groups) == 16 and whole["c"].group_sizes == (64,) * 15 + (40,)
    for name in statistics:
        assert_same_bits(reduced[name].total, whole[name].total)


REDUCE_IN_THREADS = """
import hashlib, threading
import numpy as np
from threadpoolctl import threadpool_info
from taba_core.rng import normal
from taba_core.stats import Moments, estimates, reduce
def read(start, stop, variables):
    return {"sample": np.arange(start, stop), "x": normal(range(start, stop), (3, 8, 8), seed=0, stream="x")}
def digest():
    found = estimates(reduce(read, 256, {"m": Moments("x")}, workers=2)["m"])
    return hashlib.blake2b(b"".join(e.replicates.tobytes() for e in found.values())).hexdigest()
thread = threading.Thread(target=digest)  # BLAS is first limited in a thread that ends before the next use
thread.start(); thread.join()
print(digest(), {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"})
"""


@pytest.mark.parametrize("threads", ["1", "2", "4"])
def test_blas_threads_do_not_change_bits(threads):
    # Interleaved limits from several threads once left some products on two threads, with other last bits.
    done = subprocess.run(
        [sys.executable, "-c", REDUCE_IN_THREADS],
        env=os.environ | {"OPENBLAS_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        check=True,
    )
    digest, limits = done.stdout.split(maxsplit=1)
    assert limits.strip() == "{1}"
    assert digest == subprocess_digest()


@functools.cache
def subprocess_digest():
    done = subprocess.run(
        [sys.executable, "-c", REDUCE_IN_THREADS],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[0]


@pytest.mark.parametrize(("samples", "level"), [(1, 0), (320, 0), (321, 1), (10240, 5), (16 * 41, 2)])
def test_there_are_at_most_20_groups(samples, level):
    # 320 samples are 20 blocks; 321 are 21, hence 11 pairs; 10240 are 640 = 20 x 2^5; 41 = 21 pairs = 11 fours
    assert group_level(samples) == level


def peak_of_reduction(num_samples):
    statistic = PatchCorrelation("x", patch_size=8)
    blocks = (noise_block(start, start + 16, ()) for start in range(0, num_samples, 16))
    tracemalloc.start()
    reduced = reduce_blocks(blocks, num_samples, {"c": statistic}, max_groups=4)["c"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, sum(x.nbytes for x in reduced.total.values())


def test_memory_of_the_correlation_does_not_grow_with_samples():
    # From 1,024 samples on, some groups are multiplied out while others are rows; fewer need less.
    (small, small_state), (large, large_state) = peak_of_reduction(1024), peak_of_reduction(4096)
    assert large_state == small_state == 8 * (1 + 64 + 64 * 64)  # count, one patch's mean and co-moments
    assert large < 1.3 * small


def test_missing_blocks_are_named():
    with pytest.raises(
        WorkError, match=r"1 of 5 blocks are missing, the first is block 3 \(samples 48 to 63\)"
    ):
        parts = [block(DATA, 0, 48), block(DATA, 64, NUM_SAMPLES)]
        reduce_blocks(parts, NUM_SAMPLES, {"m": Moments("noise")})


def test_duplicate_blocks_are_named():
    with pytest.raises(
        WorkError, match=r"block 1 \(samples 16 to 31\) was added twice; a sample counts once"
    ):
        reduce_blocks([block(DATA, 0, 32), block(DATA, 16, 32)], NUM_SAMPLES, {"m": Moments("noise")})


def test_a_block_already_inside_a_merged_node_is_a_duplicate():
    statistic = Moments("noise")
    tree = MergeTree(statistic, NUM_SAMPLES, max_groups=1)
    state = statistic.partial(block(DATA, 0, 16))
    tree.add(0, state, level=1)
    with pytest.raises(WorkError, match=r"block 1 .* was added twice"):
        tree.add(1, state)


def test_a_block_outside_the_tree_is_refused():
    with pytest.raises(WorkError, match="node 5 of level 0 is not in the tree of 5 blocks"):
        MergeTree(Moments("noise"), NUM_SAMPLES).add(5, {})


@pytest.mark.parametrize(("start", "stop"), [(8, 24), (0, 10)])
def test_samples_that_are_no_canonical_block_are_refused(start, stop):
    with pytest.raises(WorkError, match="no canonical blocks: a block is 16 consecutive ids"):
        reduce_blocks([block(DATA, start, stop)], NUM_SAMPLES, {"m": Moments("noise")})


def shifted_read(start, stop, variables):
    return {"sample": np.arange(start + 1, stop + 1), "x": np.zeros((stop - start, 2))}


def test_a_reader_of_other_samples_is_refused():
    with pytest.raises(WorkError, match="returned other samples"):
        reduce(shifted_read, 16, {"m": Moments("x")}, scheduler="sync")


def test_a_reader_that_lacks_a_variable_is_refused():
    with pytest.raises(WorkError, match="returned no variable y"):
        reduce(noise_block, 16, {"m": Moments("y")}, scheduler="sync")


def test_reads_that_cut_blocks_and_empty_requests_are_refused():
    with pytest.raises(UsageError, match="samples_per_read=24 would cut a canonical block"):
        reduce(READ, 16, {"m": Moments("noise")}, samples_per_read=24)
    with pytest.raises(UsageError, match="num_samples=0: nothing to reduce"):
        reduce(READ, 0, {"m": Moments("noise")})


def counted(calls, start, stop, variables):
    calls.append((start, stop, variables))
    return READ(start, stop, variables)


def test_one_pass_reads_every_sample_once_and_only_what_is_needed():
    calls = []
    statistics = {"m": Moments("noise"), "c": PatchCorrelation("noise", patch_size=4)}
    reduced = reduce(functools.partial(counted, calls), NUM_SAMPLES, statistics, scheduler="sync", workers=1)
    assert sorted(sample for start, stop, _ in calls for sample in range(start, stop)) == list(
        range(NUM_SAMPLES)
    )
    assert {variables for *_, variables in calls} == {("noise",)}
    assert_allclose(reduced["m"].summary()["mean"], DATA["noise"].mean(dtype=np.float64), rtol=1e-9)


# ---------------------------------------------------------------- groups that are read again


@pytest.mark.parametrize("num_samples", [1, 40, 320, 1000])
@pytest.mark.parametrize("scheduler", ["sync", "threads", Backwards()])
def test_groups_that_are_read_again_give_the_same_bits(num_samples, scheduler):
    # Of 1,000 samples 16 groups, the last of 40; correlations of 16 positions keep fewer than 512 samples as rows.
    for statistic in (PatchCorrelation("x", patch_size=4), FeatureMoments("x")):
        whole = reduce(noise_block, num_samples, {"s": statistic}, scheduler="sync")["s"]
        again = reduce_rereading(noise_block, num_samples, statistic, scheduler=scheduler, workers=3)
        assert_same_bits(again.total, whole.total)
        assert (again.n, again.group_sizes, again.samples) == (whole.n, whole.group_sizes, whole.samples)
        for group, expected in zip(again.groups, whole.groups, strict=True):
            assert_same_bits(group, expected)
        found, expected = estimates(again), estimates(whole)
        for name, estimate in found.items():
            assert estimate.replicates.tobytes() == expected[name].replicates.tobytes(), name


def counted_noise(calls, start, stop, variables):
    calls.append((start, stop))
    return noise_block(start, stop, variables)


def test_a_total_reads_samples_once_and_its_jackknife_once_on_every_level():
    calls = []
    read = functools.partial(counted_noise, calls)
    reduced = reduce_rereading(read, 1000, FeatureMoments("x"), scheduler="sync", samples_per_read=16)
    assert sum(stop - start for start, stop in calls) == 1000
    estimates(reduced)
    assert sum(stop - start for start, stop in calls) == 1000 * (1 + 4)  # 16 groups are halved four times
    assert max(stop - start for start, stop in calls) == 16


def test_few_group_states_are_in_memory_where_groups_are_read_again():
    """20 groups of 512 samples with co-moments of 2 x 128 features, 264 kB each: 5.3 MB, or some of them."""
    features = {name: normal(range(10240), (128,), seed=0, stream=name) for name in ("p", "q")}
    statistic, read = FrechetDistance("p", "q"), from_arrays(features)

    def peak(function):
        function(512)  # what the first use loads
        tracemalloc.start()
        try:
            found = function(10240)
            return tracemalloc.get_traced_memory()[1], found
        finally:
            tracemalloc.stop()

    kept, whole = peak(lambda n: reduce(read, n, {"s": statistic}, scheduler="sync", workers=1)["s"])
    few, again = peak(lambda n: reduce_rereading(read, n, statistic, scheduler="sync", workers=1))
    assert_same_bits(again.total, whole.total)
    assert len(again.groups) == 20 and kept > 20 * 264_000 > 1.3 * few
