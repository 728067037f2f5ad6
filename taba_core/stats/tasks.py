"""Calls of one function that do not depend on one another: here by Dask, or wherever a `Mapper` makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable


@runtime_checkable
class Mapper(Protocol):
    """Makes calls in other processes, on this machine or on many."""

    @property
    def workers(self) -> int:
        """How many calls it makes at the same time, at least 1."""
        ...

    def map(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Call the function with each of the arguments.

        Args:
          function, arguments: picklable; what the function returns is, too.

        Yields:
          The place of a call among the arguments and what it returned, as soon as it has, in any order.
        Raises:
          The error of the function.
        """
        ...


Scheduler = Literal["threads", "processes", "sync"] | Callable[..., Any] | Mapper


def calls(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    *,
    scheduler: Scheduler,
    workers: int | None,
) -> Iterator[tuple[int, Any]]:
    """Make the calls; see `Mapper.map`. No scheduler changes what a call returns.

    Args:
      scheduler: a mapper; or "threads", "processes", "sync", or any Dask `get` function: all calls have then returned
        before the first is yielded.
      workers: threads or processes of Dask; None = the number of cores.
    """
    if isinstance(scheduler, Mapper):
        yield from scheduler.map(function, arguments)
        return
    import dask

    task = dask.delayed(function, pure=False)  # type: ignore[attr-defined]
    options = {} if callable(scheduler) or workers is None else {"num_workers": workers}
    found = dask.compute(  # type: ignore[attr-defined]
        *[task(*given) for given in arguments], scheduler=scheduler, optimize_graph=False, **options
    )
    yield from enumerate(found)


def in_order(found: Iterator[tuple[int, Any]], count: int) -> list[Any]:
    """What `count` calls returned, in the order of their arguments."""
    values = dict(found)
    return [values[place] for place in range(count)]
