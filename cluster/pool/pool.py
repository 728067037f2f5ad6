"""Warm workers, one per free place on every node that is alive. Each rule answers an observed failure.

Workers are pinned to a node and get work only after they said they are ready: workers placed freely from a
stale list of nodes wait forever for a node that is gone, with the unit they were given. Nothing restarts by
itself, for the same reason; a lost worker is replaced here, on the nodes that are alive then.

Only policy is here: where workers live, and what time it is, is the backend's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.pool.backend import Answer, Backend, Node, Reply
from cluster.pool.capacity import amounts, offer, slots
from cluster.pool.events import Event, Kind, OnEvent
from cluster.pool.executor import NoWorkers, Resources, StopRun
from cluster.pool.limits import Limits, Pace
from cluster.pool.units import Unit

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class PoolWorker:
    """One worker: starting until it is built, then idle, computing a unit, or finishing others beside that.

    Attributes:
      name: unique in the pool, also over replacements.
      node: where it is pinned.
      since: when it started (the backend's clock).
      gpu: its device, once built.
      is_ready: whether it was built.
      computing: the unit it computes.
      held: the units it computes or finishes, by id, and since when.
      alone: whether the unit it holds wants no other beside it.
      loading: the unit within which it loads what its group needs, if it does.
      group: of the last unit it was given, which says what it has loaded; None before the first.
    """

    name: str
    node: Node
    since: float
    gpu: str = ""
    is_ready: bool = False
    computing: str = ""
    held: dict[str, tuple[Unit, float]] = field(default_factory=dict)
    alone: bool = False
    loading: str = ""
    group: int | None = None


@dataclass(frozen=True)
class Ended:
    """A unit that came back from a worker: with a reply, or lost with the worker (`reply` is None)."""

    unit: Unit
    worker: PoolWorker
    reply: Reply | None
    cause: str
    seconds: float


class Pool:
    """The workers of one run.

    Args:
      backend: where they live.
      resources: what each worker holds.
      max_workers: upper bound over all nodes; None for as many as fit.
      limits: deadlines.
      can_grow: whether nodes may still join (a private local cluster never grows).
      on_event: told what happens to workers and nodes.

    Attributes:
      holders: how many workers were last given a unit of each group.
    """

    def __init__(
        self,
        backend: Backend,
        resources: Resources,
        max_workers: int | None,
        limits: Limits,
        *,
        can_grow: bool = True,
        on_event: OnEvent | None = None,
    ) -> None:
        self._backend = backend
        self._resources = resources
        self._max_workers = max_workers
        self._limits = limits
        self._can_grow = can_grow
        self._on_event = on_event
        self._pace = Pace(limits)
        self._workers: dict[str, PoolWorker] = {}
        self._idle: dict[str, PoolWorker] = {}
        self._finishing: dict[str, PoolWorker] = {}  # could compute one more unit beside the one they finish
        self._nodes: dict[str, Node] = {}
        self._num_on: Counter[str] = Counter()
        self.holders: Counter[int] = Counter()
        self._started = 0
        self._ever_ready = False
        self._refusals = 0
        self._failed_loads: Counter[str] = Counter()
        self._first_cause = ""
        self._next_refresh = self._populated = backend.now()

    def free_worker(self) -> PoolWorker | None:
        """A worker that can compute now: an idle one, else one that only finishes a unit."""
        for workers in (self._idle, self._finishing):
            for worker in workers.values():
                return worker
        return None

    def free_workers(self) -> list[PoolWorker]:
        """All workers that can compute now, idle ones first."""
        return [*self._idle.values(), *self._finishing.values()]

    def capacity(self) -> int:
        """How many workers the nodes that are alive can hold, within the upper bound."""
        room = sum(slots(node, self._resources) for node in self._backend.nodes())
        return room if self._max_workers is None else min(room, self._max_workers)

    def forget_pace(self) -> None:
        """Begin with units of another kind: how long those before took says nothing of them."""
        self._pace = Pace(self._limits)
        self._populated = self._backend.now()

    def until_refresh(self) -> float:
        """Seconds until `refresh` has something to do."""
        return max(0.0, self._next_refresh - self._backend.now())

    def give(
        self, worker: PoolWorker, unit: Unit, group: int = 0, *, alone: bool = False, loads: bool = False
    ) -> None:
        """Hand a unit of a group to a free worker.

        Args:
          alone: keeps other units off that worker until it ended.
          loads: whether a worker that comes from another group loads something within its first unit, which may then
            take as long as a worker may take to start, beside its own time.
        """
        if loads and worker.group != group:
            worker.loading = unit.id
        self._let_go(worker)
        self.holders[group] += 1
        worker.group = group
        worker.held[unit.id] = (unit, self._backend.now())
        worker.computing, worker.alone = unit.id, alone
        self._place(worker)
        self._backend.give(worker.name, unit)

    def refresh(self, wanted: int) -> list[Ended]:
        """Every `limits.refresh` seconds: drop workers of dead nodes and late ones, start the missing.

        Args:
          wanted: units not yet settled; no more workers than that are started, none for 0.

        Raises:
          NoWorkers: none could be built, or for some time no node had room for one.
        """
        now = self._backend.now()
        if now < self._next_refresh:
            return []
        self._next_refresh = now + self._limits.refresh
        ended = list(self._note_nodes()) + list(self._overdue(now))
        if wanted:
            self._check_builds()
            self._fill(wanted, now)
            if self._workers:
                self._populated = now
            else:
                self._check_room(now)
        return ended

    def collect(self, timeout: float) -> list[Ended]:
        """Wait up to `timeout` seconds for answers and say which units ended."""
        ended: list[Ended] = []
        for answer in self._backend.poll(timeout):
            worker = self._workers.get(answer.worker)
            if worker is not None and (not answer.unit or answer.unit in worker.held):
                ended += self._heard(worker, answer)
        return ended

    def close(self) -> None:
        """End all workers."""
        for name in self._workers:
            self._backend.stop(name)
        self._workers.clear()

    def _heard(self, worker: PoolWorker, answer: Answer) -> Iterator[Ended]:
        reply = answer.reply
        if reply is None:
            yield from self._lose(worker, answer.cause)
        elif reply.stop:
            raise StopRun(reply.error)
        elif not answer.unit:
            self._built(worker, reply)
        elif reply.finishing:
            worker.computing = ""
            self._place(worker)
            self._backend.finish(worker.name, answer.unit)
        else:
            yield from self._ended(worker, answer.unit, reply)

    def _built(self, worker: PoolWorker, reply: Reply) -> None:
        if reply.error is None:
            worker.is_ready = self._ever_ready = True
            worker.gpu = reply.gpu
            self._failed_loads.pop(worker.node.key, None)
            self._place(worker)
            self._tell("worker-ready", worker, seconds=reply.seconds)
            _log.info(
                "worker %s ready on %s (pid %d) in %.1f s",
                worker.name,
                worker.node.host,
                reply.pid,
                reply.seconds,
            )
        else:
            self._refusals += 1
            self._failed_load(worker, reply.error)
            self._discard(worker)

    def _ended(self, worker: PoolWorker, unit_id: str, reply: Reply) -> Iterator[Ended]:
        unit, since = worker.held.pop(unit_id)
        if worker.computing == unit_id:
            worker.computing = ""
        worker.alone = worker.alone and bool(worker.held)
        self._place(worker)
        if reply.error is None:
            self._pace.finished(self._backend.now() - since, unit.weight)
        yield Ended(unit, worker, reply, reply.error or "", reply.seconds)
        if reply.poisoned:
            yield from self._lose(worker, f"its process cannot be trusted after {reply.error}")

    def _lose(self, worker: PoolWorker, cause: str) -> Iterator[Ended]:
        """Drop a worker and give back the units it held."""
        if not worker.is_ready:
            self._failed_load(worker, cause)
        _log.info("worker %s on %s lost: %s", worker.name, worker.node.host, cause)
        self._discard(worker)
        self._tell("worker-lost", worker, cause)
        text = f"worker {worker.name} on {worker.node.host} lost: {cause}"
        for unit, since in worker.held.values():
            yield Ended(unit, worker, None, text, self._backend.now() - since)

    def _overdue(self, now: float) -> Iterator[Ended]:
        for worker in list(self._workers.values()):
            late = 0.0
            if not worker.is_ready and now - worker.since > self._limits.load:
                late = self._limits.load
            for unit, since in worker.held.values():
                allowed = self._pace.deadline(unit.id, unit.weight)
                if unit.id == worker.loading:
                    allowed += self._limits.load
                if now - since > allowed:
                    self._pace.overran(unit.id)
                    late = allowed
            if late:
                yield from self._lose(worker, f"ended after {late:.3g} s without an answer")

    def _note_nodes(self) -> Iterator[Ended]:
        nodes = {node.key: node for node in self._backend.nodes()}
        before, self._nodes = self._nodes, nodes
        for key in nodes.keys() - before.keys():
            self._tell("node-joined", node=nodes[key], detail=offer(nodes[key]))
        for key in before.keys() - nodes.keys():
            self._tell("node-lost", node=before[key])
            for worker in [worker for worker in self._workers.values() if worker.node.key == key]:
                yield from self._lose(worker, "its node is gone")

    def _fill(self, wanted: int, now: float) -> None:
        """Start missing workers, one node after the other, so that few of them spread over nodes."""
        most = wanted if self._max_workers is None else min(wanted, self._max_workers)
        if len(self._workers) >= most:
            return
        places = [
            (place, number, node)
            for number, node in enumerate(self._nodes.values())
            if self._failed_loads[node.key] < self._limits.failed_loads
            for place in range(self._num_on[node.key], slots(node, self._resources))
        ]
        for _, _, node in sorted(places, key=lambda place: place[:2])[: most - len(self._workers)]:
            worker = PoolWorker(f"{self._backend.prefix}-{self._started}", node, now)
            self._started += 1
            self._workers[worker.name] = worker
            self._num_on[node.key] += 1
            self._backend.start(worker.name, node)

    def _place(self, worker: PoolWorker) -> None:
        """Put a worker where `free_worker` finds it, if it is free."""
        self._idle.pop(worker.name, None)
        self._finishing.pop(worker.name, None)
        if not worker.is_ready or worker.computing or worker.alone:
            return
        if not worker.held:
            self._idle[worker.name] = worker
        elif self._backend.overlap and len(worker.held) == 1:
            self._finishing[worker.name] = worker

    def _let_go(self, worker: PoolWorker) -> None:
        if worker.group is not None:
            self.holders[worker.group] -= 1

    def _discard(self, worker: PoolWorker) -> None:
        self._backend.stop(worker.name)
        self._let_go(worker)
        del self._workers[worker.name]
        self._num_on[worker.node.key] -= 1
        self._idle.pop(worker.name, None)
        self._finishing.pop(worker.name, None)

    def _failed_load(self, worker: PoolWorker, cause: str) -> None:
        node = worker.node
        self._first_cause = self._first_cause or f"on {node.host}: {cause}"
        self._failed_loads[node.key] += 1
        if self._failed_loads[node.key] == self._limits.failed_loads:
            _log.info("%s gets no more workers: %d failed to build", node.host, self._limits.failed_loads)
            self._tell("node-banned", node=node, detail=cause)

    def _check_builds(self) -> None:
        """Raise NoWorkers when workers were tried and none is left.

        A worker that says why it cannot be built will say so again: a few such answers end a run in which none
        was ever ready. A worker process that merely died may have been unlucky: only banned nodes end it then.
        """
        if self._workers or not self._first_cause:
            return
        banned = all(self._failed_loads[key] >= self._limits.failed_loads for key in self._nodes)
        if (banned and self._nodes) or (self._refusals >= self._limits.refusals and not self._ever_ready):
            raise NoWorkers(f"no worker could be built; the first failed {self._first_cause}")

    def _check_room(self, now: float) -> None:
        """Raise NoWorkers when for some time no node could hold a single worker."""
        if now - self._populated >= (self._limits.empty if self._can_grow else 0.0):
            offers = "; ".join(offer(node) for node in self._nodes.values()) or "no node is alive"
            raise NoWorkers(f"no node has room for a worker that holds {amounts(self._resources)}: {offers}.")

    def _tell(
        self,
        kind: Kind,
        worker: PoolWorker | None = None,
        detail: str = "",
        seconds: float = 0.0,
        node: Node | None = None,
    ) -> None:
        if self._on_event is not None:
            name, gpu = (worker.name, worker.gpu) if worker else ("", "")
            host = worker.node.host if worker else node.host if node else ""
            self._on_event(Event(kind, worker=name, node=host, gpu=gpu, detail=detail, seconds=seconds))
