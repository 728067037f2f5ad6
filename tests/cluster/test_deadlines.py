"""How deadlines follow from the units before, and how many workers a node holds."""

import pytest

from cluster import Limits, Node, Resources
from cluster.pool.capacity import slots
from cluster.pool.limits import Pace


def test_a_deadline_is_ten_medians_but_never_under_thirty_seconds():
    pace = Pace(Limits())
    for seconds in (1.0, 1.0, 100.0):
        pace.finished(seconds, weight=1.0)
    assert pace.deadline("u", weight=1.0) == 30.0  # 10 x median 1 s = 10 s, below 30 s
    pace.finished(100.0, weight=1.0)
    assert pace.deadline("u", weight=1.0) == 1000.0  # upper median of 1, 1, 100, 100


def test_a_heavier_unit_may_take_longer_in_proportion():
    pace = Pace(Limits())
    for _ in range(3):
        pace.finished(20.0, weight=2.0)  # 10 s per unit of weight
    assert pace.deadline("u", weight=5.0) == 500.0


def test_before_three_units_finished_only_the_first_limit_holds():
    pace = Pace(Limits(unit_first=7.0))
    pace.finished(1.0, 1.0)
    pace.finished(1.0, 1.0)
    assert pace.deadline("u", 1.0) == 7.0


def test_each_overrun_allows_four_times_more():
    pace = Pace(Limits(unit_first=1.0))
    assert [pace.deadline("u", 1.0)] == [1.0]
    pace.overran("u")
    pace.overran("u")
    assert (pace.deadline("u", 1.0), pace.deadline("v", 1.0)) == (16.0, 1.0)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(num_cpus=1), 72),
        (Resources(num_cpus=16), 4),
        (Resources(num_cpus=1, num_gpus=1), 4),
        (Resources(num_cpus=1, num_gpus=0.5), 8),
        (Resources(num_cpus=0, num_gpus=0.1), 40),
        (Resources(num_cpus=0, num_gpus=0.3), 12),  # 3 a device, although 4 / 0.3 is 13.3
        (Resources(num_cpus=1, num_gpus=3), 1),
        (Resources(num_cpus=1, num_gpus=1, memory_bytes=40 * 2**30), 3),  # 120 GiB / 40 GiB
        (Resources(num_cpus=100), 0),
    ],
)
def test_a_node_holds_what_its_scarcest_resource_allows(resources, expected):
    assert slots(Node("n", "n", {"CPU": 72.0, "GPU": 4.0, "memory": 120 * 2.0**30}), resources) == expected


def test_a_node_without_devices_holds_no_device_worker():
    assert slots(Node("n", "n", {"CPU": 8.0}), Resources(num_gpus=1)) == 0
