"""Laws of every statistic: a value belongs to the samples, not to how they were split, ordered or merged."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from stats_cases import NUM_SAMPLES, STATISTICS, arrays, assert_same_bits, block

from taba_core.errors import WorkError
from taba_core.rng import normal
from taba_core.stats import MergeTree, MomentStatistic, SampleStatistic, estimates, reduce_blocks

DATA = arrays()
BLOCKS = [block(DATA, start, min(start + 16, NUM_SAMPLES)) for start in range(0, NUM_SAMPLES, 16)]
PARTIALS = {name: [statistic.partial(b) for b in BLOCKS] for name, statistic in STATISTICS.items()}
WHOLE = reduce_blocks([block(DATA, 0, NUM_SAMPLES)], NUM_SAMPLES, STATISTICS, max_groups=2)
every_statistic = pytest.mark.parametrize("name", STATISTICS)


@given(order=st.permutations(range(len(BLOCKS))), workers=st.lists(st.integers(0, 2), min_size=5, max_size=5))
@settings(max_examples=25)
def test_any_split_over_any_workers_in_any_order_gives_the_same_bits(order, workers):
    for name, statistic in STATISTICS.items():
        total = MergeTree(statistic, NUM_SAMPLES, max_groups=2)
        for worker in set(workers):
            own = MergeTree(statistic, NUM_SAMPLES, max_groups=2)
            for index in order:
                if workers[index] == worker:
                    own.add(index, PARTIALS[name][index])
            total.absorb(own.parts)
        assert_same_bits(total.finish().total, WHOLE[name].total)


@every_statistic
def test_the_empty_state_is_neutral(name):
    statistic, state = STATISTICS[name], PARTIALS[name][0]
    assert_same_bits(statistic.merge(statistic.init(), state), state)
    assert_same_bits(statistic.merge(state, statistic.init()), state)
    assert_same_bits(statistic.update(statistic.init(), BLOCKS[0]), state)


def test_merging_group_by_group_is_merging_whole_states():
    # co-moments of 512 samples each: 5 states, so that one moves up
    statistic = STATISTICS["patch correlation"]
    data = {"noise": normal(range(5 * 512), (2, 8, 8), seed=1, stream="noise")}
    states = [statistic.partial(block(data, i * 512, i * 512 + 512)) for i in range(5)]
    assert all("comoment" in state for state in states)
    pairs = [statistic.merge(states[0], states[1]), statistic.merge(states[2], states[3])]
    assert_same_bits(statistic.merge_tree(states), statistic.merge(statistic.merge(*pairs), states[4]))


@every_statistic
def test_merge_leaves_its_arguments_as_they_are(name):
    statistic, (a, b) = STATISTICS[name], PARTIALS[name][:2]
    before = [pickle.dumps(a), pickle.dumps(b)]
    statistic.merge(a, b)
    assert [pickle.dumps(a), pickle.dumps(b)] == before


@every_statistic
def test_summarising_leaves_the_state_as_it_is(name):
    state = PARTIALS[name][0]
    before = pickle.dumps(state)
    STATISTICS[name].summarise(state)
    assert pickle.dumps(state) == before


@every_statistic
def test_a_sequential_pass_agrees_to_rounding(name):
    statistic, state = STATISTICS[name], STATISTICS[name].init()
    for b in BLOCKS:
        state = statistic.update(state, b)
    expected = WHOLE[name].summary()
    for key, value in statistic.summarise(state).items():
        assert_allclose(value, expected[key], rtol=1e-9, atol=1e-12)


@every_statistic
def test_states_are_float64_and_int64_and_the_statistic_pickles(name):
    kept = {"rows": {"<f4", "<f8"}}  # samples kept as they are, until they are multiplied out
    for key, x in WHOLE[name].total.items():
        assert x.dtype.str in kept.get(key, {"<f8", "<i8"}), key
    assert pickle.loads(pickle.dumps(STATISTICS[name])) == STATISTICS[name]


@every_statistic
def test_reading_only_the_declared_variables_is_enough(name):
    statistic = STATISTICS[name]
    part = {key: BLOCKS[0][key] for key in ("sample", *statistic.variables)}
    assert_same_bits(statistic.partial(part), PARTIALS[name][0])


@every_statistic
def test_a_block_as_large_as_a_statistic_takes_is_the_merge_of_its_canonical_blocks(name):
    statistic = STATISTICS[name]
    tree = MergeTree(statistic, 64, max_groups=1)
    for index in range(4):
        tree.add(index, PARTIALS[name][index])
    size = min(statistic.whole_block, 64)
    assert size >= 16
    parts = [statistic.partial(block(DATA, start, start + size)) for start in range(0, 64, size)]
    while len(parts) > 1:
        parts = [statistic.merge(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    assert_same_bits(parts[0], tree.finish().total)


@every_statistic
def test_the_memory_layout_of_a_block_does_not_change_bits(name):
    turned = {key: np.asfortranarray(value) for key, value in BLOCKS[0].items()}
    assert_same_bits(STATISTICS[name].partial(turned), PARTIALS[name][0])


@every_statistic
def test_estimates_repeat_bit_for_bit_and_have_the_summary_as_value(name):
    first, again = estimates(WHOLE[name], num_replicates=50), estimates(WHOLE[name], num_replicates=50)
    summary = WHOLE[name].summary()
    assert first.keys() == summary.keys()
    for key, estimate in first.items():
        assert estimate.replicates.tobytes() == again[key].replicates.tobytes()
        assert estimate.replicates.shape[1:] == estimate.value.shape
        assert_allclose(estimate.value, summary[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", [n for n, s in STATISTICS.items() if isinstance(s, MomentStatistic)])
def test_leaving_a_group_out_is_computing_without_its_samples(name):
    # max_groups = 2: groups are samples 0..63 and 64..69, so leaving the second out leaves blocks 0..3.
    statistic = STATISTICS[name]
    _, without_last = statistic.summaries_without(WHOLE[name].groups)
    direct = reduce_blocks([block(DATA, 0, 64)], 64, {"s": statistic})["s"].summary()
    for key, value in without_last.items():
        assert_allclose(value, direct[key], rtol=1e-10, atol=1e-13)
    assert WHOLE[name].group_sizes == (64, 6)


@pytest.mark.parametrize("name", [n for n, s in STATISTICS.items() if isinstance(s, SampleStatistic)])
def test_a_sample_with_weight_two_counts_like_two_samples(name):
    statistic, state = STATISTICS[name], PARTIALS[name][0]
    doubled = {key: np.repeat(value, 2, axis=0) for key, value in state.items()}
    once = statistic.weighted(state, lambda ids: np.full((1, len(ids)), 2.0))
    for key, value in statistic.summarise(doubled).items():
        assert_allclose(once[key][0], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [n for n, s in STATISTICS.items() if isinstance(s, SampleStatistic)])
def test_duplicate_samples_are_refused(name):
    statistic, state = STATISTICS[name], PARTIALS[name][1]
    with pytest.raises(WorkError, match=r"sample 16 is in both states \(16 such samples\)"):
        statistic.merge(state, state)


def test_statistics_are_frozen_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        STATISTICS["region error"].region = "other"
