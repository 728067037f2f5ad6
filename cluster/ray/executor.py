"""Work on Ray: the driver owns the queue, the retries and the stop; workers own nothing but a warm model."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence

from cluster.pool.backend import Node
from cluster.pool.drain import DrainRequest
from cluster.pool.drive import drive
from cluster.pool.events import OnEvent
from cluster.pool.executor import Outcome, Resources, Worker
from cluster.pool.limits import Limits
from cluster.pool.pool import Pool
from cluster.pool.queued import QueuedExecutor
from cluster.pool.tasks import Caller, TaskPool
from cluster.pool.unit_queue import UnitQueue
from cluster.ray.address import ray_address
from cluster.ray.backend import RayBackend, alive_nodes
from cluster.ray.code import code_of
from cluster.ray.same_code import prove_nodes
from cluster.ray.session import RaySession


def offered(address: str | None = None) -> list[Node]:
    """The nodes of the cluster at an address, with their CPU, GPU and memory; connects and disconnects.

    Raises:
      ClusterUnreachable: there is no cluster at the address.
    """
    with RayExecutor(address) as executor:
        return executor.offered()


class RayExecutor(QueuedExecutor):
    """Runs units on warm worker processes of a Ray cluster, on this machine or on many.

    Ray starts with the first run, not before, and stays until `close()`. Workers live as long as one run. A unit is
    also tried again, within the same four attempts, when its worker or node is lost or when it runs past its deadline.
    A run raises ClusterUnreachable where there is no cluster at the address, ClusterLost where a private cluster has
    died (after `close()` another executor can go on), and OtherCode where a node would run other code than this one.

    Args:
      address: see `RaySession`; None = the cluster this process belongs to, else a private one made here.
      num_workers: upper bound on workers; None = as many as the nodes hold.
      limits: deadlines of units and of starting workers.
      retry_delay: seconds before the first retry of a unit that raised; doubles with every attempt.
      drain_file: a path whose existence asks the run to stop gently.
      packages: names of packages whose code in the workers has to be that of this process, beside this one.
    """

    def __init__(
        self,
        address: str | None = None,
        num_workers: int | None = None,
        *,
        limits: Limits = Limits(),
        retry_delay: float = 1.0,
        drain_file: str | os.PathLike[str] | None = None,
        packages: Sequence[str] = (),
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers={num_workers}; a Ray executor needs 1 worker or more.")
        self.num_workers = num_workers
        self._address = address
        self._limits = limits
        super().__init__(retry_delay)
        self._drain_file = drain_file
        self._session: RaySession | None = None
        self._packages = tuple(packages)
        code_of(
            packages
        )  # read now: what this process runs is what the files say now, not when a worker starts

    def describe(self) -> str:
        """Say in one line where work runs."""
        bound = f"up to {self.num_workers} workers" if self.num_workers else "a worker per free place"
        if self._session is None:
            return f"Ray ({ray_address(self._address).text}), {bound}"
        nodes = alive_nodes()
        cpus, gpus = (sum(node.offered.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
        where = "this machine" if self._session.local else self._session.address
        return f"Ray on {where}: {len(nodes)} nodes, {cpus:g} CPUs, {gpus:g} GPUs, {bound}"

    def offered(self) -> list[Node]:
        """Connect, if that has not happened, and say which nodes the cluster has.

        Raises:
          ClusterUnreachable: there is no cluster at the address.
        """
        self._connect(Resources())
        return alive_nodes()

    def keep_logs(self, directory: str | os.PathLike[str]) -> None:
        """Copy Ray's own logs of a private cluster; for when something was lost, before `close()`."""
        if self._session is not None:
            self._session.keep_logs(directory)

    def close(self) -> None:
        """Disconnect from Ray; a private cluster is stopped."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _execute(
        self,
        pending: UnitQueue,
        make_worker: Callable[[], Worker],
        resources: Resources,
        on_event: OnEvent | None,
    ) -> Iterator[Outcome]:
        if pending.finished:
            return
        pool, backend = self._open(make_worker, resources, on_event=on_event)
        try:
            with DrainRequest(self._drain_file) as drain:
                yield from drive(pending, pool, backend, drain, on_event)
        finally:
            pool.close()

    def task_pool(
        self, *, final: tuple[type[Exception], ...] = (), beside: Resources | None = None
    ) -> TaskPool:
        """Workers of one core each that make calls; they start with the first, and stay until they are closed.

        Args:
          final: errors of a call that are not tried again and come back as they are.
          beside: what workers of others on the same nodes hold, whose room is left to them.
        """
        make_worker = functools.partial(Caller, final)
        return TaskPool(lambda: self._open(make_worker, Resources(), beside=beside))

    def _open(
        self,
        make_worker: Callable[[], Worker],
        resources: Resources,
        *,
        on_event: OnEvent | None = None,
        beside: Resources | None = None,
    ) -> tuple[Pool, RayBackend]:
        session = self._connect(resources)
        from ray import cloudpickle

        pickled: bytes = cloudpickle.dumps(make_worker)  # type: ignore[no-untyped-call]
        code = code_of(self._packages)
        if not session.local:
            prove_nodes(code)
        backend = RayBackend(pickled, resources, session.check, code, beside)
        growing = not session.local
        return (
            Pool(backend, resources, self.num_workers, self._limits, can_grow=growing, on_event=on_event),
            backend,
        )

    def _connect(self, resources: Resources) -> RaySession:
        if self._session is None:
            num_cpus = None
            if self.num_workers is not None:
                num_cpus = max(1, round(self.num_workers * resources.num_cpus + 0.499))
            self._session = RaySession(self._address, num_cpus)
        return self._session
