"""What Slurm says of a job, asked with `squeue`."""

from __future__ import annotations

import shutil
import subprocess

# In these states a job has no process on any node; in all others (also COMPLETING) it may have.
_ENDED = {
    "", "PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT",
    "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "REVOKED",
}  # fmt: skip
_ANSWER_S = 20.0


def job_state(job: str) -> str | None:
    """State of a Slurm job ("" if Slurm does not know it any more), or None where Slurm does not answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout.strip().split("\n")[0].strip().upper()
    return "" if "invalid job id" in done.stderr.lower() else None


def job_ended(job: str) -> str | None:
    """The state of a job that has no process any more, in lower case; None if it may have one, or nobody knows."""
    state = job_state(job)
    return (state.lower() or "ended") if state in _ENDED else None
