"""Where work runs: units with dependencies, on this machine or a Ray cluster. Knows nothing of diffusion."""

from __future__ import annotations

from cluster.events import Event, OnEvent
from cluster.executor import (
    ClusterError,
    Drained,
    Executor,
    Finish,
    NoWorkers,
    Outcome,
    Resources,
    StopRun,
    Unit,
    Worker,
)
from cluster.limits import Limits
from cluster.local import LocalExecutor
from cluster.ray_executor import RayExecutor
from cluster.ray_session import ClusterUnreachable

__all__ = [
    "ClusterError",
    "ClusterUnreachable",
    "Drained",
    "Event",
    "Executor",
    "Finish",
    "Limits",
    "LocalExecutor",
    "NoWorkers",
    "OnEvent",
    "Outcome",
    "RayExecutor",
    "Resources",
    "StopRun",
    "Unit",
    "Worker",
]
