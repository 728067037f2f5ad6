"""Driver and workers on Ray run one code: how that is sent, and how it is proved before the first unit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from cluster import code as code_module
from cluster import ray_worker as worker_module
from cluster.code import Code, describe, run_code_of
from cluster.executor import OtherCode

_ANSWER_S = (
    60.0  # a process on a cold file system; a node that is later than that proves it with its first worker
)


def send_by_value() -> type:
    """The actor's class, which from now on Ray sends whole: what it needs is not looked up on the node."""
    from ray import cloudpickle

    register: Callable[[Any], None] = cloudpickle.register_pickle_by_value
    register(code_module)
    register(worker_module)
    return worker_module.RayWorker


def prove_nodes(code: Code) -> None:
    """Let a process on every node that is alive take the code over, and compare.

    A node that does not answer, or breaks, is passed over: no unit is given to its workers before they have said the
    same of themselves.

    Raises:
      OtherCode: a node has other contents.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    send_by_value()
    remote: Any = ray.remote
    look = remote(num_cpus=0, max_retries=0)(run_code_of)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            code
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_S)
    for reference in answered:
        with contextlib.suppress(ray.exceptions.RayError):
            refuse(ray.get(reference))


def refuse(differences: Any) -> None:
    """Raise OtherCode if there are differences."""
    if differences:
        raise OtherCode(describe(differences))
