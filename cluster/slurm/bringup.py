"""On the head node of an allocation: wait until nodes have joined, or hold the cluster for submitted jobs.

`python -m cluster.slurm.bringup wait|hold ...`; called by `slurm/ray_node.sh`, beside the Ray it started.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from cluster.ray.session import ClusterUnreachable, RaySession

_ACTIVE = ("PENDING", "RUNNING")
_SILENCE_S = 120.0  # the Jobs API is restarted by nobody; without it the cluster is of no use


def wait_for_nodes(address: str, nodes: int, min_nodes: int, seconds: float) -> int:
    """Wait until all nodes are alive, or the time is over; return how many are.

    Args:
      address: HOST:PORT of a head that may still be starting.
      nodes: how many are expected. Only living ones count: Ray keeps those that are gone in its list.
      min_nodes: enough when the time is over.
      seconds: how long to wait.

    Raises:
      ClusterUnreachable: the head did not answer in time, or fewer than `min_nodes` joined.
    """
    deadline = time.monotonic() + seconds
    session = _connect(address, deadline)
    import ray

    list_nodes: Any = ray.nodes

    try:
        while True:
            alive = sum(bool(node["Alive"]) for node in list_nodes())
            if alive >= nodes or (alive >= min_nodes and time.monotonic() > deadline):
                return alive
            if time.monotonic() > deadline:
                raise ClusterUnreachable(
                    f"{alive} of {nodes} nodes joined {address} within {seconds:g} s; at least {min_nodes} are needed."
                )
            time.sleep(1)
    finally:
        session.close()


def hold(
    list_states: Callable[[], Sequence[str]],
    idle_seconds: float,
    drain_file: str | None,
    *,
    poll_seconds: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Return why the cluster is no longer needed: idle for long, or drained and its last job has ended.

    Args:
      list_states: states of all jobs of the cluster, as Ray names them; may raise while the API does not answer.
      idle_seconds: how long there may be no active job.
      drain_file: a path whose existence asks to end with the jobs that run.

    Raises:
      ClusterUnreachable: the Jobs API has been silent for two minutes.
    """
    busy_until = answered = clock()
    while True:
        try:
            active = any(state in _ACTIVE for state in list_states())
            answered = clock()
        except (OSError, RuntimeError) as error:  # what the client makes of a refused or failing request
            if clock() - answered > _SILENCE_S:
                raise ClusterUnreachable(f"the Jobs API does not answer: {error}") from error
        else:
            if active:
                busy_until = clock()
            elif drain_file is not None and os.path.exists(drain_file):
                return "drained"
            elif clock() - busy_until >= idle_seconds:
                return f"no job for {idle_seconds / 60:g} minutes"
        sleep(poll_seconds)


def _connect(address: str, deadline: float) -> RaySession:
    while True:
        try:
            return RaySession(address)
        except ClusterUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _job_states() -> Callable[[], Sequence[str]]:
    from ray.job_submission import JobSubmissionClient

    client: JobSubmissionClient | None = None

    def states() -> Sequence[str]:
        nonlocal client
        if client is None:  # the constructor asks the API for its version
            client = JobSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"])
        return [str(getattr(job.status, "value", job.status)) for job in client.list_jobs()]

    return states


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out `wait` or `hold`; exit status 0, or 1 with one line saying why."""
    parser = argparse.ArgumentParser(prog="cluster.slurm.bringup", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    waiting = commands.add_parser("wait", help="until nodes have joined")
    waiting.add_argument("--nodes", type=int, required=True)
    waiting.add_argument("--min-nodes", type=int, default=1)
    waiting.add_argument("--seconds", type=float, default=300)
    holding = commands.add_parser("hold", help="until no job has run for a while")
    holding.add_argument("--idle-minutes", type=float, default=30)
    for command in (waiting, holding):
        command.add_argument("--address", required=True, help="HOST:PORT of the head")
    asked = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        if asked.command == "wait":
            alive = wait_for_nodes(asked.address, asked.nodes, asked.min_nodes, asked.seconds)
            said = f"{alive} of {asked.nodes} nodes after {time.monotonic() - started:.0f} s"
        else:
            said = hold(_job_states(), asked.idle_minutes * 60, os.environ.get("TABA_DRAIN_FILE"))
    except ClusterUnreachable as error:
        print(f"taba: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"taba: {said}", file=sys.stderr)


if __name__ == "__main__":
    main()
