"""Laws of a run under a simulated clock: the same pool, queue and loop as of a real one."""

import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import Limits, NoWorkers, Resources, Unit
from cluster.simulation.backend import Durations, Failures
from cluster.simulation.run import simulate

GPU = Resources(num_cpus=1, num_gpus=1)


def nodes(count, gpus=4):
    return [(f"n{i}", {"CPU": 288.0, "GPU": float(gpus), "memory": 480.0 * 2**30}) for i in range(count)]


def units(count, after=lambda i: ()):
    return [Unit(f"u{i}", None, after=tuple(f"u{j}" for j in after(i))) for i in range(count)]


def run(
    count,
    num_nodes=1,
    gpus=4,
    seconds=8.0,
    after=lambda i: (),
    *,
    load_seconds=0.0,
    write_seconds=0.0,
    **options,
):
    durations = Durations(lambda unit: seconds, lambda unit: write_seconds, load_seconds)
    return simulate(units(count, after), GPU, nodes(num_nodes, gpus), durations, **options)


@settings(max_examples=30)
@given(count=st.integers(1, 60), num_nodes=st.integers(1, 4), gpus=st.integers(1, 4), load=st.integers(0, 9))
def test_equal_units_take_as_many_rounds_as_it_needs(count, num_nodes, gpus, load):
    found = run(count, num_nodes, gpus, load_seconds=float(load))
    assert found.makespan == load + math.ceil(count / (num_nodes * gpus)) * 8.0
    assert found.attempts == found.completed == count


def test_all_work_is_done_once_and_no_worker_waits_while_there_is_some():
    found = run(103, num_nodes=2, load_seconds=5.0)
    # 103 units of 8 s on 8 workers: 12 full rounds and one of 7 units, in which 1 worker waits 8 s.
    assert found.busy_worker_seconds == 103 * 8.0 and found.lost_worker_seconds == 0
    assert found.tail_seconds == 8.0
    assert found.utilisation == 103 * 8.0 / (8 * 13 * 8.0)


def test_writing_beside_computing_costs_only_the_last_write():
    assert run(40, load_seconds=5.0, write_seconds=3.0).makespan == 5 + 10 * 8 + 3


def test_writes_longer_than_computing_are_what_a_worker_waits_for():
    # One worker: compute 8 s, then five writes of 20 s, one after the other.
    found = run(5, gpus=1, write_seconds=20.0)
    assert found.makespan == 8 + 5 * 20
    assert found.busy_worker_seconds == 108  # the time of computing beside writing counts once


def test_a_chain_runs_in_its_order_however_many_workers_there_are():
    found = run(12, num_nodes=3, load_seconds=5.0, after=lambda i: (i - 1,) if i else ())
    assert found.makespan == 5 + 12 * 8


def test_two_workers_share_a_device_when_each_holds_half():
    half = Resources(num_cpus=1, num_gpus=0.5)
    found = simulate(units(16), half, nodes(1), Durations(lambda unit: 8.0))
    assert found.makespan == 2 * 8.0  # 4 devices, 8 workers


@pytest.mark.parametrize("seed", range(5))
def test_losing_a_node_loses_at_most_the_units_on_it(seed):
    failures = Failures(node_loss_per_hour=12.0, node_return_seconds=60.0, seed=seed)
    found = run(1000, num_nodes=5, load_seconds=10.0, write_seconds=1.0, failures=failures)
    assert found.nodes_lost > 0 and found.completed + len(found.failed_units) == 1000
    assert found.attempts - 1000 <= 2 * 4 * found.nodes_lost  # 4 workers, each computing one and writing one
    assert found.lost_worker_seconds <= 2 * 9.0 * 4 * found.nodes_lost


def test_what_happens_is_a_function_of_the_seed():
    failures = Failures(0.05, 0.5, 0.5, 30.0, 0.01)

    def found(seed):
        return run(300, num_nodes=3, load_seconds=4.0, failures=replace(failures, seed=seed))

    assert found(1) == found(1)
    assert found(1) != found(2)


def test_failing_and_hanging_attempts_are_tried_again_until_all_is_done():
    failures = Failures(unit_error_rate=0.1, hang_rate=0.02)
    found = run(500, num_nodes=2, failures=failures, limits=Limits(unit_first=60.0))
    # 0.1^4 of 500 units fail four times: 0.05 expected.
    assert found.completed >= 498 and found.completed + len(found.failed_units) == 500
    assert 500 * 1.05 < found.attempts < 500 * 1.25  # 12 % of attempts end badly
    assert found.workers_lost >= 1  # a hanging unit is ended with its worker
    assert found.lost_worker_seconds > 0.05 * 500 * 8


def test_a_stop_lets_running_units_finish_and_says_what_is_left():
    found = run(100, seconds=8.0, stop_after=20.0)
    # Rounds of 4 end at 8, 16 and 24 s; the stop at 20 s lets the third one end.
    assert (found.completed, found.remaining, found.makespan) == (12, 88, 24.0)


def test_a_run_whose_nodes_are_all_gone_for_good_says_so():
    with pytest.raises(NoWorkers, match="no node is alive"):
        run(10_000, failures=Failures(node_loss_per_hour=60.0))


def test_a_whole_cluster_takes_seconds():
    begin = time.perf_counter()
    found = run(20_000, num_nodes=110, seconds=60.0, load_seconds=60.0, write_seconds=2.0)
    assert found.makespan == 60 + math.ceil(20_000 / 440) * 60 + 2
    assert time.perf_counter() - begin < 30
