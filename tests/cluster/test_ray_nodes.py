"""Several Ray nodes on one machine: some are lost in the middle of a run, some join."""

import os
import time

import cluster_workers as workers
import pytest

import cluster
from cluster import Limits, RayExecutor, Resources, Unit

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def three_nodes(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    here, root = os.path.dirname(__file__), os.path.dirname(os.path.dirname(cluster.__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, here]))  # the nodes pass it on to workers
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    machines = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    others = [machines.add_node(**small) for _ in range(2)]
    ray.init(address=machines.address, log_to_driver=False)
    yield machines, others, small
    ray.shutdown()
    machines.shutdown()


def test_a_run_survives_the_loss_of_a_node_and_uses_one_that_joins(three_nodes, tmp_path):
    machines, others, small = three_nodes
    units = [Unit(f"u{i}", (str(tmp_path), f"u{i}.{i}", 0.3)) for i in range(60)]
    started_on, outcomes = {}, {}
    executor = RayExecutor("auto", limits=Limits(refresh=0.5))
    for outcome in executor.execute(
        units, Tolerant, Resources(), on_start=lambda u, w: started_on.setdefault(w, u.id)
    ):
        outcomes[outcome.unit.id] = outcome
        if len(outcomes) == 8:
            workers_before = set(started_on)
            machines.remove_node(others[0], allow_graceful=False)
        if len(outcomes) == 20:
            machines.add_node(**small)
    assert len(workers_before) == 3
    assert sorted(outcomes) == sorted(unit.id for unit in units)
    assert [o.error for o in outcomes.values() if o.error] == []
    assert sum(o.attempts > 1 for o in outcomes.values()) <= 3  # at most what ran on the lost node, twice
    assert set(started_on) - workers_before  # the node that joined got work


class Tolerant(workers.Journal):
    """Units may run twice here: a result may be lost with its node."""

    def run(self, payload):
        time.sleep(payload[2])
        return payload[1]
