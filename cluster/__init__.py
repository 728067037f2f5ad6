"""Where work runs: units with dependencies, on this machine or a Ray cluster. Knows nothing of diffusion.

Importing this package imports nothing heavy; the names below are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_NAMES_OF = {
    "pool.backend": ("Node",),
    "pool.events": ("Event", "OnEvent"),
    "pool.limits": ("Limits",),
    "pool.local": ("LocalExecutor",),
    "pool.units": ("Unit", "Units"),
    "ray.executor": ("RayExecutor", "offered"),
    "ray.session": ("ClusterUnreachable",),
}
_HOME = {name: f"cluster.{module}" for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cluster' has no attribute '{name}'; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME.get(name, "cluster.pool.executor")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
