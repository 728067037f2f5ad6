"""The executor of a run: made when it is first needed, used by units and by reductions, given back at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cluster.pool.executor import ClusterError, Executor, OtherCode, Resources
from taba_core.errors import TabaError, UsageError, WorkError
from workflows.execution.session import stop_if_asked

if TYPE_CHECKING:
    from cluster.pool.tasks import TaskPool
    from taba_core.stats.tasks import Mapper


class SharedExecutor:
    """One executor for all that a run does on workers.

    Args:
      make: makes it; nothing starts before somebody asks for it.
      resources: of a worker that computes units; where it holds a device, reductions are made beside the units, and
        leave the cores of such workers alone.
    """

    def __init__(self, make: Callable[[], Executor], resources: Resources) -> None:
        self._make = make
        self._beside = resources if resources.num_gpus else None
        self._executor: Executor | None = None
        self._mapper: _Workers | None = None
        self._lock = threading.Lock()  # studies are analysed in a thread of their own

    def get(self) -> Executor:
        """The executor, made unless it is there."""
        with self._lock:
            if self._executor is None:
                self._executor = self._make()
            return self._executor

    def mapper(self) -> Mapper | None:
        """What makes reductions on workers; None where there are none beyond this process."""
        task_pool = getattr(self.get(), "task_pool", None)
        if task_pool is None:
            return None
        if self._mapper is None:
            self._mapper = _Workers(task_pool(final=(TabaError,), beside=self._beside))
        return self._mapper

    def close(self) -> None:
        """Give it back; whoever asks again gets a new one."""
        with self._lock:
            executor, mapper = self._executor, self._mapper
            self._executor = self._mapper = None
        if mapper is not None:
            mapper.close()
        if executor is not None:
            executor.close()


class _Workers:
    """The `Mapper` of a pool of workers: its errors are those a user reads."""

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool

    @property
    def workers(self) -> int:
        try:
            return self._pool.workers
        except ClusterError as error:
            raise _told(error) from None

    def map(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        try:
            for found in self._pool.map(function, arguments):
                stop_if_asked()
                yield found
        except ClusterError as error:
            raise _told(error) from None

    def close(self) -> None:
        self._pool.close()


def _told(error: ClusterError) -> TabaError:
    if isinstance(error, OtherCode):
        return UsageError(str(error))
    return WorkError(
        f"a reduction on the workers failed: {str(error).rstrip('.')}. What was computed is stored; run the same "
        "command again, or with --executor local, which reduces in this process."
    )
