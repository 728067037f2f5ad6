"""What the pool needs of the place where workers live: threads, a Ray cluster, or a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.units import Unit


@dataclass(frozen=True)
class Node:
    """A machine that is alive now.

    Attributes:
      key: unique, also over a machine that leaves and comes back.
      host: its name, for people.
      offered: what it has in all: CPU, GPU (numbers), memory (bytes).
    """

    key: str
    host: str
    offered: Mapping[str, float]


@dataclass(frozen=True)
class Reply:
    """What one call to a worker came to.

    Attributes:
      result: the return value of `Worker.run`, or of its `Finish`.
      error, trace: one line and the traceback, when it raised.
      stop: the error is a `StopRun`, and `error` its text.
      hopeless: the error is a `HopelessUnit`, and `error` its text.
      poisoned: the process must not be used again.
      finishing: the unit is computed; the rest of it awaits `Backend.finish`.
      seconds: wall time inside the worker, from the start of the unit.
      pid, gpu: process id and device, once built.
    """

    result: Any = None
    error: str | None = None
    trace: str = ""
    stop: bool = False
    hopeless: bool = False
    poisoned: bool = False
    finishing: bool = False
    seconds: float = 0.0
    pid: int = 0
    gpu: str = ""


@dataclass(frozen=True)
class Answer:
    """One answer of a worker.

    Attributes:
      worker: its name.
      unit: id of the unit it is about; empty when the worker says that it is built.
      reply: what it said; None when the worker is lost.
      cause: one line saying why it is lost.
    """

    worker: str
    unit: str
    reply: Reply | None
    cause: str = ""


class Backend(Protocol):
    """Starts workers, carries units to them and answers back. It decides nothing.

    Attributes:
      prefix: how names of its workers begin.
      overlap: whether a worker may compute one unit while it finishes another.
    """

    prefix: str
    overlap: bool

    def now(self) -> float:
        """Seconds of a clock that only goes forward."""

    def nodes(self) -> Sequence[Node]:
        """The nodes that are alive."""

    def start(self, worker: str, node: Node) -> None:
        """Start a worker on that node and no other; its answer without a unit says that it is built."""

    def give(self, worker: str, unit: Unit) -> None:
        """Let a built worker compute a unit."""

    def finish(self, worker: str, unit_id: str) -> None:
        """Let a worker finish a unit it has computed; units of one worker finish one after the other."""

    def poll(self, timeout: float) -> list[Answer]:
        """Wait up to `timeout` seconds for an answer; return all there are. Those of ended workers may come."""

    def stop(self, worker: str) -> None:
        """End a worker at once; it may be gone already."""
