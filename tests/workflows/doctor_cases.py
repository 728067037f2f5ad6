"""A machine for the tests of `taba doctor`: recorded texts of commands, made-up files and variables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from workflows.doctor import nvidia
from workflows.doctor.finding import Ran, Subject

SMI_GH200 = """\
Sun Nov 22 14:31:54 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 560.35.03              Driver Version: 560.35.03      CUDA Version: 12.6     |
|-----------------------------------------+------------------------+----------------------+
|   0  NVIDIA GH200 120GB             On  |   00000009:01:00.0 Off |                    0 |
| N/A   31C    P0             86W /  900W |       3MiB /  97871MiB |      0%      Default |
+-----------------------------------------+------------------------+----------------------+
"""
QUERY_GH200 = "".join(f"{i}, NVIDIA GH200 120GB, 97871, 3\n" for i in range(4))
SMI_V100_OLD = "| NVIDIA-SMI 418.87.00    Driver Version: 418.87.00    CUDA Version: 10.1     |\n"
SMI_580 = "| NVIDIA-SMI 580.65.06              Driver Version: 580.65.06      CUDA Version: 13.0     |\n"
SMI_MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.54\n"
SCONTROL_JOB = """\
JobId=4711 JobName=taba
   UserId=ada(1000) GroupId=users(100) MCS_label=N/A
   Priority=4294901757 Nice=0 Account=m1 QOS=normal
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:10:00 TimeLimit=08:00:00 TimeMin=N/A
   StartTime=2026-11-22T14:31:54 EndTime={end} Deadline=N/A
   NumNodes=4 NumCPUs=1152 NumTasks=4 CPUs/Task=288 ReqB:S:C:T=0:0:*:*
   TRES=cpu=1152,mem=1920G,node=4,billing=1152,gres/gpu=16
"""
SCONTROL_CONFIG = (
    "Configuration data as of 2026-11-22\nJobRequeue              = {}\nKillWait                = 30 sec\n"
)
MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /dev/shm rw,nosuid shared:4 - tmpfs tmpfs rw
41 22 0:40 / /scratch rw,flock shared:9 - lustre 10.0.0.1@o2ib:/fs1 rw
42 22 0:41 / /my\\040disk rw shared:10 - xfs /dev/sdb1 rw
43 22 0:42 / /scratch rw shared:11 - nfs4 server:/fs2 rw
"""


def machine(
    tmp_path: Path, *, mounts: str = MOUNTS, answers: dict[str, Ran] | None = None, **given
) -> Subject:
    """A machine whose commands answer as given (by name) and else do not exist; no variables; /proc in tmp_path."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True, exist_ok=True)
    (proc / "self" / "mountinfo").write_text(mounts)
    known = answers or {}

    def run(command, timeout):
        name = "nvidia-smi -q" if tuple(command) == nvidia.QUERY else Path(command[0]).name
        return known.get(name, Ran(127, "", f"{name}: not found"))

    settings = {
        "environ": {"HOME": str(tmp_path)},
        "run": run,
        "which": lambda name: name if name in known else None,
    }
    return Subject(**(settings | given), proc=proc)


def with_gpus(
    tmp_path, torch: dict | None = None, header: str = SMI_GH200, query: str = QUERY_GH200, **given
):
    said = {"version": "2.13.0", "cuda": "12.6", "count": 4, "error": ""} | (torch or {})
    answers = {
        "nvidia-smi": Ran(0, header),
        "nvidia-smi -q": Ran(0, query),
        Path(sys.executable).name: Ran(0, json.dumps(said)),
    }
    return machine(tmp_path, answers=answers, **given)
