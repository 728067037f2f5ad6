"""Processes that compute together on a Ray cluster, one rank each.

Each rank is an actor that holds a core, and a device where there are devices; all are told where they can meet: the
node of the first one and a port that is free there. Where one is lost, all of them are started again; what the function
raises ends them for good. How they talk, what they compute and where it is kept is the function's business: it must go
on where it was.

Ray Train does the same and more. It is not used because it needs pyarrow, which every Ray worker then imports when it
serialises anything; with pyarrow 26 and Ray 2.60 the supervisor of `ray job submit` hangs in doing so.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

from cluster.pool.executor import THREAD_VARIABLES, ClusterError, OtherCode
from cluster.ray.code import Code, describe, run_code_of
from cluster.ray.same_code import send_by_value

Meeting = tuple[str, int]  # host and port
RESTARTS = 3  # of all ranks, where one is lost
_POLL_S = 1.0


class RanksFailed(ClusterError):
    """The function raised, or ranks were lost too often. `cause` is what was raised, None if nothing was."""

    def __init__(self, text: str, cause: BaseException | None = None) -> None:
        super().__init__(text)
        self.cause = cause


def run_ranks(
    function: Callable[[int, int, str, Meeting], None],
    *,
    count: int,
    use_gpu: bool,
    code: Code,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Call `function(rank, count, device, meeting)` in `count` processes at once; returns when all have returned.

    The process must be connected to Ray.

    Args:
      function: picklable by name.
      count: number of ranks.
      code: what the ranks have to run.
      check: raises when the cluster as a whole is lost; asked every second.
    Raises:
      RanksFailed: see there. OtherCode: a rank would run other code than this process.
    """
    from ray import cloudpickle

    send_by_value()
    pickled: bytes = cloudpickle.dumps(function)
    for attempt in range(RESTARTS + 1):
        try:
            _run_once(pickled, count, use_gpu, code, check)
            return
        except RanksFailed as failed:
            if failed.cause is not None or attempt == RESTARTS:
                raise


def _run_once(pickled: bytes, count: int, use_gpu: bool, code: Code, check: Callable[[], None]) -> None:
    import ray

    remote: Any = ray.remote
    held = {"num_cpus": 1, "num_gpus": 1 if use_gpu else 0, "max_restarts": 0, "max_task_retries": 0}
    made = remote(_rank_class()).options(**held)
    ranks = [made.remote(code, THREAD_VARIABLES) for _ in range(count)]
    try:
        for differences in _all([rank.ready.remote() for rank in ranks], check):
            if differences:
                raise OtherCode(describe(differences))
        (meeting,) = _all([ranks[0].address.remote()], check)
        _all(
            [rank.run.remote(pickled, index, count, use_gpu, meeting) for index, rank in enumerate(ranks)],
            check,
        )
    finally:
        for rank in ranks:
            with contextlib.suppress(Exception):  # it may be gone already, or Ray itself may be
                ray.kill(rank, no_restart=True)


def _all(references: list[Any], check: Callable[[], None]) -> list[Any]:
    """The answers of all ranks; the first error of one ends the waiting for the others."""
    import ray

    left = list(references)
    while left:
        done, left = ray.wait(left, num_returns=1, timeout=_POLL_S)
        check()
        for reference in done:
            _answer(reference)
    return [_answer(reference) for reference in references]


def _answer(reference: Any) -> Any:
    import ray

    errors: Any = ray.exceptions
    try:
        return ray.get(reference)
    except errors.RayTaskError as error:
        raise RanksFailed(str(error.cause), error.cause) from error
    except errors.RayError as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise RanksFailed(text[0]) from error


def _rank_class() -> type:
    """The actor of a rank, which Ray sends whole: what it needs is not looked up on the node."""

    class Rank:
        def __init__(self, code: Code, thread_variables: tuple[str, ...]) -> None:
            for name in thread_variables:
                os.environ[name] = "1"
            self.code = code

        def ready(self) -> Any:
            """Take the driver's code over; where it differs."""
            return run_code_of(self.code)

        def address(self) -> Meeting:
            """Where the ranks meet: this node, and a port that is free now."""
            import ray

            host = ray.util.get_node_ip_address()
            with socket.socket() as free:
                free.bind(("", 0))
                return host, free.getsockname()[1]

        def run(self, pickled: bytes, rank: int, count: int, use_gpu: bool, meeting: Meeting) -> None:
            """Call the function."""
            import pickle

            pickle.loads(pickled)(rank, count, "cuda" if use_gpu else "cpu", meeting)

    return Rank
