#!/usr/bin/env python3
"""The failure matrix, on a real Slurm of three virtual nodes: every run ends complete, its shards bit for bit the same.

    sudo .venv/bin/python tests/slurm/lab/matrix.py [SCENARIO ...]        all of them: about half an hour on two cores

Starts the Slurm of `up.sh` (its packages are named there), runs `slurm/study.sh` on all three nodes once undisturbed
and once per scenario, disturbs it in the middle, waits for its end, and compares every shard file. Prints one row per
scenario; exit status 1 if a row is not as it should be. What it leaves: `$TABA_LAB/logs` (default /tmp/tlab).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
LAB = Path(os.environ.get("TABA_LAB", "/tmp/tlab"))
PYTHON = str(ROOT / ".venv/bin/python")
SIZE = ("--set", "num_samples=512", "--set", "samples_per_shard=16")
UNITS = 64
PATIENCE_S = 900.0

ENVIRONMENT = os.environ | {
    "SLURM_CONF": str(LAB / "etc/slurm.conf"),
    "TABA_RUN_DIR": str(LAB / "runs"),
    "TABA_LOCAL_TMP": str(LAB / "t"),
    "TABA_CACHE": os.environ.get("TABA_CACHE", str(LAB / "cache")),
    "TABA_OBJECT_STORE_BYTES": "100000000",
    "TABA_SITE": str(LAB / "no-site.sh"),
    "PYTHONPATH": str(ROOT),
}


@dataclass
class Job:
    """A run of the study in the lab."""

    name: str
    id: str

    @property
    def store(self) -> Path:
        return LAB / "stores" / self.name

    @property
    def record(self) -> dict[str, str]:
        """Slurm's record of the job."""
        words = command("scontrol", "show", "job", "--oneliner", self.id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    @property
    def shards(self) -> int:
        """Units that have a receipt."""
        ledgers = (self.store / "_ledger").glob("photo-mixture-*.jsonl")
        return sum(len(file.read_text().splitlines()) for file in ledgers)

    @property
    def head(self) -> int:
        """Number of the node that is the head."""
        address = json.loads((LAB / "runs" / self.id / "cluster.json").read_text())["address"]
        return int(address.split(":")[0].rpartition(".")[2])


def command(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, env=ENVIRONMENT, cwd=LAB, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout.strip()


def submit(name: str, *options: str) -> Job:
    store = str(LAB / "stores" / name)
    log = str(LAB / "logs" / f"{name}.log")
    size = ("--nodes=3", "--cpus-per-task=2", "--time=20", f"--output={log}", *options)
    study = (str(ROOT / "slurm/study.sh"), "correlation", "--no-report", "--store", store, *SIZE)
    return Job(name, command("sbatch", "--parsable", *size, *study))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.5)


def processes(pattern: str) -> list[int]:
    """Host ids of the processes whose command line matches, in whichever virtual node."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if re.search(pattern, line) and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def kill(pattern: str) -> None:
    found = processes(pattern)
    if not found:
        raise RuntimeError(f"nothing to kill: {pattern}")
    for process in found:
        os.kill(process, signal.SIGKILL)


# ---- what is done to a run


def signalled(job: Job) -> str:
    command(
        "scancel", "--signal=USR1", "--batch", job.id
    )  # as --signal=B:USR1@300 does before the time limit
    return "requeued"


def preempted(job: Job) -> str:
    command(
        "sbatch", "-p", "urgent", "--nodes=3", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 5"
    )
    return "requeued"


def worker_raylet_killed(job: Job) -> str:
    kill(rf"raylet/raylet .*--node_ip_address=10\.88\.0\.{job.head % 3 + 1} ")
    return "went on"


def head_raylet_killed(job: Job) -> str:
    kill(rf"raylet/raylet .*--node_ip_address=10\.88\.0\.{job.head} ")
    return "requeued"


def driver_killed(job: Job) -> str:
    kill(rf"^\S*python -m workflows run .*{job.store} ")
    return "went on"


def node_lost(job: Job) -> str:
    lose_node(job.head % 3 + 1)
    wait_until(
        lambda: command("squeue", "-h", "-j", job.id, "-o", "%D") in ("2", ""), "Slurm drops the node", 120
    )
    return "went on"


def head_node_lost(job: Job) -> str:
    lose_node(job.head)
    wait_until(lambda: job.record["JobState"] == "PENDING", "the job is requeued without its head", 400)
    command(str(HERE / "up.sh"))
    return "requeued"


def cancelled(job: Job) -> str:
    command("scancel", job.id)
    return "cancelled"


def lose_node(number: int) -> None:
    os.kill(int((LAB / f"node-{number}.pid").read_text()), signal.SIGKILL)


SCENARIOS: dict[str, Callable[[Job], str]] = {
    "USR1 before the limit": signalled,
    "preemption": preempted,
    "raylet of a worker killed": worker_raylet_killed,
    "raylet of the head killed": head_raylet_killed,
    "driver killed": driver_killed,
    "whole node lost": node_lost,
    "head node lost": head_node_lost,
    "cancelled": cancelled,
}

# ---- what came of it


def checksums(store: Path) -> dict[str, int]:
    files = (file for file in store.glob("photo-mixture-*/**/*") if file.is_file())
    return {str(file.relative_to(store)): zlib.crc32(file.read_bytes()) for file in files}


def is_over(job: Job) -> bool:
    return job.record["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def idle_again() -> bool:
    states = command("sinfo", "-h", "-N", "-p", "normal", "-o", "%t").split()
    return states == ["idle"] * 3 and not processes(rf"{LAB}/t/taba-")


def row(name: str, reference: dict[str, int]) -> tuple[str, ...]:
    """Run one scenario; the columns of the table."""
    wait_until(idle_again, "idle nodes without leftovers", 180)
    slug = re.sub(r"\W+", "-", name)
    started = time.monotonic()
    job = submit(slug)
    wait_until(lambda: job.shards >= UNITS // 4, "a quarter of the units")
    done_before = job.shards
    expected = SCENARIOS[name](job)
    disturbed = time.monotonic()
    wait_until(lambda: is_over(job), "the end of the job")
    record, seconds = job.record, time.monotonic() - started
    attempts = int(record["Restarts"]) + 1
    if expected == "cancelled":
        time.sleep(60)  # longer than Slurm holds a requeued job
        good = job.record["JobState"] == "CANCELLED" and record["Restarts"] == "0"
        bits = "-"
    else:
        same = checksums(job.store) == reference
        verified = subprocess.run(
            [PYTHON, "-m", "workflows", "verify", "--deep", "--store", str(job.store)],
            env=ENVIRONMENT,
            capture_output=True,
        )
        bits = "equal" if same and verified.returncode == 0 else "DIFFERENT"
        requeued = "requeued" if attempts > 1 else "went on"
        good = bits == "equal" and record["ExitCode"] == "0:0" and requeued == expected
    command(str(HERE / "up.sh"))  # a lost node comes back
    state = f"{record['JobState']} {record['ExitCode']}"
    after = f"{time.monotonic() - disturbed:.0f}"
    return (
        name,
        str(done_before),
        str(attempts),
        state,
        bits,
        f"{seconds:.0f}",
        after,
        "ok" if good else "NOT OK",
    )


HEADER = ("event", "units before", "attempts", "job", "shards", "seconds", "after", "verdict")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", help=f"of: {'; '.join(SCENARIOS)}")
    asked = parser.parse_args().scenarios or list(SCENARIOS)
    if unknown := set(asked) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {'; '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    subprocess.run([str(HERE / "down.sh")], check=True)
    for name in ("logs", "stores", "runs"):
        (LAB / name).mkdir(parents=True)
    try:
        command(str(HERE / "up.sh"))
        rows = list(run_all(asked))
    finally:
        subprocess.run([str(HERE / "down.sh"), "--keep-logs"], check=True)
    widths = [max(len(line[i]) for line in [HEADER, *rows]) for i in range(len(HEADER))]
    for line in [HEADER, *rows]:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    sys.exit(any(line[-1] != "ok" for line in rows))


def run_all(names: list[str]) -> Iterator[tuple[str, ...]]:
    """The rows of the table, each printed as it comes."""
    started = time.monotonic()
    job = submit("undisturbed")
    wait_until(lambda: is_over(job), "the undisturbed run")
    reference = checksums(job.store)
    assert job.record["JobState"] == "COMPLETED" and job.shards == UNITS, job.record
    yield ("undisturbed", "-", "1", "COMPLETED 0:0", "-", f"{time.monotonic() - started:.0f}", "-", "ok")
    for name in names:
        try:
            found = row(name, reference)
        except (TimeoutError, RuntimeError) as error:
            found = (name, *["-"] * 6, f"NOT OK: {error}")
            command("scancel", "--me", check=False)
            command(str(HERE / "up.sh"))
        print(" | ".join(found), flush=True)
        yield found


if __name__ == "__main__":
    main()
