"""Benchmarks of the pool, at sizes that take seconds."""

from cluster.pool.local import LocalExecutor
from workflows.bench import driver_memory, pool_scaling, startup


def test_the_driver_holds_next_to_nothing_per_unit():
    found = driver_memory.measure(repeats=1, sizes=(100, 4_000))
    assert found.figures["growth"] < 1e6  # a list of these units, payloads included, takes 4 MB and more
    assert len(found.rows) == 2 and "growth from 100 to 4000 units" in found.notes[0]


def test_a_round_is_as_long_as_a_unit_on_any_number_of_workers():
    starts = []
    for workers in (1, 3):
        seconds = pool_scaling.seconds_a_round(LocalExecutor(workers=workers), workers, 2, 0.1, starts)
        assert 0.1 <= seconds < 0.3
    assert len(starts) == 2


def test_startup_stops_the_clock_at_the_first_unit():
    found = startup.measure(repeats=1, executor="local", model="gaussian", warm_up=0)
    assert found.figures["seconds"] > 0.1  # a process that imports torch
