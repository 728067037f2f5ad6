"""The loop of a run: units to free workers, answers to the queue, outcomes to the caller."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from cluster.pool.backend import Backend
from cluster.pool.events import Event, Kind, OnEvent
from cluster.pool.executor import Drained, Outcome
from cluster.pool.pool import Ended, Pool, PoolWorker
from cluster.pool.unit_queue import UnitQueue

_log = logging.getLogger(__name__)
_TICK_S = 0.5  # how soon a signal is seen while all workers are busy


class StopRequest(Protocol):
    """Something that may ask a run to stop gently."""

    @property
    def reason(self) -> str | None:
        """What asked for it, or None."""


def drive(
    queue: UnitQueue, pool: Pool, backend: Backend, drain: StopRequest, on_event: OnEvent | None = None
) -> Iterator[Outcome]:
    """Hand out units to free workers and settle what comes back until nothing is left.

    Raises:
      Drained: `drain` asked for it, also while the last units ran; what was running has come out before.
    """
    loop = _Loop(queue, pool, backend, on_event)
    announced = False
    while not queue.finished:
        if drain.reason is None:
            ended = pool.refresh(wanted=queue.remaining)
            loop.hand_out()
        else:
            if not announced:
                loop.tell("draining", detail=drain.reason)
                announced = True
            if not queue.in_flight:
                raise Drained(drain.reason, queue.completed, queue.remaining)
            ended = pool.refresh(wanted=0)
        if not ended:
            ended = pool.collect(loop.pause())
        outcomes = [outcome for answer in ended for outcome in loop.settle(answer)]
        # Workers go on while the caller stores what came. One that computes in this very thread would keep it waiting.
        if outcomes and backend.overlap and drain.reason is None:
            loop.hand_out()
        for place, outcome in enumerate(outcomes, start=1):
            yield replace(outcome, more=True) if place < len(outcomes) else outcome
    if drain.reason is not None:
        # Asked while the last units ran: what the caller would do next is not wanted any more.
        raise Drained(drain.reason, queue.completed, 0)


class _Loop:
    def __init__(self, queue: UnitQueue, pool: Pool, backend: Backend, on_event: OnEvent | None) -> None:
        self._queue = queue
        self._pool = pool
        self._backend = backend
        self._on_event = on_event

    def hand_out(self) -> None:
        """Give units to free workers while there are both."""
        queue, pool, now = self._queue, self._pool, self._backend.now()
        for worker in pool.free_workers():
            if not queue.may_have_ready(now):
                return
            unit = queue.take(now, alone=not worker.held, group=worker.group, holders=pool.holders)
            if unit is not None:
                self.tell("unit-started", unit.id, queue.attempts(unit.id), worker)
                group, alone = queue.group_of(unit.id), queue.is_suspect(unit.id)
                pool.give(worker, unit, group, alone=alone, loads=queue.loads(group))

    def pause(self) -> float:
        """How long to wait for an answer: less when a unit waits for its retry and a worker for it."""
        wait = min(_TICK_S, self._pool.until_refresh())
        if self._pool.free_worker() is not None:
            retry = self._queue.next_retry(self._backend.now())
            wait = wait if retry is None else min(wait, retry)
        return max(wait, 0.001)

    def settle(self, ended: Ended) -> list[Outcome]:
        """Tell the queue how a unit ended; the outcomes are those that are final."""
        queue, unit, reply, worker = self._queue, ended.unit, ended.reply, ended.worker
        attempt = queue.attempts(unit.id)
        place: dict[str, Any] = {
            "seconds": ended.seconds,
            "worker": worker.name,
            "node": worker.node.host,
            "gpu": worker.gpu,
        }
        if reply is not None and reply.error is None:
            outcomes = [queue.succeed(unit.id, reply.result, **place)]
        elif reply is None:
            outcomes = queue.lose(unit.id, ended.cause, **place)
        else:
            _log.info("%s attempt %d on %s: %s", unit.id, attempt, worker.name, reply.error)
            outcomes = queue.fail(
                unit.id,
                ended.cause,
                now=self._backend.now(),
                trace=reply.trace,
                hopeless=reply.hopeless,
                **place,
            )
        if not outcomes:
            self.tell("unit-retry", unit.id, attempt, worker, ended.cause, ended.seconds)
        for outcome in outcomes:
            kind: Kind = "unit-failed" if outcome.error else "unit-finished"
            ran = worker if outcome.attempts else None
            self.tell(kind, outcome.unit.id, outcome.attempts, ran, outcome.error or "", outcome.seconds)
        return outcomes

    def tell(
        self,
        kind: Kind,
        unit: str = "",
        attempt: int = 0,
        worker: PoolWorker | None = None,
        detail: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Pass an event on, if anyone listens."""
        if self._on_event is not None:
            where = (worker.name, worker.node.host, worker.gpu) if worker else ("", "", "")
            self._on_event(Event(kind, unit, attempt, *where, detail=detail, seconds=seconds))
