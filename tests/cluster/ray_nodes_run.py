"""A run on three Ray nodes, one of which is lost and one of which joins; prints what happened as JSON.

A program of its own: a process that has once used Ray's token keeps it, and cannot drive an open cluster later.
"""

from __future__ import annotations

import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


class Tolerant:
    """Units may run twice: a result may be lost with its node."""

    def run(self, payload):
        time.sleep(0.3)
        return payload


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster
    from ray_nodes_run import Tolerant as Worker  # importable by the nodes, unlike __main__

    from cluster import Limits, RayExecutor, Resources, Unit

    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    machines = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    others = [machines.add_node(**small) for _ in range(2)]
    ray.init(address=machines.address, log_to_driver=False)
    units = [Unit(f"u{i}", i) for i in range(60)]
    started_on, outcomes, before = {}, {}, set()
    executor = RayExecutor("auto", limits=Limits(refresh=0.5))

    def note(event):
        if event.kind == "unit-started":
            started_on.setdefault(event.worker, event.unit)

    for outcome in executor.execute(units, Worker, Resources(), on_event=note):
        outcomes[outcome.unit.id] = outcome
        if len(outcomes) == 8:
            before = set(started_on)
            machines.remove_node(others[0], allow_graceful=False)
        if len(outcomes) == 20:
            machines.add_node(**small)
    ray.shutdown()
    machines.shutdown()
    found = {
        "workers_before": len(before),
        "workers_joined": len(set(started_on) - before),
        "results": {name: outcome.result for name, outcome in outcomes.items()},
        "errors": [o.error for o in outcomes.values() if o.error],
        "repeated": sum(o.attempts > 1 for o in outcomes.values()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    sys.path[:0] = [ROOT, HERE]
    os.environ |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join([ROOT, HERE])}
    main()
