"""`_ledger/status.json`: what a run is doing, written atomically, readable without Ray or the driver."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from taba_core.errors import StoreError, WorkError
from taba_core.store.address import place_of
from taba_core.store.files import LEDGER_DIRECTORY
from taba_core.store.place import Place, json_bytes, read_json
from workflows.holder import Holder, why_gone
from workflows.text import duration_text

STATUS = "status.json"
WRITE_S = 5.0
STALE_S = 60.0


def write_status(store: str | os.PathLike[str] | Place, status: dict[str, Any]) -> None:
    """Replace the status. A failure is not an error of the run: what makes it fail ends the run by its own name."""
    with contextlib.suppress(WorkError, OSError):
        # Makes no directory: a store that vanished must stay away.
        (place_of(store) / LEDGER_DIRECTORY / STATUS).write_atomic(json_bytes(status))


def read_status(store: str | os.PathLike[str] | Place) -> dict[str, Any] | None:
    """The last status written, with `age_s` and, for a run that is not alive, `stale` = why.

    Returns:
      None when no run has written one, or it cannot be read.
    """
    file = place_of(store) / LEDGER_DIRECTORY / STATUS
    try:
        status = read_json(file)
        status["age_s"] = max(0.0, time.time() - (file.modified() or 0.0))
    except (OSError, StoreError):
        return None
    if status.get("state") == "running":
        gone = why_gone(Holder.from_json(status.get("driver", {"run": ""})), Holder.this_process("reader"))
        if gone is not None:
            status["stale"] = f"{gone} without a last word"
        elif status["age_s"] > STALE_S:
            status["stale"] = f"no sign of life for {duration_text(status['age_s'])}"
    return status


def status_lines(status: dict[str, Any]) -> list[str]:
    """A status in words: state, counts, workers, failures."""
    state = status.get("state", "?")
    shown = f"{state}, but STALE: {status['stale']}" if "stale" in status else state
    lines = [
        f"run {status.get('run', '?')}: {shown} (started {status.get('started')}, updated {status.get('updated')})"
    ]
    driver = status.get("driver", {})
    slurm = f", Slurm job {driver['slurm_job']}" if driver.get("slurm_job") else ""
    lines.append(f"  {status.get('command', '')}; process {driver.get('pid')} on {driver.get('host')}{slurm}")
    if status.get("executor"):
        lines.append(f"  {status['executor']}")
    lines.append(f"  {progress_text(status)}")
    if status.get("error"):
        lines.append(f"  error: {status['error']}")
    for failure in status.get("failures", []):
        lines.append(
            f"  failed after {failure['attempts']} attempts: {failure['name']} ({failure['unit']}): "
            f"{failure['error'].splitlines()[-1]}; the next run tries it again"
        )
    for loss in status.get("losses", []):
        lines.append(f"  lost worker {loss['worker']} on {loss['node']}: {loss['cause']}")
    return lines


def progress_text(status: dict[str, Any]) -> str:
    """One line: stage, units, pace, time left, workers."""
    units, workers = status["units"], status.get("workers", {})
    parts = [f"{status['stage']}: {units['done']}/{units['units']} units"]
    if units["failed"]:
        parts.append(f"{units['failed']} failed")
    if units["in_flight"]:
        parts.append(f"{units['in_flight']} in flight")
    if status.get("retries"):
        parts.append(f"{status['retries']} retries")
    if status.get("units_per_s"):
        parts.append(f"{status['units_per_s']:.3g} units/s")
    if status.get("eta_s") and units["done"] + units["failed"] < units["units"]:
        parts.append(f"about {duration_text(status['eta_s'])} left")
    if workers:
        total, nodes = sum(workers.values()), len(workers)
        parts.append(f"{total} worker{'s' * (total > 1)} on {nodes} node{'s' * (nodes > 1)}")
    if status.get("workers_lost"):
        parts.append(f"{status['workers_lost']} lost")
    return ", ".join(parts)
