"""Where work runs: units with dependencies, on this machine or a Ray cluster. Knows nothing of diffusion."""

from __future__ import annotations

from cluster.executor import (
    ClusterError,
    Drained,
    Executor,
    NoWorkers,
    OnStart,
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
    "Executor",
    "Limits",
    "LocalExecutor",
    "NoWorkers",
    "OnStart",
    "Outcome",
    "RayExecutor",
    "Resources",
    "StopRun",
    "Unit",
    "Worker",
]
