"""Slurm jobs of the launcher on doubles of Slurm and of Ray."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

SHIMS = Path(__file__).parent / "shims"
SLURM = Path(__file__).parents[2] / "slurm"
ARGUMENTS = {"study.sh": ["study-name"]}
# The ports of a job follow from its id: test processes beside each other must not have one job.
JOB_ID = str(os.getpid())


class Job:
    """One Slurm job on doubles; `log` is what the doubles were asked to do."""

    def __init__(self, directory: Path, script: str = "full_repro.sh", **environment: str) -> None:
        self.directory, self.script = directory, SLURM / script
        self.shim = directory / "shim"
        self.run_dir = directory / "runs" / JOB_ID
        self.local = Path(f"/tmp/s{os.getpid()}")  # short, as Ray's sockets demand
        for path in (self.shim, self.local):
            path.mkdir(exist_ok=True)
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_", "TABA_", "SBATCH_"))
        }
        self.environment = kept | {
            "PATH": f"{SHIMS}:{os.environ['PATH']}",
            "SHIM_DIR": str(self.shim),
            "SHIM_DRIVER": "exit 0",
            "SLURM_JOB_ID": JOB_ID,
            "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "shim[0-1]",
            "SLURM_CPUS_PER_TASK": "3",
            "SLURM_GPUS_ON_NODE": "4",
            "TABA_PYTHON": str(SHIMS / "python"),
            "TABA_RUN_DIR": str(directory / "runs"),
            "TABA_LOCAL_TMP": str(self.local),
            "TABA_HEAD_IFACE": "lo",
            "TABA_TICK_SECONDS": "0.1",  # all limits are counts of it
            "TABA_SITE": str(directory / "site.sh"),
        }
        self.environment |= environment

    def start(self, *arguments: str) -> subprocess.Popen:
        command = ["bash", str(self.script), *(arguments or ARGUMENTS.get(self.script.name, []))]
        return subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0o022,
        )

    def run(self, *arguments: str) -> int:
        process = self.start(*arguments)
        self.output, _ = process.communicate(timeout=50)
        print(self.output)  # shown with a failure
        return process.returncode

    @property
    def log(self) -> str:
        file = self.shim / "log"
        return file.read_text() if file.exists() else ""

    @property
    def cluster(self) -> dict:
        return json.loads((self.run_dir / "cluster.json").read_text())

    def lines(self, word: str) -> list[str]:
        return [line for line in self.log.splitlines() if word in line]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
