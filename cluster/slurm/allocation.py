"""What the launcher of `slurm/` writes about a Ray cluster in a Slurm allocation, and how to ask it to stop.

Files only: a login node reads them without Ray. One directory a job, below the run directory of the site:
`cluster.json`, `token`, and per attempt `attempt-N/` with `node-I` (what node I does), `driver`, `rc`, `drain`, `done`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.pool.executor import ClusterError

DEFAULT_RUN_DIRECTORY = "runs/slurm"


class NoAllocation(ClusterError):
    """There is no such cluster, or it cannot do what is asked."""


@dataclass(frozen=True)
class NodeState:
    """One node as it described itself.

    Attributes:
      number: 0 is the head.
      state: up; lost (its Ray ended, it joins again); left.
      host, address: name and IPv4 address.
      seconds: age of the description.
    """

    number: int
    state: str
    host: str
    address: str
    seconds: float


@dataclass(frozen=True)
class Allocation:
    """A Ray cluster in a Slurm allocation: the latest attempt of its job.

    Attributes:
      job_id: of Slurm.
      directory: the job's run directory.
      attempt: how often the job was restarted.
      address: HOST:PORT of Ray's head.
      dashboard: URL of the Jobs API; None when the cluster runs one driver of its own.
      token_path: file with the token.
      num_nodes: nodes of the allocation.
      head: host name of the head node.
      started: UTC time, ISO 8601.
      requeues: whether a drained job comes back.
    """

    job_id: str
    directory: Path
    attempt: int
    address: str
    dashboard: str | None
    token_path: Path
    num_nodes: int
    head: str
    started: str
    requeues: bool

    @property
    def attempt_directory(self) -> Path:
        """Files of the latest attempt."""
        return self.directory / f"attempt-{self.attempt}"

    @property
    def drain_file(self) -> Path:
        """Its existence asks the runs on the cluster to stop gently."""
        return self.attempt_directory / "drain"

    @property
    def driver_status(self) -> int | None:
        """Exit status of the driver; None while it has not ended."""
        text = _read(self.attempt_directory / "rc")
        return int(text) if text else None

    def driver_state(self) -> str:
        """Say what the driver does or how it ended."""
        if self.driver_status is not None:
            return f"ended with status {self.driver_status}"
        if (self.attempt_directory / "done").exists():
            return "ended with the Ray of the head node"
        drains = ", draining" if self.drain_file.exists() else ""
        said = _read(self.attempt_directory / "driver") or "not started: Ray is coming up"
        return said.replace("waiting", "waiting for nodes") + drains

    def nodes(self) -> list[NodeState]:
        """Every node that has said something, by number."""
        found = []
        for file in self.attempt_directory.glob("node-*"):
            number, text = file.name.removeprefix("node-"), _read(file)
            if number.isdigit() and text:
                state, host, address, since = text.split()
                found.append(NodeState(int(number), state, host, address, time.time() - float(since)))
        return sorted(found, key=lambda node: node.number)

    def drain(self, *, requeue: bool = True) -> None:
        """Ask the runs on the cluster to stop gently: running units finish, the job ends or is requeued.

        Raises:
          NoAllocation: its driver has ended already.
        """
        if self.driver_status is not None or (self.attempt_directory / "done").exists():
            raise NoAllocation(
                f"the run of job {self.job_id} has {self.driver_state()}; there is nothing to drain."
            )
        partial = self.drain_file.with_name("drain.new")
        partial.write_text("requeue\n" if requeue else "no-requeue\n")
        partial.replace(self.drain_file)


def find_allocation(job_id: str, run_directory: str | os.PathLike[str] | None = None) -> Allocation:
    """Read the cluster of a Slurm job.

    Args:
      job_id: of Slurm.
      run_directory: None = the variable TABA_RUN_DIR, else `runs/slurm` below the current directory.

    Raises:
      NoAllocation: no such job, its files are not readable, or somebody else can read its token.
    """
    base = Path(run_directory or os.environ.get("TABA_RUN_DIR") or DEFAULT_RUN_DIRECTORY)
    directory = base.absolute() / job_id
    file = directory / "cluster.json"
    try:
        told = json.loads(file.read_text())
        found = Allocation(
            job_id=told["job_id"],
            directory=directory,
            attempt=told["attempt"],
            address=told["address"],
            dashboard=told["dashboard"],
            token_path=Path(told["token_path"]),
            num_nodes=told["nodes"],
            head=told["head"],
            started=told["started"],
            requeues=told["requeue"],
        )
    except FileNotFoundError:
        raise NoAllocation(_unknown_job(job_id, base.absolute())) from None
    except (OSError, ValueError, KeyError) as error:
        raise NoAllocation(f"{file} cannot be read: {type(error).__name__}: {error}.") from None
    _check_private(found.token_path)
    return found


def _unknown_job(job_id: str, base: Path) -> str:
    known = sorted(file.parent.name for file in base.glob("*/cluster.json"))
    there = f"There are: {', '.join(known)}." if known else "There is none."
    return f"no cluster of job {job_id} in {base}. {there} Another directory: --run-dir or TABA_RUN_DIR."


def _check_private(token: Path) -> None:
    try:
        mode = token.stat().st_mode & 0o777
    except OSError as error:
        raise NoAllocation(f"the token {token} cannot be read: {error.strerror}.") from None
    if mode & 0o077:
        raise NoAllocation(
            f"{token} has mode {mode:o}: others can run code as you on this cluster. "
            f"End the job, and: chmod 600 {token}"
        )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
