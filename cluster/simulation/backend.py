"""Nodes and workers that exist only in a clock: answers are events on a heap, and waiting jumps to the next one."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.pool.backend import Answer, Node, Reply
from cluster.pool.units import Unit

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Failures:
    """How often things go wrong.

    Attributes:
      unit_error_rate: share of attempts that raise, at their end.
      hang_rate: share of attempts that never end.
      worker_loss_per_hour: of one worker, from its start.
      node_loss_per_hour: of one node.
      node_return_seconds: after which a lost node is back, empty; None = never.
      seed: of what happens.
    """

    unit_error_rate: float = 0.0
    worker_loss_per_hour: float = 0.0
    node_loss_per_hour: float = 0.0
    node_return_seconds: float | None = None
    hang_rate: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Durations:
    """How long things take.

    Attributes:
      compute: seconds of computing a unit.
      write: seconds of finishing a unit, beside the computing of the next one.
      load: seconds of building a worker.
      needs: what a worker has to have loaded for a unit, and the seconds of loading it; a worker keeps the last two.
      driver: seconds the driver is busy with so many outcomes that came together; answers wait meanwhile.
    """

    compute: Callable[[Unit], float]
    write: Callable[[Unit], float] = lambda unit: 0.0
    load: float = 0.0
    needs: Callable[[Unit], tuple[str, float]] = lambda unit: ("", 0.0)
    driver: Callable[[int], float] = lambda outcomes: 0.0


_KEPT = 2  # what a worker of taba keeps loaded


@dataclass
class _Worker:
    node: str
    loaded: list[str] = field(default_factory=list)
    built: float = math.inf
    finish_free: float = 0.0  # when the last of its finishing units ends


class SimulatedBackend:
    """Answers are events on a heap; `poll` jumps to the next one."""

    prefix = "worker"
    overlap = True

    def __init__(
        self,
        nodes: Sequence[tuple[str, Mapping[str, float]]],
        durations: Durations,
        failures: Failures,
    ) -> None:
        self._time = 0.0
        self._durations, self._failures = durations, failures
        self._events: list[tuple[float, int, Callable[[], list[Answer]]]] = []
        self._order = itertools.count()
        self._alive: dict[str, Node] = {}
        self._workers: dict[str, _Worker] = {}
        self._computed: dict[tuple[str, str], tuple[Unit, float, str | None]] = {}
        self._attempts: dict[str, int] = {}
        # Seconds of loading, of the first thing each worker loads and of all.
        self.first_loading = self.loading = 0.0
        for name, offered in nodes:
            self._join(Node(name, name, offered), 0)

    def now(self) -> float:
        """Simulated seconds since the start."""
        return self._time

    def nodes(self) -> list[Node]:
        """See `Backend`."""
        return list(self._alive.values())

    def start(self, worker: str, node: Node) -> None:
        """See `Backend`."""
        state = self._workers[worker] = _Worker(node.key)
        self._at(self._durations.load, lambda: self._built(worker, state))
        lifetime = self._lifetime(self._failures.worker_loss_per_hour, "worker", worker)
        if math.isfinite(lifetime):
            self._at(self._durations.load + lifetime, lambda: self._lost(worker, "its process ended"))

    def give(self, worker: str, unit: Unit) -> None:
        """See `Backend`."""
        attempt = self._attempts.get(unit.id, 0)
        self._attempts[unit.id] = attempt + 1
        draw = self._random("unit", unit.id, attempt).random() if self._may_fail() else 1.0
        if draw < self._failures.hang_rate:
            return
        begin, error = self._time, None
        if draw < self._failures.hang_rate + self._failures.unit_error_rate:
            error = "SimulatedError: this attempt was drawn to fail"
        seconds = self._load(self._workers[worker], unit) + self._durations.compute(unit)
        if error is not None or not self._durations.write(unit):
            self._at(seconds, lambda: self._answer(worker, unit.id, Reply(error=error, seconds=seconds)))
            return
        self._computed[worker, unit.id] = (unit, begin, error)
        self._at(seconds, lambda: self._answer(worker, unit.id, Reply(finishing=True)))

    def finish(self, worker: str, unit_id: str) -> None:
        """See `Backend`."""
        unit, begin, _ = self._computed.pop((worker, unit_id))
        state = self._workers[worker]
        state.finish_free = max(state.finish_free, self._time) + self._durations.write(unit)
        end = state.finish_free
        reply = Reply(seconds=end - begin)
        self._at(end - self._time, lambda: self._answer(worker, unit_id, reply))

    def poll(self, timeout: float) -> list[Answer]:
        """Jump to the next events, at most `timeout` ahead."""
        until = self._time + timeout
        answers: list[Answer] = []
        while self._events and self._events[0][0] <= until and not answers:
            self._time = max(self._time, self._events[0][0])
            while self._events and self._events[0][0] <= self._time:
                answers += heapq.heappop(self._events)[2]()
        if not answers:
            self._time = until
        return answers

    def stop(self, worker: str) -> None:
        """See `Backend`."""
        self._workers.pop(worker, None)

    def settle(self, outcomes: int) -> None:
        """Let the driver take its time over so many outcomes."""
        self._time += self._durations.driver(outcomes)

    def _load(self, state: _Worker, unit: Unit) -> float:
        """Seconds until a worker has what a unit needs."""
        name, seconds = self._durations.needs(unit)
        if name in state.loaded:
            state.loaded.remove(name)
            seconds = 0.0
        elif not state.loaded:
            self.first_loading += seconds
        state.loaded = [*state.loaded, name][-_KEPT:]
        self.loading += seconds
        return seconds

    def _at(self, seconds: float, action: Callable[[], list[Answer]]) -> None:
        heapq.heappush(self._events, (self._time + seconds, next(self._order), action))

    def _built(self, worker: str, state: _Worker) -> list[Answer]:
        state.built = self._time
        return self._answer(worker, "", Reply(seconds=self._durations.load))

    def _answer(self, worker: str, unit_id: str, reply: Reply) -> list[Answer]:
        return [Answer(worker, unit_id, reply)] if worker in self._workers else []

    def _lost(self, worker: str, cause: str) -> list[Answer]:
        return [Answer(worker, "", None, cause)] if worker in self._workers else []

    def _join(self, node: Node, life: int) -> list[Answer]:
        self._alive[node.key] = node
        lifetime = self._lifetime(self._failures.node_loss_per_hour, "node", node.host, life)
        if math.isfinite(lifetime):
            self._at(lifetime, lambda: self._leave(node, life))
        return []

    def _leave(self, node: Node, life: int) -> list[Answer]:
        del self._alive[node.key]
        back = self._failures.node_return_seconds
        if back is not None:
            again = Node(f"{node.host}#{life + 1}", node.host, node.offered)
            self._at(back, lambda: self._join(again, life + 1))
        on_it = [name for name, worker in self._workers.items() if worker.node == node.key]
        return [Answer(name, "", None, "its node is gone") for name in on_it]

    def _may_fail(self) -> bool:
        return self._failures.hang_rate > 0 or self._failures.unit_error_rate > 0

    def _lifetime(self, per_hour: float, *what: Any) -> float:
        return self._random(*what).expovariate(per_hour / _HOUR_S) if per_hour else math.inf

    def _random(self, *what: Any) -> random.Random:
        return random.Random(f"{self._failures.seed}/{what}")
