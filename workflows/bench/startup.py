"""Seconds from `taba run` to its first unit on this machine: imports, plan, Ray, a warm worker.

The command runs in a process of its own, on the embedded model and a new store; the clock starts before that
process does and stops when a built worker is handed the first unit, at which the run is interrupted.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from workflows.bench.paired import Measurement, TableRow, seconds_text
from workflows.launch import inline_program

_MARK = "first unit at"
# `taba run`, interrupted at its first unit; both processes read the same monotonic clock.
_PROGRAM = f"""
import sys, time
from cluster import {{executor}} as Executor
execute = Executor.execute
def watched(self, units, make_worker, resources, on_event=None):
    def note(event):
        if event.kind == "unit-started":
            print("{_MARK}", time.monotonic(), flush=True)
            raise KeyboardInterrupt
        if on_event is not None:
            on_event(event)
    return execute(self, units, make_worker, resources, note)
Executor.execute = watched
from workflows.__main__ import main
main(sys.argv[1:])
"""


def measure(
    *, repeats: int = 5, executor: str = "ray", model: str = "photo-mixture", warm_up: int = 1
) -> Measurement:
    """Time `taba run correlation` to its first unit, after `warm_up` runs that do not count.

    Figures: seconds (median).
    """
    runs = [_seconds(executor, model) for _ in range(repeats + warm_up)][warm_up:]
    row = TableRow(
        "`taba run` to its first unit",
        model,
        f"--executor {executor}",
        seconds_text(median(runs)),
        f"{seconds_text(min(runs))} to {seconds_text(max(runs))}",
        target="<= 15 s",
    )
    return Measurement((row,), {"seconds": median(runs)})


def _seconds(executor: str, model: str) -> float:
    code = _PROGRAM.format(executor={"ray": "RayExecutor", "local": "LocalExecutor"}[executor])
    with tempfile.TemporaryDirectory() as directory:
        arguments = ["run", "correlation", "--store", str(Path(directory) / "store"), "--no-report"]
        arguments += ["--executor", executor, "--model", model]
        begun = time.monotonic()
        done = subprocess.run(inline_program(code, *arguments), capture_output=True, text=True, check=False)
    marks = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not marks:
        raise RuntimeError(
            f"`taba {' '.join(arguments)}` ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    return float(marks[0].removeprefix(_MARK)) - begun
