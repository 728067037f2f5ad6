"""Who drives a store: the identity of a driver process, and how another one can tell that it is gone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workflows.environment import count_in_environment

# In these states a job has no process on any node; in all others (also COMPLETING) it may have.
_ENDED = {
    "", "PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT",
    "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "REVOKED",
}  # fmt: skip
_SQUEUE_S = 20.0


@dataclass(frozen=True)
class Holder:
    """A driver, as its lease names it.

    Attributes:
      run: id of the run; unique, so it also tells one lease from another.
      since: when it took the store, UTC, ISO 8601.
      host, boot, namespace, pid, process_started: the process. A pid means something only within one boot of
        one kernel and one process namespace; with its start time (clock ticks since boot) it is unique there.
      slurm_job, slurm_restart: the allocation and how often it was requeued; empty and 0 outside Slurm.
      slurm_cluster: which Slurm counts that job; two that share a file system use the same numbers.
      ray_job: id of the submitted Ray job, or empty.
    """

    run: str
    since: str = ""
    host: str = ""
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    process_started: int = 0
    slurm_job: str = ""
    slurm_restart: int = 0
    slurm_cluster: str = ""
    ray_job: str = ""

    @classmethod
    def this_process(cls, run: str) -> Holder:
        """The calling process."""
        return cls(
            run=run,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            boot=_boot(),
            namespace=_namespace(),
            pid=os.getpid(),
            process_started=_start_time(os.getpid()) or 0,
            slurm_job=os.environ.get("SLURM_JOB_ID", ""),
            slurm_restart=count_in_environment("SLURM_RESTART_COUNT", 0),
            slurm_cluster=os.environ.get("SLURM_CLUSTER_NAME", ""),
            ray_job=os.environ.get("RAY_JOB_SUBMISSION_ID", ""),
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Holder:
        """Inverse of `to_json`; unknown fields are ignored."""
        return cls(**{f.name: value[f.name] for f in fields(cls) if f.name in value})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        slurm = f", Slurm job {self.slurm_job} attempt {self.slurm_restart}" if self.slurm_job else ""
        ray = f", Ray job {self.ray_job}" if self.ray_job else ""
        return f"run {self.run} (process {self.pid} on {self.host}{slurm}{ray}) since {self.since}"

    @property
    def stop_command(self) -> str:
        """What ends this driver gently."""
        if self.slurm_job:
            return f"scancel --signal=USR1 --batch {self.slurm_job}"
        return f"{'' if self.host == socket.gethostname() else f'ssh {self.host} '}kill {self.pid}"


def why_gone(
    holder: Holder, me: Holder, slurm_state: Callable[[str], str | None] | None = None
) -> str | None:
    """Why a driver cannot be running any more, or None where that cannot be told from here.

    Three proofs: the same Slurm job was started again since; Slurm says that its job has no processes; it ran
    under this very kernel and its process does not exist (or is another one with the same number).

    Args:
      me: the process that asks.
      slurm_state: state of a Slurm job, None if unknown; `squeue` by default.
    """
    other_slurm = bool(holder.slurm_cluster and me.slurm_cluster and holder.slurm_cluster != me.slurm_cluster)
    same_job = holder.slurm_job == me.slurm_job and not other_slurm
    if holder.slurm_job and same_job and holder.slurm_restart < me.slurm_restart:
        return f"Slurm started job {holder.slurm_job} again (attempt {me.slurm_restart})"
    if holder.boot and (holder.boot, holder.namespace) == (me.boot, me.namespace):
        started = _start_time(holder.pid)
        if started is None:
            return f"its process {holder.pid} has ended"
        if holder.process_started and started != holder.process_started:
            return f"its process {holder.pid} has ended (another one has its number)"
        return None
    if holder.slurm_job and not same_job and not other_slurm:  # another Slurm knows nothing of the job
        state = (slurm_state or squeue_state)(holder.slurm_job)
        if state is not None and state in _ENDED:
            return f"Slurm job {holder.slurm_job} is not running ({state.lower() or 'ended'})"
    return None


def squeue_state(job: str) -> str | None:
    """State of a Slurm job ("" = Slurm knows it no more), or None where Slurm does not answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SQUEUE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout.strip().split("\n")[0].strip().upper()
    return "" if "invalid job id" in done.stderr.lower() else None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()  # without /proc the name must do


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot (0 if unknown), or None if there is none or it is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if after_name[0] in "ZX" else int(after_name[19])  # field 22 of proc(5), state is field 3
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 0
