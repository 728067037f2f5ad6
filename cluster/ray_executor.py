"""Work on Ray: the driver owns the queue, the retries and the stop; workers own nothing but a warm model."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cluster.drain import DrainRequest
from cluster.events import Event, OnEvent
from cluster.executor import Drained, Outcome, Resources, Unit, Worker
from cluster.limits import Limits
from cluster.queue import UnitQueue
from cluster.ray_pool import Ended, RayPool
from cluster.ray_session import RaySession

_log = logging.getLogger(__name__)
_TICK_S = 0.5  # how soon a signal or a deadline is seen while all workers are busy


class RayExecutor:
    """Runs units on warm worker processes of a Ray cluster, on this machine or on many.

    Ray starts with the first run, not before, and stays until `close()`. Workers live as long as one run.

    Args:
      address: see `RaySession`; None = the cluster this process belongs to, else a private one made here.
      num_workers: upper bound on workers; None = as many as the nodes hold.
      limits: deadlines of units and of starting workers.
      retry_delay: seconds before the first retry of a unit that raised; doubles with every attempt.
      drain_file: a path whose existence asks the run to stop gently.
    """

    def __init__(
        self,
        address: str | None = None,
        num_workers: int | None = None,
        *,
        limits: Limits = Limits(),
        retry_delay: float = 1.0,
        drain_file: str | os.PathLike[str] | None = None,
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers={num_workers}; a Ray executor needs 1 worker or more.")
        self.num_workers = num_workers
        self._address = address
        self._limits = limits
        self._retry_delay = retry_delay
        self._drain_file = drain_file
        self._session: RaySession | None = None

    def execute(
        self,
        units: Sequence[Unit],
        make_worker: Callable[[], Worker],
        resources: Resources = Resources(),
        on_event: OnEvent | None = None,
    ) -> Iterator[Outcome]:
        """Run the units; see `Executor.execute`.

        A unit is also tried again, within the same four attempts, when its worker or node is lost or when it
        runs past its deadline (`Limits`).

        Raises:
          ClusterUnreachable: there is no cluster at the address.
        """
        pending = UnitQueue(units, retry_delay=self._retry_delay)
        return self._execute(pending, make_worker, resources, on_event)

    def describe(self) -> str:
        """Say in one line where work runs."""
        bound = f"up to {self.num_workers} workers" if self.num_workers else "a worker per free place"
        if self._session is None:
            return f"Ray ({self._address or os.environ.get('RAY_ADDRESS') or 'local'}), {bound}"
        ray: Any = sys.modules["ray"]
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
        where = "this machine" if self._session.local else self._session.address
        return f"Ray on {where}: {len(nodes)} nodes, {cpus:g} CPUs, {gpus:g} GPUs, {bound}"

    def close(self) -> None:
        """Disconnect from Ray; a private cluster is stopped."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _execute(
        self,
        pending: UnitQueue,
        make_worker: Callable[[], Worker],
        resources: Resources,
        on_event: OnEvent | None,
    ) -> Iterator[Outcome]:
        if pending.finished:
            return
        session = self._connect(resources)
        from ray import cloudpickle

        pickled: bytes = cloudpickle.dumps(make_worker)  # type: ignore[no-untyped-call]
        pool = RayPool(
            pickled,
            resources,
            self.num_workers,
            self._limits,
            can_grow=not session.local,
        )
        try:
            with DrainRequest(self._drain_file) as drain:
                yield from _drive(pending, pool, drain, on_event)
        finally:
            pool.close()

    def _connect(self, resources: Resources) -> RaySession:
        if self._session is None:
            num_cpus = None
            if self.num_workers is not None:
                num_cpus = max(1, round(self.num_workers * resources.num_cpus + 0.499))
            self._session = RaySession(self._address, num_cpus)
        return self._session


def _drive(
    pending: UnitQueue, pool: RayPool, drain: DrainRequest, on_event: OnEvent | None
) -> Iterator[Outcome]:
    """Hand out units to ready workers and settle what comes back until nothing is left."""
    while not pending.finished:
        if drain.reason is None:
            ended = pool.refresh(wanted=pending.remaining)
            _hand_out(pending, pool, on_event)
        elif not pending.in_flight:
            raise Drained(drain.reason, pending.completed, pending.remaining)
        else:
            ended = []
        ended += pool.collect(_pause(pending, pool))
        for answer in ended:
            yield from _settle(pending, answer)


def _hand_out(pending: UnitQueue, pool: RayPool, on_event: OnEvent | None) -> None:
    for member in pool.idle:
        unit = pending.take(time.monotonic())
        if unit is None:
            return
        if on_event is not None:
            on_event(Event("unit-started", unit.id, pending.attempts(unit.id), member.name, member.host))
        pool.give(member, unit)


def _pause(pending: UnitQueue, pool: RayPool) -> float:
    """How long to wait for an answer: less when a unit waits for its retry and a worker for it."""
    delay = pending.next_retry(time.monotonic()) if pool.idle else None
    return _TICK_S if delay is None else min(_TICK_S, max(delay, 0.001))


def _settle(pending: UnitQueue, ended: Ended) -> list[Outcome]:
    unit, reply, member = ended.unit, ended.reply, ended.member
    if reply is None:
        return pending.lose(unit.id, ended.cause, seconds=ended.seconds, worker=member.name, node=member.host)
    if reply.error is None:
        return [
            pending.succeed(
                unit.id, reply.result, seconds=ended.seconds, worker=member.name, node=member.host
            )
        ]
    _log.info("%s attempt %d on %s: %s", unit.id, pending.attempts(unit.id), member.name, reply.error)
    return pending.fail(
        unit.id,
        reply.error,
        now=time.monotonic(),
        seconds=ended.seconds,
        worker=member.name,
        node=member.host,
        trace=reply.trace,
    )
