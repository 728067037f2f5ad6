"""Workers as Ray actors, pinned to nodes; answers come back through object references."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

from cluster.pool.backend import Answer, Node, Reply
from cluster.pool.capacity import without
from cluster.pool.executor import THREAD_VARIABLES, Resources
from cluster.pool.units import Unit
from cluster.ray.code import Code, code_of
from cluster.ray.same_code import refuse, send_by_value


class RayBackend:
    """The cluster this process is connected to.

    Args:
      make_worker: pickled callable that builds a worker.
      resources: what each worker holds.
      check: raises when the cluster as a whole is lost; asked whenever nodes are listed.
      code: what the workers have to run; None = what this process runs of this package.
      beside: workers of others whose room on every node is left to them; None = there are none.
    """

    prefix = "ray"
    overlap = True

    def __init__(
        self,
        make_worker: bytes,
        resources: Resources,
        check: Callable[[], None] = lambda: None,
        code: Code | None = None,
        beside: Resources | None = None,
    ) -> None:
        import ray

        self._ray: Any = ray
        self._beside = beside
        self._check = check
        self._actor_class: Any = self._ray.remote(concurrency_groups={"finish": 1})(send_by_value())
        self._arguments = (
            code or code_of(),
            make_worker,
            resources.num_threads,
            THREAD_VARIABLES,
            resources.num_gpus > 0,
        )
        # Nothing is restarted by Ray: on a cluster that lost a node, its own retry can wait forever.
        self._options: dict[str, Any] = {
            "num_cpus": resources.num_cpus,
            "num_gpus": resources.num_gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
        } | ({"memory": resources.memory_bytes} if resources.memory_bytes else {})
        self._actors: dict[str, Any] = {}
        self._owed: dict[Any, tuple[str, str]] = {}  # reference -> worker, unit

    def now(self) -> float:
        """See `Backend`."""
        return time.monotonic()

    def nodes(self) -> list[Node]:
        """The nodes Ray believes alive; a lost one stays among them for some seconds."""
        self._check()
        nodes = alive_nodes()
        return nodes if self._beside is None else [without(node, self._beside) for node in nodes]

    def start(self, worker: str, node: Node) -> None:
        """Start an actor on that node; while the node cannot place it, it is pending, and holds no unit."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        pinned = NodeAffinitySchedulingStrategy(node.key, soft=False)
        actor = self._actor_class.options(scheduling_strategy=pinned, **self._options).remote(
            *self._arguments
        )
        self._actors[worker] = actor
        self._owed[actor.ready.remote()] = (worker, "")

    def give(self, worker: str, unit: Unit) -> None:
        """See `Backend`."""
        self._owe(worker, unit.id, lambda actor: actor.compute.remote(unit.id, unit.payload))

    def finish(self, worker: str, unit_id: str) -> None:
        """See `Backend`."""
        self._owe(
            worker, unit_id, lambda actor: actor.finish.options(concurrency_group="finish").remote(unit_id)
        )

    def poll(self, timeout: float) -> list[Answer]:
        """See `Backend`.

        Raises:
          OtherCode: a worker that was starting has other code than this process.
        """
        if not self._owed:
            time.sleep(timeout)
            return []
        references = list(self._owed)
        done, _ = self._ray.wait(references, num_returns=1, timeout=timeout)
        if done:
            done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [self._answer(reference, *self._owed.pop(reference)) for reference in done]

    def stop(self, worker: str) -> None:
        """See `Backend`."""
        actor = self._actors.pop(worker, None)
        self._owed = {reference: owed for reference, owed in self._owed.items() if owed[0] != worker}
        with contextlib.suppress(Exception):  # it may be gone already, or Ray itself may be
            self._ray.kill(actor, no_restart=True)

    def _owe(self, worker: str, unit_id: str, call: Callable[[Any], Any]) -> None:
        self._owed[call(self._actors[worker])] = (worker, unit_id)

    def _answer(self, reference: Any, worker: str, unit_id: str) -> Answer:
        errors = self._ray.exceptions
        try:
            said = self._ray.get(reference)
            if isinstance(said, list):  # no reply, but where its code differs
                refuse(said)
            return Answer(worker, unit_id, said)
        except errors.RayTaskError as error:  # the result could not be pickled; the worker is fine
            text = f"{type(error.cause).__name__}: {error.cause}"
            return Answer(worker, unit_id, Reply(error=text, trace=str(error)))
        except errors.RayError as error:  # dead, or unavailable for now, which comes to the same
            return Answer(worker, unit_id, None, _describe_loss(error))


def alive_nodes() -> list[Node]:
    """The nodes of the cluster this process is connected to."""
    import ray

    return [
        Node(node["NodeID"], node["NodeManagerHostname"], node["Resources"])
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def _describe_loss(error: Exception) -> str:
    """One line from Ray's many: the class and the most telling sentence."""
    text = str(error)
    detail = re.search(r"Worker exit detail: (.*)", text) or re.search(r"(\S.*)", text)
    return f"{type(error).__name__}: {detail.group(1).strip()}" if detail else type(error).__name__
