"""A run on three Ray nodes, one of which is full, one is lost and to which one joins; prints what happened as JSON.

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
        from cluster import Finish

        time.sleep(0.3)
        return Finish(lambda: payload)


class Squatter:
    """Holds a device of a node that belongs to nobody's run."""

    def ready(self):
        return True


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    from ray_nodes_run import Tolerant as Worker  # importable by the nodes, unlike __main__

    from cluster import Limits, RayExecutor, Resources, Unit, offered

    small = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80_000_000}
    head = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
    machines = Cluster(initialize_head=True, head_node_args=head)
    full, dies, _ = (machines.add_node(**small) for _ in range(3))
    has = sorted(node.offered.get("GPU", 0) for node in offered(machines.address))
    ray.init(address=machines.address, log_to_driver=False)
    pinned = NodeAffinitySchedulingStrategy(full.node_id, soft=False)
    squatter = ray.remote(num_gpus=1, num_cpus=0, scheduling_strategy=pinned)(Squatter).remote()
    ray.get(squatter.ready.remote())

    units = [Unit(f"u{i}", i) for i in range(60)]
    outcomes, events = {}, []
    executor = RayExecutor("auto", limits=Limits(refresh=0.5))
    holds = Resources(num_cpus=0.5, num_gpus=1)
    for outcome in executor.execute(units, Worker, holds, on_event=events.append):
        outcomes[outcome.unit.id] = outcome
        if len(outcomes) == 8:
            machines.remove_node(dies, allow_graceful=False)
        if len(outcomes) == 20:
            machines.add_node(**small)
    ray.shutdown()
    machines.shutdown()
    found = {
        "gpus_offered": has,
        "results": {name: outcome.result for name, outcome in outcomes.items()},
        "errors": [o.error for o in outcomes.values() if o.error],
        "repeated": sum(o.attempts > 1 for o in outcomes.values()),
        "ready": [e.worker for e in events if e.kind == "worker-ready"],
        "used": sorted({e.worker for e in events if e.kind == "unit-started"}),
        "lost": [(e.worker, e.detail) for e in events if e.kind == "worker-lost"],
        "nodes": [e.kind for e in events if e.kind.startswith("node-")],
        "gpus": sorted({o.gpu for o in outcomes.values()}),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    sys.path[:0] = [ROOT, HERE]
    os.environ |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join([ROOT, HERE])}
    main()
