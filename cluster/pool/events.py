"""What happens in a run, as values: a progress display, a log and a status file read the same events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "unit-started",
    "unit-finished",
    "unit-retry",
    "unit-failed",
    "worker-ready",
    "worker-lost",
    "node-joined",
    "node-lost",
    "node-banned",
    "draining",
]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    A unit gives one "unit-started" an attempt; each is followed by one "unit-finished" (it succeeded),
    "unit-retry" (it will be tried again) or "unit-failed" (given up). A unit whose dependency failed gives
    "unit-failed" alone, with attempt 0.

    Attributes:
      kind: what happened.
      unit: id of the unit it happened to.
      attempt: which start of the unit this is, from 1.
      worker, node, gpu: where; `gpu` is what CUDA_VISIBLE_DEVICES says there, empty without a device.
      detail: why, for a retry, a failure, a loss, a ban or a drain.
      seconds: wall time of the attempt, or of building the worker.
    """

    kind: Kind
    unit: str = ""
    attempt: int = 0
    worker: str = ""
    node: str = ""
    gpu: str = ""
    detail: str = ""
    seconds: float = 0.0


OnEvent = Callable[[Event], None]
"""Called with every event, in the thread that iterates over the outcomes and in no other."""
