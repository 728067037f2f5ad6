"""What Slurm gave this job, and what it will do with it."""

from __future__ import annotations

import functools
import os
import re
from datetime import datetime

from workflows.doctor.finding import Finding, Subject, check, fail, ok, skipped, warn
from workflows.doctor.gpu import gpus
from workflows.text import duration_text

SECTION = "Slurm"
_NO_JOB = "not in a Slurm job"
_SHORT_S = 1800.0


def parse_fields(text: str) -> dict[str, str]:
    """`Key=Value` pairs as `scontrol show job` prints them (values without spaces)."""
    return dict(re.findall(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)", text))


@functools.cache
def job(subject: Subject) -> dict[str, str]:
    """Fields of the job this process runs in; {} if `scontrol` does not say."""
    ran = subject.run(["scontrol", "show", "job", subject.environ["SLURM_JOB_ID"]], 30.0)
    return parse_fields(ran.output) if ran.code == 0 else {}


@check(SECTION, "job")
def allocation(subject: Subject) -> Finding:
    """Nodes, GPUs and the time that is left; on a login node what to run there."""
    if "SLURM_JOB_ID" not in subject.environ:
        if subject.which("sbatch") is None:
            return skipped("no Slurm here")
        return ok(
            "login node: slurm/full_repro.sh submits the paper, slurm/cluster.sh a cluster for `ray job submit`"
        )
    number, fields = subject.environ["SLURM_JOB_ID"], job(subject)
    if not fields:
        return warn(
            f"job {number}; `scontrol show job` does not answer", "try again: slurmctld may be overloaded"
        )
    left = seconds_left(fields.get("EndTime", ""), datetime.now())
    found = f"job {number}, {fields.get('NumNodes', '?')} nodes, restart {fields.get('Restarts', '0')}"
    if left is None:
        return ok(f"{found}, no time limit")
    found += f", {duration_text(left)} left"
    if left < _SHORT_S:
        return warn(found, "what is unfinished then resumes in the next job; ask for --time of hours")
    return ok(found)


def seconds_left(end: str, now: datetime) -> float | None:
    """Seconds until `EndTime` (local time, ISO 8601); None for "Unknown"."""
    try:
        return (datetime.fromisoformat(end) - now).total_seconds()
    except ValueError:
        return None


@check(SECTION, "requeue")
def requeue(subject: Subject) -> Finding:
    """Whether Slurm may start the job again after its limit, a preemption or a lost head node."""
    if "SLURM_JOB_ID" not in subject.environ:
        return _requeue_default(subject)
    allowed = job(subject).get("Requeue")
    if allowed is None:
        return skipped("`scontrol show job` does not say")
    if allowed == "0":
        return warn(
            "this job is not started again after its limit or a preemption",
            "sbatch --requeue; where the site forbids it, slurm/chain.sh queues jobs that continue one another",
        )
    return ok("the job may be requeued")


def _requeue_default(subject: Subject) -> Finding:
    if subject.which("scontrol") is None:
        return skipped(_NO_JOB)
    printed = subject.run(["scontrol", "show", "config"], 30.0).output
    default = re.search(r"^JobRequeue\s*= (\d)", printed, flags=re.MULTILINE)
    if default is None:
        return skipped(_NO_JOB)
    if default[1] == "0":
        return ok("off by default here; our scripts ask for it; where it is forbidden use slurm/chain.sh")
    return ok("allowed by default")


@check(SECTION, "cores")
def cores(subject: Subject) -> Finding:
    """Cores this process is bound to against those of the job (srun forgets --cpus-per-task since 22.05)."""
    if "SLURM_JOB_ID" not in subject.environ:
        return skipped(_NO_JOB)
    return judge_cores(len(os.sched_getaffinity(0)), subject)


def judge_cores(bound: int, subject: Subject) -> Finding:
    """Cores of this process against SLURM_CPUS_PER_TASK, and whether srun's steps will get as many."""
    asked = subject.environ.get("SLURM_CPUS_PER_TASK", "")
    export = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK before srun (our scripts do)"
    if not asked.isdigit():
        return ok(f"{bound}; the job does not state --cpus-per-task")
    if bound < int(asked):
        return fail(f"bound to {bound} of {asked} cores", export)
    if "SRUN_CPUS_PER_TASK" not in subject.environ:
        return warn(f"{bound} here, but srun starts its steps on one core", export)
    return ok(f"{bound} of {asked}")


@check(SECTION, "GPUs of the job")
def gpus_of_the_job(subject: Subject) -> Finding:
    """Devices Slurm gave against those the driver lists."""
    if "SLURM_JOB_ID" not in subject.environ:
        return skipped(_NO_JOB)
    given, listed = subject.environ.get("SLURM_GPUS_ON_NODE", "0"), len(gpus(subject))
    if not given.isdigit() or int(given) == listed:
        return ok(f"{given} given, {listed} listed")
    if int(given) < listed:
        return warn(
            f"{given} of {listed} devices of this node",
            "sbatch --gpus-per-node with all of them, --exclusive",
        )
    return fail(
        f"{given} given, but the driver lists {listed}", "leave this node out (--exclude) and report it"
    )
