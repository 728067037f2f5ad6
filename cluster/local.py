"""Work in this process: in the calling thread, or in a few threads."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.drain import DrainRequest
from cluster.events import Event, OnEvent
from cluster.executor import (
    THREAD_VARIABLES,
    Drained,
    Finish,
    NoWorkers,
    Outcome,
    Resources,
    StopRun,
    Unit,
    Worker,
)
from cluster.queue import UnitQueue

_log = logging.getLogger(__name__)
_TICK_S = 0.2  # how soon a signal is seen while threads are busy


@dataclass(frozen=True)
class _Report:
    """What a slot says about one attempt (unit given) or about building its worker (no unit)."""

    slot: _Slot
    unit: Unit | None
    result: Any = None
    error: Exception | None = None
    trace: str = ""
    seconds: float = 0.0


class LocalExecutor:
    """Runs units in this process, without Ray.

    One worker runs in the calling thread, so a debugger and plain tracebacks work. Several workers run in as
    many threads, each with its own worker object; that pays off where the work releases the interpreter lock
    (torch, numpy, file writes). A unit that never returns cannot be ended here: there are no deadlines.

    Args:
      workers: number of units that may run at the same time, 1 or more.
      retry_delay: seconds before the first retry of a unit that raised; doubles with every attempt.
      drain_file: a path whose existence asks the run to stop gently.
    """

    def __init__(
        self, workers: int = 1, *, retry_delay: float = 1.0, drain_file: str | os.PathLike[str] | None = None
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers}; a local executor needs 1 worker or more.")
        self.workers = workers
        self._retry_delay = retry_delay
        self._drain_file = drain_file

    def execute(
        self,
        units: Sequence[Unit],
        make_worker: Callable[[], Worker],
        resources: Resources = Resources(),
        on_event: OnEvent | None = None,
    ) -> Iterator[Outcome]:
        """Run the units; see `Executor.execute`. `resources` only bounds the threads of each worker."""
        pending = UnitQueue(units, retry_delay=self._retry_delay)
        return self._execute(pending, make_worker, resources, on_event)

    def describe(self) -> str:
        """Say in one line where work runs."""
        return f"this process, {self.workers} thread{'s' if self.workers > 1 else ''}"

    def close(self) -> None:
        """Nothing is held between runs."""

    def _execute(
        self,
        pending: UnitQueue,
        make_worker: Callable[[], Worker],
        resources: Resources,
        on_event: OnEvent | None,
    ) -> Iterator[Outcome]:
        if pending.finished:
            return
        reports: queue.Queue[_Report] = queue.Queue()
        count = min(self.workers, pending.remaining)
        slots: list[_Slot]
        if count == 1:
            slots = [_InlineSlot("local-0", make_worker, reports)]
        else:
            slots = [_ThreadSlot(f"local-{i}", make_worker, reports) for i in range(count)]
        wait = True
        try:
            bounded = _bound_threads(resources) if count > 1 else contextlib.nullcontext()
            with bounded, DrainRequest(self._drain_file) as drain:
                yield from _drive(pending, slots, reports, drain, on_event)
        except KeyboardInterrupt:
            wait = False
            raise
        finally:
            for slot in slots:
                slot.stop(wait)


def _drive(
    pending: UnitQueue,
    slots: list[_Slot],
    reports: queue.Queue[_Report],
    drain: DrainRequest,
    on_event: OnEvent | None,
) -> Iterator[Outcome]:
    """Hand out units to idle slots and settle their reports until nothing is left."""
    idle: list[_Slot] = []  # a slot is idle once its worker is built
    for slot in slots:
        slot.build()
    while not pending.finished:
        while idle and drain.reason is None and (unit := pending.take(time.monotonic())) is not None:
            slot = idle.pop(0)
            if on_event is not None:
                on_event(Event("unit-started", unit.id, pending.attempts(unit.id), slot.name))
            slot.start(unit)
        if drain.reason is not None and not pending.in_flight:
            raise Drained(drain.reason, pending.completed, pending.remaining)
        try:
            report = reports.get(timeout=_pause(pending) if idle else _TICK_S)
        except queue.Empty:
            continue
        idle.append(report.slot)
        yield from _settle(pending, report)


def _pause(pending: UnitQueue) -> float:
    delay = pending.next_retry(time.monotonic())
    return _TICK_S if delay is None else min(_TICK_S, max(delay, 0.001))


def _settle(pending: UnitQueue, report: _Report) -> list[Outcome]:
    error, unit = report.error, report.unit
    if isinstance(error, StopRun):
        raise error
    if unit is None:
        if error is not None:
            raise NoWorkers(f"the worker could not be built: {type(error).__name__}: {error}") from error
        return []
    place = {"seconds": report.seconds, "worker": report.slot.name, "node": socket.gethostname()}
    if error is None:
        return [pending.succeed(unit.id, report.result, **place)]  # type: ignore[arg-type]
    text = f"{type(error).__name__}: {error}"
    _log.info("%s attempt %d: %s", unit.id, pending.attempts(unit.id), text)
    return pending.fail(unit.id, text, now=time.monotonic(), trace=report.trace, **place)  # type: ignore[arg-type]


class _Slot(Protocol):
    """A place that holds one warm worker; every call is answered by one report."""

    name: str

    def build(self) -> None: ...
    def start(self, unit: Unit) -> None: ...
    def stop(self, wait: bool) -> None: ...


class _InlineSlot:
    """The calling thread: `start` returns when the unit is done."""

    def __init__(self, name: str, make_worker: Callable[[], Worker], reports: queue.Queue[_Report]) -> None:
        self.name = name
        self._make_worker = make_worker
        self._reports = reports
        self._worker: Worker | None = None

    def build(self) -> None:
        """Build the worker and report; an error is in the report."""
        try:
            self._worker = self._make_worker()
            ready = getattr(self._worker, "ready", None)
            if ready is not None:
                ready()
            self._reports.put(_Report(self, None))
        except Exception as error:
            self._reports.put(_Report(self, None, error=error))

    def start(self, unit: Unit) -> None:
        """Run one unit and report."""
        assert self._worker is not None
        begin = time.perf_counter()
        try:
            result = self._worker.run(unit.payload)
            if isinstance(result, Finish):
                result = result.call()
            report = _Report(self, unit, result, seconds=time.perf_counter() - begin)
        except Exception as error:
            seconds = time.perf_counter() - begin
            report = _Report(self, unit, None, error, traceback.format_exc(), seconds)
        self._reports.put(report)

    def stop(self, wait: bool) -> None:
        """Let the worker go."""
        self._worker = None


class _ThreadSlot(_InlineSlot):
    """A thread that builds its own worker and takes one unit at a time."""

    def __init__(self, name: str, make_worker: Callable[[], Worker], reports: queue.Queue[_Report]) -> None:
        super().__init__(name, make_worker, reports)
        self._inbox: queue.Queue[Unit | None] = queue.Queue()
        # A daemon: after a second Ctrl-C the process may end although a unit is still running.
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def build(self) -> None:
        """Start the thread; it builds the worker and reports."""
        self._thread.start()

    def start(self, unit: Unit) -> None:
        """Hand the unit to the thread."""
        self._inbox.put(unit)

    def stop(self, wait: bool) -> None:
        """End the thread after its current unit; `wait` for that."""
        self._inbox.put(None)
        if wait and self._thread.ident is not None:
            self._thread.join()
        super().stop(wait)

    def _loop(self) -> None:
        super().build()
        while (unit := self._inbox.get()) is not None:
            super().start(unit)


@contextlib.contextmanager
def _bound_threads(resources: Resources) -> Iterator[None]:
    """Keep each worker thread to its share of cores; only reaches libraries loaded during the run."""
    added = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(added, str(resources.num_threads)))
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
