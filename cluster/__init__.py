"""Where work runs: units with dependencies, on this machine or a Ray cluster. Knows nothing of diffusion."""

from __future__ import annotations

from cluster.backend import Node
from cluster.events import Event, OnEvent
from cluster.executor import (
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
from cluster.limits import Limits
from cluster.local import LocalExecutor
from cluster.ray_executor import RayExecutor, offered
from cluster.ray_session import ClusterUnreachable
from cluster.units import Unit, Units

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
