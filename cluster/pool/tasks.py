"""Calls of functions on the workers of a pool, which stay from one set of calls to the next."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.pool.backend import Backend
from cluster.pool.drive import drive
from cluster.pool.executor import ClusterError
from cluster.pool.pool import Pool
from cluster.pool.unit_queue import UnitQueue
from cluster.pool.units import Unit


class TaskFailed(ClusterError):
    """A call failed for good: it raised at every attempt, or its worker was lost each time. The text says which."""


@dataclass(frozen=True)
class Call:
    """The payload of a unit: a function and what it is called with, both picklable."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Returned:
    """What a call came to, pickled: its value, or an error that no other attempt would change.

    Bytes, so that what the caller gets is its own memory and none of the cluster's.
    """

    value: bytes
    is_error: bool = False


class Caller:
    """Worker that makes calls.

    Args:
      final: errors that are not tried again and come back to the caller as they are.
    """

    def __init__(self, final: tuple[type[Exception], ...] = ()) -> None:
        self._final = final

    def run(self, call: Call) -> Returned:
        """Make one call."""
        try:
            return Returned(pickle.dumps(call.function(*call.arguments), protocol=5))
        except self._final as error:
            return Returned(pickle.dumps(error), is_error=True)


class _NotAsked:
    reason = None


class TaskPool:
    """Makes calls on warm workers; a lost worker is replaced and its call made again, as for units.

    Args:
      open_pool: starts a pool of `Caller`s, with the backend it is on.
    """

    def __init__(self, open_pool: Callable[[], tuple[Pool, Backend]]) -> None:
        self._open_pool = open_pool
        self._opened: tuple[Pool, Backend] | None = None

    @property
    def workers(self) -> int:
        """How many calls can be made at the same time, at least 1."""
        pool, _ = self._open()
        return max(1, pool.capacity())

    def map(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Call the function with each of the arguments.

        Yields:
          The place of a call among the arguments and what it returned, in order of completion.
        Raises:
          TaskFailed: a call failed for good. And a final error of a call, as it was raised.
        """
        units = [Unit(f"call/{place}", Call(function, given)) for place, given in enumerate(arguments)]
        pool, backend = self._open()
        pool.forget_pace()
        done = False
        try:
            for outcome in drive(UnitQueue(units), pool, backend, _NotAsked()):
                if outcome.error is not None:
                    raise TaskFailed(f"{outcome.error} ({outcome.attempts} attempts)")
                value = pickle.loads(outcome.result.value)
                if outcome.result.is_error:
                    raise value
                yield int(outcome.unit.id.partition("/")[2]), value
            done = True
        finally:
            if not done:  # its workers still make calls that nobody waits for
                self.close()

    def close(self) -> None:
        """End the workers; calling it twice does no harm."""
        if self._opened is not None:
            pool, _ = self._opened
            self._opened = None
            with contextlib.suppress(Exception):  # the cluster may be gone
                pool.close()

    def _open(self) -> tuple[Pool, Backend]:
        if self._opened is None:
            self._opened = self._open_pool()
        return self._opened
