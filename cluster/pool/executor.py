"""What an executor promises: units of work, the worker that runs them, and the outcomes that come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.pool.events import OnEvent
from cluster.pool.units import Unit, Units

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What numerical libraries read, when they are loaded, to know how many threads to use."""


class ClusterError(Exception):
    """Base of the errors an executor raises to end a run."""


class StopRun(ClusterError):
    """Going on is pointless (disk full, damaged input): no retry, the run ends with this very text.

    A worker raises it from `run()` or while it is built; it reaches the caller of `execute()` unchanged.
    """


class HopelessUnit(ClusterError):
    """This unit cannot succeed, however often it is tried: it is given up at once, and the others go on.

    A worker raises it from `run()`, or from the call of a `Finish`; its text is the error of the outcome.
    """


class NoWorkers(ClusterError):
    """No worker could be built, or no node can hold one. The text carries the first cause."""


class ClusterLost(ClusterError):
    """A private cluster of this process has died as a whole; a new executor can go on with what is left."""


class OtherCode(ClusterError):
    """A worker would run other code than the driver. The text names node, packages, folders and contents."""


class Drained(ClusterError):
    """A stop was asked for (Ctrl-C, SIGTERM, SIGUSR1, drain file): running units finished, no other started.

    Attributes:
      completed: units that succeeded in this call.
      remaining: units that were not run and are still to do.
    """

    def __init__(self, reason: str, completed: int, remaining: int) -> None:
        super().__init__(f"stopped by {reason}: {completed} units finished, {remaining} left to do.")
        self.reason = reason
        self.completed = completed
        self.remaining = remaining

    def __reduce__(self) -> tuple[type[Drained], tuple[str, int, int]]:
        return type(self), (self.reason, self.completed, self.remaining)


@dataclass(frozen=True)
class Resources:
    """What one worker holds for as long as it lives.

    Attributes:
      num_cpus: cores; a Ray worker also gets this many OpenMP threads (at least 1).
      num_gpus: devices; 0.5 puts two workers on one device.
      memory_bytes: main memory used to count the workers a node can hold; 0 means not counted.
    """

    num_cpus: float = 1
    num_gpus: float = 0
    memory_bytes: int = 0

    @property
    def num_threads(self) -> int:
        """Threads a numerical library may use in one worker: its whole cores, at least 1."""
        return max(1, int(self.num_cpus))

    def __post_init__(self) -> None:
        if self.num_cpus < 0 or self.num_gpus < 0 or self.memory_bytes < 0:
            raise ValueError(f"{self} holds a negative amount; every resource must be 0 or more.")
        if self.num_cpus == 0 and self.num_gpus == 0:
            raise ValueError("a worker must hold some CPU or GPU; give num_cpus or num_gpus above 0.")


@dataclass(frozen=True)
class Finish:
    """What `Worker.run` may return so that its worker computes the next unit while this one is written.

    The result of the unit is what `call()` returns, its error what `call()` raises. It runs in another thread
    of the worker's process. While a unit computes, at most one other is finishing on the same worker: that
    bounds the memory to two units.

    Attributes:
      call: does the rest of the work of the unit.
    """

    call: Callable[[], Any]


class Worker(Protocol):
    """Computes units one at a time; built once per worker process (or thread) and kept warm.

    A worker may also have `ready()`, called once before the first unit, to load weights or warm up.
    """

    def run(self, payload: Any) -> Any:
        """Do the work of one payload and return a small picklable result, or a `Finish` that will."""


@dataclass(frozen=True)
class Outcome:
    """How one unit ended: with a result, or with an error after the last attempt.

    Attributes:
      unit: the unit as it was given.
      result: what `Worker.run` returned; None when it failed.
      error: one line saying why it failed; None when it succeeded.
      attempts: how often it was started; 0 when a dependency failed.
      seconds: wall time of the last attempt.
      worker, node: where the last attempt ran; empty when it never started.
      trace: traceback of the last failed attempt, when there is one.
      gpu: the device of that worker, as CUDA_VISIBLE_DEVICES names it; empty without one.
      causes: what ended each attempt of a unit that was given up, one line each.
      more: whether other outcomes have come with it and follow at once, so that all may be stored together.
    """

    unit: Unit
    result: Any
    error: str | None
    attempts: int
    seconds: float
    worker: str
    node: str
    trace: str = ""
    gpu: str = ""
    causes: tuple[str, ...] = ()
    more: bool = False


class Executor(Protocol):
    """Runs units on workers, here or on a cluster."""

    def execute(
        self,
        units: Sequence[Unit] | Units,
        make_worker: Callable[[], Worker],
        resources: Resources,
        on_event: OnEvent | None = None,
    ) -> Iterator[Outcome]:
        """Run every unit once to its end and yield outcomes in order of completion.

        Those that came together say so (`Outcome.more`). Free workers have their next units before the first of them is
        yielded, so the caller may take its time to store them.

        A unit starts only after all units of its `after` succeeded; if one failed, it comes out with the
        error "not run: <id> failed". A unit that raises is tried again, up to four attempts in all, while
        others go on; one that raises `HopelessUnit` is not.

        Args:
          units: in order of preference; of the units that may start, the first given starts first. A long run
            gives `Units`, which are made as they are handed out.
          make_worker: picklable; builds the worker in the place where it will live.
          resources: what each worker holds.
          on_event: told, in the caller's thread, what happens; see `cluster.pool.events`.

        Raises:
          ValueError: duplicate ids, unknown or cyclic dependencies.
          StopRun: a worker said that going on is pointless.
          NoWorkers: no worker could be built.
          Drained: a stop was asked for; every unit that was running has come out before, even if it was the last.
        """

    def describe(self) -> str:
        """Say in one line where work runs."""

    def close(self) -> None:
        """Give everything back; calling it twice does no harm."""
