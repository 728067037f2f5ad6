"""Warm Ray workers, one per free place on every node that is alive. Each rule answers an observed failure.

Workers are pinned to a node and get work only after they said they are ready: workers placed freely from a
stale list of nodes wait forever for a node that is gone, with the unit they were given. Ray restarts nothing
by itself, for the same reason; a lost worker is replaced here, on the nodes that are alive then.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.capacity import amounts, offer, slots
from cluster.executor import NoWorkers, Resources, StopRun, Unit
from cluster.limits import Limits, Pace
from cluster.ray_worker import Reply, WarmWorker

_log = logging.getLogger(__name__)


@dataclass
class Member:
    """One worker: starting until `ready()` came back, then idle or, holding a unit, busy.

    Attributes:
      name: unique in the pool, also over replacements.
      node: Ray's id of the node it is pinned to.
      host: name of that node.
      actor: Ray handle.
      ref: the answer it owes; None when idle.
      since: when it got what it is doing (monotonic seconds).
      unit: what it runs.
      is_ready: whether its worker was built.
    """

    name: str
    node: str
    host: str
    actor: Any
    ref: Any
    since: float
    unit: Unit | None = None
    is_ready: bool = False


@dataclass(frozen=True)
class Ended:
    """A unit that came back from a worker: with a reply, or lost with the worker (`reply` is None)."""

    unit: Unit
    member: Member
    reply: Reply | None
    cause: str
    seconds: float


class RayPool:
    """The workers of one run.

    Args:
      make_worker: pickled callable that builds a worker.
      resources: what each worker holds.
      max_workers: upper bound over all nodes; None for as many as fit.
      limits: deadlines.
      can_grow: whether nodes may still join (a private local cluster never grows).
    """

    def __init__(
        self,
        make_worker: bytes,
        resources: Resources,
        max_workers: int | None,
        limits: Limits,
        can_grow: bool = True,
    ) -> None:
        import ray

        self._ray: Any = ray
        self._actor_class: Any = self._ray.remote(WarmWorker)
        self._make_worker = make_worker
        self._resources = resources
        self._max_workers = max_workers
        self._limits = limits
        self._can_grow = can_grow
        self._pace = Pace(limits)
        self._members: list[Member] = []
        self._started = 0
        self._ever_ready = False
        self._refusals = 0
        self._failed_loads: Counter[str] = Counter()
        self._first_cause = ""
        self._next_refresh = 0.0
        self._populated = time.monotonic()

    @property
    def idle(self) -> list[Member]:
        """Workers that are ready and hold no unit."""
        return [member for member in self._members if member.is_ready and member.unit is None]

    def give(self, member: Member, unit: Unit) -> None:
        """Hand a unit to an idle worker; a worker never holds more than one."""
        member.unit = unit
        member.since = time.monotonic()
        member.ref = member.actor.run.remote(unit.payload)

    def refresh(self, wanted: int) -> list[Ended]:
        """Every `limits.refresh` seconds: drop workers of dead nodes, start the missing ones.

        Args:
          wanted: units not yet settled; more workers than that are not started.
        """
        now = time.monotonic()
        if now < self._next_refresh:
            return []
        self._next_refresh = now + self._limits.refresh
        nodes = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        gone = [member for member in self._members if member.node not in nodes]
        ended = [lost for member in gone for lost in self._lose(member, "its node is gone")]
        self._check_builds(nodes)
        for node in self._free_places(nodes)[: self._vacancies(wanted)]:
            self._start(node, nodes[node]["NodeManagerHostname"])
        if self._members:
            self._populated = now
        self._check_room(nodes, now)
        return ended

    def collect(self, timeout: float) -> list[Ended]:
        """Wait up to `timeout` seconds for an answer, apply deadlines, and say which units ended."""
        owed = {member.ref: member for member in self._members if member.ref is not None}
        if not owed:
            time.sleep(timeout)
            return []
        done, _ = self._ray.wait(list(owed), num_returns=1, timeout=timeout)
        if done:
            done, _ = self._ray.wait(list(owed), num_returns=len(owed), timeout=0)
        ended = [answer for ref in done for answer in self._answer(owed[ref])]
        return ended + list(self._overdue())

    def close(self) -> None:
        """End all workers."""
        for member in self._members:
            self._kill(member)
        self._members.clear()

    def _answer(self, member: Member) -> Iterator[Ended]:
        errors = self._ray.exceptions
        try:
            reply: Reply = self._ray.get(member.ref)
        except errors.RayTaskError as error:  # the result could not be pickled; the worker is fine
            reply = Reply(error=f"{type(error.cause).__name__}: {error.cause}", trace=str(error))
        except errors.RayError as error:  # dead, or unavailable for now, which comes to the same
            yield from self._lose(member, _describe_loss(error))
            return
        seconds, unit = time.monotonic() - member.since, member.unit
        member.ref, member.unit = None, None
        if reply.stop:
            raise StopRun(reply.error)
        if unit is None:
            self._built(member, reply)
            return
        if reply.error is None:
            self._pace.finished(seconds, unit.weight)
        elif reply.poisoned:
            self._discard(member)
        yield Ended(unit, member, reply, reply.error or "", reply.seconds)

    def _built(self, member: Member, reply: Reply) -> None:
        if reply.error is None:
            member.is_ready = self._ever_ready = True
            _log.info(
                "worker %s ready on %s (pid %d) in %.1f s", member.name, member.host, reply.pid, reply.seconds
            )
        else:
            self._refusals += 1
            self._note_failed_load(member, reply.error)
            self._discard(member)

    def _lose(self, member: Member, cause: str) -> Iterator[Ended]:
        """Drop a worker and give back the unit it held."""
        if not member.is_ready:
            self._note_failed_load(member, cause)
        _log.warning("worker %s on %s lost: %s", member.name, member.host, cause)
        self._discard(member)
        if member.unit is not None:
            cause = f"worker {member.name} on {member.host} lost: {cause}"
            yield Ended(member.unit, member, None, cause, time.monotonic() - member.since)

    def _overdue(self) -> Iterator[Ended]:
        now = time.monotonic()
        for member in [member for member in self._members if member.ref is not None]:
            if member.unit is None:
                allowed = self._limits.load
            else:
                allowed = self._pace.deadline(member.unit.id, member.unit.weight)
            if now - member.since > allowed:
                if member.unit is not None:
                    self._pace.overran(member.unit.id)
                yield from self._lose(member, f"ended after {allowed:.3g} s without an answer")

    def _note_failed_load(self, member: Member, cause: str) -> None:
        self._first_cause = self._first_cause or f"on {member.host}: {cause}"
        self._failed_loads[member.node] += 1
        if self._failed_loads[member.node] == self._limits.failed_loads:
            _log.warning(
                "%s gets no more workers: %d failed to build", member.host, self._limits.failed_loads
            )

    def _check_builds(self, nodes: dict[str, dict[str, Any]]) -> None:
        """Raise NoWorkers when workers were tried and none is left.

        A worker that says why it cannot be built will say so again: two such answers end a run in which none was
        ever ready. A worker process that merely died may have been unlucky: only banned nodes end the run then.
        """
        failures = sum(self._failed_loads.values())
        banned = all(self._failed_loads[node] >= self._limits.failed_loads for node in nodes)
        hopeless = self._refusals >= 2 and not self._ever_ready
        if not self._members and failures and (banned or hopeless):
            raise NoWorkers(f"no worker could be built; the first failed {self._first_cause}")

    def _check_room(self, nodes: dict[str, dict[str, Any]], now: float) -> None:
        """Raise NoWorkers when for some time no node could hold a single worker."""
        patience = self._limits.empty if self._can_grow else 0.0
        if not self._members and now - self._populated >= patience:
            offers = "; ".join(offer(node) for node in nodes.values()) or "no node is alive"
            raise NoWorkers(f"no node has room for a worker that holds {amounts(self._resources)}: {offers}.")

    def _vacancies(self, wanted: int) -> int:
        most = wanted if self._max_workers is None else min(wanted, self._max_workers)
        return max(0, most - len(self._members))

    def _free_places(self, nodes: dict[str, dict[str, Any]]) -> list[str]:
        """Nodes with room, one entry per free place, in turns so that few workers spread over nodes."""
        places = []
        used = Counter(member.node for member in self._members)
        for key, node in nodes.items():
            if self._failed_loads[key] < self._limits.failed_loads:
                places += [
                    (place, key) for place in range(used[key], slots(node["Resources"], self._resources))
                ]
        return [key for _, key in sorted(places)]

    def _start(self, node: str, host: str) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = (
            {"memory": self._resources.memory_bytes} if self._resources.memory_bytes else {}
        )
        actor = self._actor_class.options(
            num_cpus=self._resources.num_cpus,
            num_gpus=self._resources.num_gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            **options,
        ).remote(self._make_worker, self._resources.num_threads)
        name = f"ray-{self._started}"
        self._started += 1
        self._members.append(Member(name, node, host, actor, actor.ready.remote(), time.monotonic()))

    def _discard(self, member: Member) -> None:
        self._kill(member)
        self._members.remove(member)

    def _kill(self, member: Member) -> None:
        with contextlib.suppress(Exception):  # it may be gone already, or Ray itself may be
            self._ray.kill(member.actor, no_restart=True)


def _describe_loss(error: Exception) -> str:
    """One line from Ray's many: the class and the most telling sentence."""
    text = str(error)
    detail = re.search(r"Worker exit detail: (.*)", text) or re.search(r"(\S.*)", text)
    return f"{type(error).__name__}: {detail.group(1).strip()}" if detail else type(error).__name__
