"""Work in this process: in the calling thread, or in a few threads."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from cluster.pool.backend import Answer, Node, Reply
from cluster.pool.drain import DrainRequest
from cluster.pool.drive import drive
from cluster.pool.events import OnEvent
from cluster.pool.executor import THREAD_VARIABLES, Outcome, Resources, Worker
from cluster.pool.limits import Limits
from cluster.pool.pool import Pool
from cluster.pool.queued import QueuedExecutor
from cluster.pool.unit_queue import UnitQueue
from cluster.pool.units import Unit
from cluster.pool.worker import WarmWorker

# A thread cannot be ended, so nothing is ever late; what cannot be built here cannot be built a second time.
_LIMITS = Limits(unit_min=math.inf, unit_first=math.inf, load=math.inf, refresh=0.2, refusals=1)
_COMPUTE, _FINISH = "compute", "finish"


_abandoned: list[threading.Thread] = []


def is_computing() -> bool:
    """Whether threads of an interrupted run are still at work in this process.

    Such a process must be left by `os._exit`: where the interpreter ends under a thread that is in native code, that
    thread aborts the process when it comes back.
    """
    return any(thread.is_alive() for thread in _abandoned)


class LocalExecutor(QueuedExecutor):
    """Runs units in this process, without Ray.

    One worker runs in the calling thread, so a debugger works. Several workers run in as many threads, each
    with its own worker object; that pays off where the work releases the interpreter lock (torch, numpy, file
    writes). A unit that never returns cannot be ended here: there are no deadlines. The resources of a run only bound
    the threads of each worker.

    Args:
      workers: number of units that may compute at the same time, 1 or more.
      retry_delay: seconds before the first retry of a unit that raised; doubles with every attempt.
      drain_file: a path whose existence asks the run to stop gently.
    """

    def __init__(
        self, workers: int = 1, *, retry_delay: float = 1.0, drain_file: str | os.PathLike[str] | None = None
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers}; a local executor needs 1 worker or more.")
        self.workers = workers
        super().__init__(retry_delay)
        self._drain_file = drain_file

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
        count = min(self.workers, pending.remaining)
        backend = InlineBackend(make_worker) if count == 1 else ThreadBackend(make_worker, count)
        pool = Pool(backend, Resources(num_cpus=1), count, _LIMITS, can_grow=False, on_event=on_event)
        wait = True
        try:
            bounded = _bound_threads(resources) if count > 1 else contextlib.nullcontext()
            with bounded, DrainRequest(self._drain_file) as drain:
                yield from drive(pending, pool, backend, drain, on_event)
        except KeyboardInterrupt:
            wait = False
            _abandoned.extend(backend.threads())
            raise
        finally:
            pool.close()
            if wait:
                backend.join()


class InlineBackend:
    """One worker in the calling thread: a unit has run when `give` returns, its rest when `finish` returns."""

    prefix = "local"
    overlap = False

    def __init__(self, make_worker: Callable[[], Worker], count: int = 1) -> None:
        self._make_worker = make_worker
        self._node = Node("here", socket.gethostname(), {"CPU": count})
        self._workers: dict[str, WarmWorker] = {}
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def now(self) -> float:
        """See `Backend`."""
        return time.monotonic()

    def nodes(self) -> list[Node]:
        """This machine."""
        return [self._node]

    def start(self, worker: str, node: Node) -> None:
        """Build the worker."""
        warm = self._workers[worker] = WarmWorker(self._make_worker)
        self._run(worker, _COMPUTE, "", warm.ready)

    def give(self, worker: str, unit: Unit) -> None:
        """Compute the unit."""
        warm = self._workers[worker]
        self._run(worker, _COMPUTE, unit.id, lambda: warm.compute(unit.id, unit.payload))

    def finish(self, worker: str, unit_id: str) -> None:
        """Do the rest of a computed unit."""
        warm = self._workers[worker]
        self._run(worker, _FINISH, unit_id, lambda: warm.finish(unit_id))

    def poll(self, timeout: float) -> list[Answer]:
        """See `Backend`."""
        answers = []
        with contextlib.suppress(queue.Empty):
            answers.append(self._answers.get(timeout=timeout))
            while True:
                answers.append(self._answers.get_nowait())
        return answers

    def stop(self, worker: str) -> None:
        """Let the worker go."""
        self._workers.pop(worker, None)

    def join(self) -> None:
        """Wait until no stopped worker runs any more."""

    def threads(self) -> list[threading.Thread]:
        """The threads that workers run in, beside the calling one."""
        return []

    def _run(self, worker: str, lane: str, unit_id: str, call: Callable[[], Reply]) -> None:
        # There is only this process: a damaged one cannot be replaced by another.
        self._answers.put(Answer(worker, unit_id, replace(call(), poisoned=False)))


class ThreadBackend(InlineBackend):
    """Workers of two threads each: one builds and computes, the other finishes units."""

    overlap = True

    def __init__(self, make_worker: Callable[[], Worker], count: int) -> None:
        super().__init__(make_worker, count)
        self._lanes: dict[tuple[str, str], _Lane] = {}

    def stop(self, worker: str) -> None:
        """Let the worker's threads end after what they are doing."""
        super().stop(worker)
        for (name, _), lane in self._lanes.items():
            if name == worker:
                lane.calls.put(None)

    def join(self) -> None:
        """Wait for the threads."""
        for thread in self.threads():
            thread.join()

    def threads(self) -> list[threading.Thread]:
        """See `InlineBackend`."""
        return [lane.thread for lane in self._lanes.values()]

    def _run(self, worker: str, lane: str, unit_id: str, call: Callable[[], Reply]) -> None:
        if (worker, lane) not in self._lanes:
            self._lanes[worker, lane] = _Lane(f"{worker}-{lane}")
        run = functools.partial(super()._run, worker, lane, unit_id, call)
        self._lanes[worker, lane].calls.put(run)


class _Lane:
    """A thread that makes the calls it is given, one after the other, until it is given None."""

    def __init__(self, name: str) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: after a second Ctrl-C the process may end although a unit is still running.
        self.thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self.thread.start()

    def _loop(self) -> None:
        while (call := self.calls.get()) is not None:
            call()


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
