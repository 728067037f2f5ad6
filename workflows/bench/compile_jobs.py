"""Compiled entries of a benchmark, each in a process of its own: it can be stopped, and compiles beside other work."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workflows.bench.evaluations import Entry, Subject, failures_in, time_entry

MOST_AT_ONCE = 3
_DEVICE = "device"  # file that is locked by who times
_CORES_OF_A_JOB = 4


@dataclass
class _Job:
    """A process that compiles and times one entry, since when it runs, and the file it writes."""

    entry: Entry
    process: subprocess.Popen[bytes]
    begun: float
    result: Path

    @property
    def pid_file(self) -> Path:
        """Says to the other processes that this one runs."""
        return self.result.with_name(f"{self.process.pid}.pid")

    def record(self) -> dict[str, Any] | None:
        if not self.result.is_file():
            return None
        found: dict[str, Any] = json.loads(self.result.read_text())
        return found


class CompileJobs:
    """A queue of entries, a few of which compile at once.

    Args:
      entries: in the order they are started.
      scratch: folder for the processes' results, and for what they agree by.
      device, tiny: as `Subject`.
      limit: seconds after which a process is stopped.
    """

    def __init__(
        self, entries: Sequence[Entry], scratch: Path, *, device: str, tiny: bool, limit: float
    ) -> None:
        self._waiting = list(entries)
        self._running: list[_Job] = []
        self._scratch = scratch
        (scratch / _DEVICE).touch()
        self._device, self._tiny, self._limit = device, tiny, limit
        self._most = max(1, min(MOST_AT_ONCE, (os.cpu_count() or 1) // _CORES_OF_A_JOB))

    @property
    def busy(self) -> bool:
        """Whether entries wait or compile."""
        return bool(self._waiting or self._running)

    @property
    def running(self) -> bool:
        """Whether any compiles."""
        return bool(self._running)

    def start(self) -> None:
        """Start what waits, as far as there is room."""
        while self._waiting and len(self._running) < self._most:
            entry = self._waiting.pop(0)
            result = self._scratch / f"{entry.model}-{entry.profile}-{entry.batch}.json"
            asked = {"entry": asdict(entry), "device": self._device, "tiny": self._tiny}
            asked |= {"result": str(result)}
            environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(_CORES_OF_A_JOB)}
            with result.with_suffix(".log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "workflows.bench.compile_jobs", json.dumps(asked)],
                    env=environment,
                    start_new_session=True,
                    stdout=log,
                    stderr=log,
                )
            job = _Job(entry, process, time.monotonic(), result)
            job.pid_file.touch()
            self._running.append(job)

    def finished(self) -> list[dict[str, Any]]:
        """Records of the processes that ended, or took too long and were stopped, since the last call."""
        records = []
        for job in list(self._running):
            took = time.monotonic() - job.begun
            if job.process.poll() is None and took < self._limit:
                continue
            self._running.remove(job)
            late = self._end(job)
            records.append(
                job.record() or {**asdict(job.entry), "status": _ended(took) if late else _died(job, took)}
            )
        return records

    def stop(self) -> list[dict[str, Any]]:
        """Stop everything; records of what was not done."""
        records = []
        for job in self._running:
            took = time.monotonic() - job.begun
            self._end(job)
            records.append(job.record() or {**asdict(job.entry), "status": _ended(took)})
        records += [{**asdict(entry), "status": "left out: no time"} for entry in self._waiting]
        self._running, self._waiting = [], []
        return records

    def _end(self, job: _Job) -> bool:
        """Stop a job's process and those it started; whether it was still running."""
        late = job.process.poll() is None
        # The compiler has processes of its own, which would go on.
        _signal([job.process.pid], signal.SIGKILL)
        job.process.wait()
        job.pid_file.unlink(missing_ok=True)
        # It may have been timing, with the others paused.
        _signal([other.process.pid for other in self._running], signal.SIGCONT)
        return late


@contextlib.contextmanager
def holding(scratch: Path, own: int | None = None) -> Iterator[None]:
    """The device to oneself: among the processes of a benchmark by a lock, and the jobs that compile are paused.

    What the compiler tries on the device doubles the time of whatever else runs there.

    Args:
      scratch: the folder of the jobs.
      own: process id of the job that asks; None if it is no job.
    """
    with (scratch / _DEVICE).open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        others = [int(file.stem) for file in scratch.glob("*.pid") if file.stem != str(own)]
        _signal(others, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(others, signal.SIGCONT)


def _signal(groups: Sequence[int], number: signal.Signals) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def _ended(seconds: float) -> str:
    return f"stopped after {seconds:.0f} s of loading and compiling"


def _died(job: _Job, seconds: float) -> str:
    said = job.result.with_suffix(".log").read_text(errors="replace").strip().splitlines()
    last = f": {said[-1]}" if said else ""
    return f"failed: the process ended with {job.process.returncode} after {seconds:.0f} s{last}"


def _run(asked: dict[str, Any]) -> None:
    """What a job's process does."""
    entry, result = Entry(**asked["entry"]), Path(asked["result"])
    record: dict[str, Any] = {**asdict(entry), "status": ""}
    with failures_in(record):
        subject = Subject(entry.model, asked["device"], tiny=asked["tiny"])
        network = subject.network(entry.numerics(), last=True)
        record = time_entry(entry, subject, network, hold=lambda: holding(result.parent, own=os.getpid()))
    part = result.with_name(result.name + ".part")
    part.write_text(json.dumps(record))
    part.replace(result)


if __name__ == "__main__":
    _run(json.loads(sys.argv[1]))
