"""How many workers a node can hold, and how to say it."""

from __future__ import annotations

from typing import Any

from cluster.executor import Resources


def slots(offered: dict[str, float], resources: Resources) -> int:
    """How many workers with these resources fit on a node that offers, as Ray counts, CPU, GPU and memory."""
    needs = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, "memory": resources.memory_bytes}
    # The small term keeps 0.3 / 0.1 at 3.
    return min(int(offered.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need > 0)


def offer(node: dict[str, Any]) -> str:
    """Say what a node (an entry of `ray.nodes()`) has."""
    offered = node["Resources"]
    cpus, gpus, memory = (offered.get(kind, 0.0) for kind in ("CPU", "GPU", "memory"))
    return f"{node['NodeManagerHostname']} has {cpus:g} CPU, {gpus:g} GPU, {memory / 2**30:.3g} GiB"


def amounts(resources: Resources) -> str:
    """Say an amount of resources in words."""
    memory = f", {resources.memory_bytes / 2**30:.3g} GiB" if resources.memory_bytes else ""
    return f"{resources.num_cpus:g} CPU, {resources.num_gpus:g} GPU{memory}"
