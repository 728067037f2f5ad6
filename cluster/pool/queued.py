"""What executors share: units become a queue, and a run is a block that gives everything back at its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from cluster.pool.events import OnEvent
from cluster.pool.executor import Outcome, Resources, Worker
from cluster.pool.unit_queue import UnitQueue
from cluster.pool.units import Unit, Units


class QueuedExecutor(ABC):
    """An executor that hands units over from a queue, which counts their attempts.

    Args:
      retry_delay: seconds before the first retry of a unit that raised; doubles with every attempt.
    """

    def __init__(self, retry_delay: float) -> None:
        self._retry_delay = retry_delay

    def execute(
        self,
        units: Sequence[Unit] | Units,
        make_worker: Callable[[], Worker],
        resources: Resources = Resources(),
        on_event: OnEvent | None = None,
    ) -> Iterator[Outcome]:
        """Run the units; see `Executor.execute`."""
        pending = UnitQueue(units, retry_delay=self._retry_delay)
        return self._execute(pending, make_worker, resources, on_event)

    @abstractmethod
    def _execute(
        self,
        pending: UnitQueue,
        make_worker: Callable[[], Worker],
        resources: Resources,
        on_event: OnEvent | None,
    ) -> Iterator[Outcome]:
        """Run what is pending and yield the outcomes."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; calling it twice does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
