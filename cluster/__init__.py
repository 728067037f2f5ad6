"""Where work runs: units with dependencies, on this machine or a Ray cluster. Knows nothing of diffusion."""

from __future__ import annotations

from cluster.pool.backend import Node
from cluster.pool.events import Event, OnEvent
from cluster.pool.executor import (
    ClusterError,
    ClusterLost,
    Drained,
    Executor,
    Finish,
    HopelessUnit,
    NoWorkers,
    OtherCode,
    Outcome,
    Resources,
    StopRun,
    Worker,
)
from cluster.pool.limits import Limits
from cluster.pool.local import LocalExecutor
from cluster.pool.units import Unit, Units
from cluster.ray.executor import RayExecutor, offered
from cluster.ray.session import ClusterUnreachable

__all__ = [
    "ClusterError",
    "ClusterLost",
    "ClusterUnreachable",
    "Drained",
    "Event",
    "Executor",
    "Finish",
    "HopelessUnit",
    "Limits",
    "LocalExecutor",
    "NoWorkers",
    "Node",
    "OnEvent",
    "OtherCode",
    "Outcome",
    "RayExecutor",
    "Resources",
    "StopRun",
    "Unit",
    "Units",
    "Worker",
    "offered",
]
