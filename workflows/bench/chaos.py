"""Nothing is lost: random SIGKILLs of worker, raylet and driver in one run, then every bit compared.

The same command is started again whenever its driver died, until enough was killed; then it may finish. The store
must equal, bit for bit, that of a run nobody disturbed.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from taba_core.errors import WorkError
from workflows.bench.paired import Measurement, TableRow
from workflows.launch import program

if TYPE_CHECKING:
    from taba_core.store import Store

KINDS = ("worker", "worker", "raylet", "driver")  # in these shares
STUDIES = ("correlation", "step-error")  # generation, inversion, step predictions: three units a shard
CHECKS = ("lost", "doubled", "torn", "different", "half-written files")
_STALL_S = 400.0
_POLL_S = 0.02


@dataclass
class Disturbed:
    """The run that is disturbed.

    Attributes:
      command: what is started, and started again.
      ledger: directory of its receipts.
      log: where its output goes.
      kills: done so far, by kind.
      starts: of the command.
      ended: exit codes of drivers that ended by themselves before the end.
      driver: the process that runs now.
    """

    command: list[str]
    ledger: Path
    log: IO[str]
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    ended: list[int] = field(default_factory=list)
    driver: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        """The driver; a new one if the last one died or failed."""
        if self.driver is None or self.driver.poll() not in (None, 0):
            if self.driver is not None and self.driver.returncode != -signal.SIGKILL:
                self.ended.append(self.driver.returncode)
            self.driver = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, text=True)
            self.starts += 1
        return self.driver

    def receipts(self) -> int:
        """Receipts of finished shards so far."""
        files = self.ledger.glob("photo-mixture-*.jsonl")
        return sum(file.read_bytes().count(b'"receipt"') for file in files)

    def wait_for(self, receipts: int, seconds: float = math.inf) -> None:
        """Keep the driver running until that many receipts are there, the time is over, or the run is complete."""
        begun = time.monotonic()
        while self.receipts() < receipts and time.monotonic() - begun < seconds and self.start().poll() != 0:
            if time.monotonic() - begun > _STALL_S:
                raise WorkError(
                    f"no progress in {_STALL_S:.0f} s; the drivers' output is in {self.log.name}."
                )
            time.sleep(_POLL_S)

    def kill(self, kind: str, draw: random.Random) -> bool:
        """Kill one process of a kind with SIGKILL; False if there is none now, or the run is complete."""
        driver = self.start()
        victims = victims_of(driver.pid, kind)
        if not victims or driver.poll() is not None:
            return False
        try:
            os.kill(draw.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills[kind] += 1
        if kind == "driver":
            driver.wait()
        return True


def measure(*, repeats: int = 1, kills: int = 100, seed: int = 0) -> Measurement:
    """Kill `kills` processes of a run in random order at random moments, and compare what it stored.

    Raises:
      WorkError: the run stood still.
    """
    draw, begun = random.Random(seed), time.monotonic()
    settings = [f"num_samples={16 * 2 * max(kills, 8)}", "samples_per_shard=16", "num_inference_steps=20"]
    folder = Path(tempfile.mkdtemp(prefix="taba-chaos-"))
    subprocess.run(_command(folder / "calm", settings, "local"), check=True, stdout=subprocess.DEVNULL)
    calm = checksums(folder / "calm")
    store = folder / "store"
    with (folder / "drivers.log").open("w") as log:
        run = Disturbed(_command(store, settings, "ray"), store / "_ledger", log)
        complete = disturb(run, kills, draw)
        while not complete and run.start().wait() != 0:
            pass  # it is started again
    found = _measurement(run, store, calm, time.monotonic() - begun)
    if any(found.figures[name] for name in CHECKS):
        return replace(
            found, notes=(*found.notes, f"both stores and the drivers' output are kept in {folder}")
        )
    shutil.rmtree(folder, ignore_errors=True)
    return found


def disturb(run: Disturbed, kills: int, draw: random.Random) -> bool:
    """Kill until `kills` are done; returns whether the run was complete before.

    Most kills follow the next receipt or two; the others come at any time, also while Ray starts and models load.
    """
    kinds = [KINDS[number % len(KINDS)] for number in range(kills)]
    draw.shuffle(kinds)
    for kind in kinds:
        run.wait_for(
            run.receipts() + draw.choice((1, 2)), draw.choice((math.inf, math.inf, draw.uniform(0, 6)))
        )
        time.sleep(draw.uniform(0, 0.1))
        while not run.kill(kind, draw):
            time.sleep(_POLL_S)
            if run.start().poll() == 0:
                return True
    return False


def victims_of(driver: int, kind: str) -> list[int]:
    """Processes of a kind that belong to a driver."""
    if kind == "driver":
        return [driver]
    wanted: Callable[[bytes], bool] = {
        "worker": lambda title: title.startswith(b"ray::RayWorker"),
        "raylet": lambda title: title.split(b"\0")[0].endswith(b"/raylet"),
    }[kind]
    return [pid for pid in descendants(driver) if wanted(_title(pid))]


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, ()))
    for child in found:  # grows while it is read
        found += children.get(child, ())
    return found


def checksums(path: Path) -> dict[str, int]:
    """CRC-32 of every shard file of a store, by artifact, variable and file name."""
    from taba_core.store.files import crc32_of_file

    files = (file for group in _open(path).artifacts() for file in group.path.glob("*/c.*[0-9]"))
    return {str(file.relative_to(path)): crc32_of_file(file) for file in files}


def _open(path: Path) -> Store:
    from taba_core.store import Store

    return Store.open(path, mode="r")


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _command(store: Path, settings: list[str], executor: str) -> list[str]:
    sets = [part for setting in settings for part in ("--set", setting)]
    where = ["--store", str(store), "--no-report", "--executor", executor, "--workers", "2"]
    return program("workflows", "run", *STUDIES, *where, *sets)


def _measurement(run: Disturbed, store: Path, calm: dict[str, int], seconds: float) -> Measurement:
    groups = _open(store).artifacts()
    problems = Counter(problem.kind for group in groups for problem in group.verify(deep=True))
    receipts = Counter(
        (group.name, name, receipt.shard)
        for group in groups
        for receipt in group.ledger.receipts()
        for name in receipt.variables
    )
    found = checksums(store)
    figures = {
        "kills": float(sum(run.kills.values())),
        **{f"kills of {kind}": float(run.kills[kind]) for kind in dict.fromkeys(KINDS)},
        "starts": float(run.starts),
        "shards": float(len(calm)),
        "lost": float(len(calm.keys() - found.keys()) + problems["missing"] + problems["no receipt"]),
        "doubled": float(sum(count > 1 for count in receipts.values()) + len(found.keys() - calm.keys())),
        "torn": float(problems["size"] + problems["checksum"]),
        "different": float(sum(found.get(name) != crc for name, crc in calm.items())),
        "half-written files": float(len(list(store.rglob("*.partial")))),
        "seconds": seconds,
    }
    kinds = ", ".join(f"{run.kills[kind]} {kind}s" for kind in dict.fromkeys(KINDS))
    n = f"{sum(run.kills.values())} kills"
    rows = [
        TableRow(f"of {len(calm)} shard files", n, name, f"{figures[name]:.0f}", target="0")
        for name in CHECKS
    ]
    note = (
        f"killed {kinds}; the command was started {run.starts} times"
        + (f", ended by itself with {run.ended}" if run.ended else "")
        + f"; {seconds:.0f} s in all"
    )
    return Measurement(tuple(rows), figures, (note,))
