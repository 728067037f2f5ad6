"""When a held cluster is given back: idle for long, drained, or out of reach; on a clock that is not the wall's."""

import pytest

from cluster.ray.session import ClusterUnreachable
from cluster.slurm.bringup import hold


class Days:
    """States of the jobs by time; a poll is 5 s. An exception in their place is raised."""

    def __init__(self, *until):
        self.until, self.now = until, 0.0

    def __call__(self):
        states = next(states for end, states in self.until if self.now < end)
        if isinstance(states, Exception):
            raise states
        return states

    def hold(self, idle_seconds, drain_file=None):
        return hold(self, idle_seconds, drain_file, clock=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds):
        self.now += seconds


def test_an_idle_cluster_ends_after_the_idle_time_from_its_last_job():
    idle = Days((1e9, []))
    assert idle.hold(60) == "no job for 1 minutes"
    assert idle.now == 60
    used = Days((100, []), (200, ["SUCCEEDED", "RUNNING"]), (1e9, ["SUCCEEDED", "FAILED"]))
    used.hold(120)
    assert used.now == 195 + 120  # 195: the last poll that saw it running
    waiting = Days((500, ["PENDING"]), (1e9, ["STOPPED"]))
    waiting.hold(10)
    assert waiting.now == 495 + 10


def test_a_drained_cluster_ends_with_its_last_job(tmp_path):
    drain = tmp_path / "drain"
    drain.touch()
    days = Days((50, ["RUNNING"]), (1e9, ["FAILED"]))
    assert days.hold(600, str(drain)) == "drained"
    assert days.now == 50


def test_a_cluster_whose_jobs_cannot_be_asked_for_is_given_back_after_two_minutes():
    with pytest.raises(ClusterUnreachable, match="the Jobs API does not answer: refused"):
        Days((10, []), (1e9, ConnectionError("refused"))).hold(3600)
    silent_for_a_while = Days((10, []), (120, RuntimeError("503")), (1e9, []))
    silent_for_a_while.hold(300)
    assert silent_for_a_while.now == 300
