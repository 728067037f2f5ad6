"""Units of several groups in one queue: workers spread so that all end together, and change as seldom as they can."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster import Limits, Resources, Unit
from cluster.pool.unit_queue import UnitQueue
from cluster.pool.units import GroupedUnits, UnitGroup
from cluster.simulation.backend import Durations
from cluster.simulation.run import simulate


class Groups:
    """Groups of independent units: how many, the weight of each, and what loading takes."""

    def __init__(self, *groups, after=lambda index: []):
        self.units = [
            (f"{name}{i}", weight)
            for name, (count, weight, _) in zip("abcdef", groups, strict=False)
            for i in range(count)
        ]
        self.after, self._groups, stop = after, [], 0
        for count, weight, load in groups:
            stop += count
            self._groups.append(UnitGroup(stop, count * weight, load))

    def __len__(self):
        return len(self.units)

    def __getitem__(self, index):
        name, weight = self.units[index]
        return Unit(name, None, weight=weight)

    def groups(self):
        return self._groups


def spread(queue, workers):
    """By group how many of so many new workers take a unit of it."""
    holders = Counter()
    for _ in range(workers):
        unit = queue.take(0.0, holders=holders)
        holders[queue.group_of(unit.id)] += 1
    return holders


def test_new_workers_spread_as_the_work_does():
    units = Groups((100, 3.0, 0.0), (100, 1.0, 0.0))
    assert isinstance(units, GroupedUnits)
    assert spread(UnitQueue(units), 8) == {0: 6, 1: 2}


def test_a_worker_stays_with_its_group_until_another_needs_it_more_than_loading_costs():
    queue = UnitQueue(Groups((20, 1.0, 1.0), (20, 1.0, 1.0)))
    holders = Counter({0: 1, 1: 1})
    # 20 left each: with one worker more the other group would end at 10, the own ends at 20.
    assert queue.take(0.0, group=0, holders=holders).id == "a0"
    assert queue.take(0.0, group=1, holders=holders).id == "b0"
    # With all of ten workers the own group ends at 2; the other without any never.
    assert queue.take(0.0, group=0, holders=Counter({0: 10})).id == "b1"
    # Its end lies 20 / 2 = 10 away with this worker, minus 1 of loading, against 2.2.
    assert queue.take(0.0, group=0, holders=Counter({0: 10, 1: 1})).id == "b2"
    # Loading that takes longer than the gain is not done.
    dear = UnitQueue(Groups((20, 1.0, 1.0), (20, 1.0, 9.0)))
    assert dear.take(0.0, group=0, holders=Counter({0: 10, 1: 1})).id == "a0"


def test_where_its_group_has_nothing_ready_a_worker_helps_another_if_that_is_worth_its_loading():
    def queue(load):
        made = UnitQueue(Groups((1, 1.0, 0.0), (20, 1.0, load)))
        assert made.take(0.0, group=0, holders=Counter({0: 2, 1: 5})).id == "a0"
        return made

    # 20 / 6 = 3.3 a worker.
    assert queue(3.0).take(0.0, group=0, holders=Counter({0: 2, 1: 5})).id == "b0"
    assert queue(4.0).take(0.0, group=0, holders=Counter({0: 2, 1: 5})) is None
    # Units that nobody is with are taken whatever loading costs, else they would never be.
    assert queue(400.0).take(0.0, group=0, holders=Counter({0: 2})).id == "b0"


def test_units_wait_for_others_of_their_group_and_come_in_its_order():
    units = Groups((2, 1.0, 0.0), (2, 1.0, 0.0), after=lambda index: [index - 1] if index % 2 else [])
    queue = UnitQueue(units)
    assert queue.take(0.0, group=1, holders=Counter({1: 1, 0: 1})).id == "b0"
    assert queue.take(0.0, group=0, holders=Counter({1: 1, 0: 1})).id == "a0"
    assert queue.take(0.0) is None and not queue.may_have_ready(0.0)
    queue.succeed("b0", None)
    assert queue.may_have_ready(0.0) and queue.take(0.0).id == "b1"
    queue.fail("a0", "E: x", now=0.0)
    assert queue.take(1.0).id == "a0"
    queue.lose("a0", "worker lost")
    # A suspect waits for a worker of its own.
    assert queue.take(1.0, alone=False) is None
    assert queue.take(1.0).id == "a0"


def run(units, workers, load=0.0, **options):
    nodes = [("n", {"CPU": float(workers)})]
    needs = lambda unit: (unit.id[0], load)  # noqa: E731
    durations = Durations(lambda unit: unit.weight, needs=needs, load=5.0, **options)
    return simulate(units, Resources(num_cpus=1), nodes, durations)


def test_one_queue_ends_as_soon_as_its_work_allows_where_one_group_after_the_other_would_not():
    # 12 units of 10 s and 30 of 1 s on 8 workers: 150 s of work; one after the other 20 s and 4 s.
    found = run(Groups((12, 10.0, 0.5), (30, 1.0, 0.5)), 8, load=0.5)
    assert found.completed == 42
    assert found.makespan < 5 + 0.5 + 20 + 4
    assert found.makespan >= 5 + 0.5 + 20  # two of the long ones on one worker


def test_loading_is_no_use_and_the_first_of_a_worker_belongs_to_its_start():
    # One worker: 3 s for the first group's, 10 s, 3 s for the second's, 10 s.
    found = run(Groups((10, 1.0, 3.0), (10, 1.0, 3.0)), 1, load=3.0)
    assert found.makespan == 5 + 3 + 10 + 3 + 10
    assert found.loading_worker_seconds == 6.0
    assert found.utilisation == pytest.approx(20 / 23)


def test_the_first_unit_of_another_group_may_load_as_long_as_a_worker_may_start():
    # 1 s units, then one that loads for 100 s: ten times the median would end its worker after 30 s.
    units = Groups((10, 1.0, 1.0), (2, 1.0, 1.0))
    durations = Durations(
        lambda unit: unit.weight, needs=lambda unit: (unit.id[0], 100.0 * (unit.id[0] == "b"))
    )
    found = simulate(units, Resources(num_cpus=1), [("n", {"CPU": 1.0})], durations, limits=Limits())
    assert (found.workers_lost, found.completed) == (0, 12)


def test_a_driver_that_takes_its_time_over_outcomes_keeps_no_worker_waiting_for_a_unit():
    # Four workers, units of 10 s; the driver is busy for 2 s after each batch, while they compute the next.
    found = run(Groups((40, 10.0, 0.0)), 4, driver=lambda outcomes: 2.0)
    # The first batch ends at 5 + 10; each round is handed out before its outcomes are stored.
    assert found.makespan == 5 + 100
    assert found.utilisation == pytest.approx(1.0)
