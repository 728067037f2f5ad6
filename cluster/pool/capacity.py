"""How many workers a node can hold, and how to say it."""

from __future__ import annotations

import math
from dataclasses import replace

from cluster.pool.backend import Node
from cluster.pool.executor import Resources

_TINY = 1e-9  # keeps 0.3 / 0.1 at 3


def slots(node: Node, resources: Resources) -> int:
    """How many workers with these resources fit on a node.

    A worker holds whole devices, or a part of one: three workers of 0.3 share a device, ten of them fill three
    devices and a third of a fourth.
    """
    offered = node.offered
    counts = []
    for name, need in (("CPU", resources.num_cpus), ("memory", resources.memory_bytes)):
        if need > 0:
            counts.append(int(offered.get(name, 0.0) / need + _TINY))
    devices, share = int(offered.get("GPU", 0.0)), resources.num_gpus
    if 0 < share < 1:
        counts.append(devices * int(1 / share + _TINY))
    elif share:
        counts.append(devices // math.ceil(share))
    return min(counts)


def without(node: Node, resources: Resources) -> Node:
    """What a node has left beside as many workers with these resources as fit on it."""
    count = slots(node, resources)
    held = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, "memory": resources.memory_bytes}
    return replace(
        node, offered={name: amount - count * held.get(name, 0) for name, amount in node.offered.items()}
    )


def offer(node: Node) -> str:
    """Say what a node has."""
    cpus, gpus, memory = (node.offered.get(kind, 0.0) for kind in ("CPU", "GPU", "memory"))
    return f"{node.host} has {cpus:g} CPU, {gpus:g} GPU, {memory / 2**30:.3g} GiB"


def amounts(resources: Resources) -> str:
    """Say an amount of resources in words."""
    memory = f", {resources.memory_bytes / 2**30:.3g} GiB" if resources.memory_bytes else ""
    return f"{resources.num_cpus:g} CPU, {resources.num_gpus:g} GPU{memory}"
