"""One driver per store: a lease file that names the driver, lives by its heartbeat, and fences late writers.

`_ledger/lease.json` is made with O_EXCL, so of any number of starters one wins. The driver touches it every few
seconds and reads it before every line it appends to a ledger: whoever finds another name in it stops at once,
without writing. A lease whose driver is gone (`holder.why_gone`) is replaced at once; where that cannot be told,
when it has not been touched for `STALE_S`. No locks are used: network file systems do not give them reliably.

Clocks are never compared: the age of a lease is the difference of two times given by the file system, that of
the lease and that of a file touched now, and a lease that looks old is watched for two heartbeats before it is
replaced, because machines may still disagree where the client stamps the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taba_core.errors import WorkError
from taba_core.store.files import LEDGER_DIRECTORY, explained, write_json
from workflows.ownership.holder import Holder, why_gone

LEASE, CLAIM = "lease.json", "lease.claim"
HEARTBEAT_S = 5.0
STALE_S = 120.0
_CLAIM_STALE_S = 30.0  # a claim lives for milliseconds
_TURNS_TO_NAME = 20


class StoreHeldError(WorkError):
    """Another driver owns the store, or took it over. Exit code 75 (EX_TEMPFAIL of sysexits.h: try again later)."""

    exit_code = 75


class Lease:
    """A held lease. `beat` is for a background thread; `check` for the driver before it writes."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder

    def check(self) -> None:
        """Raise unless this process still owns the store; costs one small read.

        Raises:
          StoreHeldError: another driver has taken over. WorkError: the store, or its lease, is gone.
        """
        current = _read(self.path)
        if current is not None and current.run == self.holder.run:
            return
        store = self.path.parent.parent
        if current is not None:
            raise StoreHeldError(
                f"store {store} was taken over by {current}: this run stops without writing. It must have given "
                f"no sign of life for {STALE_S:.0f} s. Nothing is lost; leave the store to the other run."
            )
        if not self.path.parent.is_dir():
            raise WorkError(
                f"store {store} has vanished: {self.path.parent} is not there any more. It was moved, removed or "
                "unmounted during the run; put it back and run the same command again: it continues."
            )
        raise WorkError(
            f"the lease {self.path} of this run was removed, so another driver may have started. This run stops "
            "without writing; run the same command again: it continues."
        )

    def beat(self) -> None:
        """Say that the driver lives. Does nothing when the lease is lost: `check` tells the driver."""
        with contextlib.suppress(OSError):
            if _token(self.path) == self.holder.run:
                os.utime(self.path)

    def release(self) -> None:
        """Let the next driver in; does nothing when the lease is not ours any more."""
        with contextlib.suppress(OSError):
            if _token(self.path) == self.holder.run:
                self.path.unlink()


def acquire(
    store: str | os.PathLike[str],
    run: str,
    *,
    stale_s: float = STALE_S,
    heartbeat_s: float = HEARTBEAT_S,
    slurm_state: Callable[[str], str | None] | None = None,
) -> Lease:
    """Become the driver of a store.

    Args:
      run: unique id of this run.
      stale_s: age of the last heartbeat after which a driver counts as dead where nothing else can tell.
      heartbeat_s: interval of heartbeats.
    Raises:
      StoreHeldError: another driver owns it. WorkError: the file system refused.
    """
    path, me = Path(store) / LEDGER_DIRECTORY / LEASE, Holder.this_process(run)
    with explained(path):
        path.parent.mkdir(exist_ok=True)
    for turn in range(100):  # ends: each turn somebody made progress, or a claim is being removed
        if _create(path, me.to_json()):
            return Lease(path, me)
        found = _token(path)
        if found is None:
            continue
        holder = _read(path)
        if holder is None and turn < _TURNS_TO_NAME:
            time.sleep(0.05)  # it is just being made
            continue
        if not _gone(path, holder, me, stale_s, heartbeat_s, slurm_state):
            raise _held(path, holder)
        if _replace(path, found, me):
            return Lease(path, me)
        time.sleep(0.05)
    raise _held(path, _read(path))


@contextmanager
def hold(store: str | os.PathLike[str], run: str | None = None) -> Iterator[Lease]:
    """The lease of a store for the time of a block; for whatever changes a store (`verify --forget`, `gc`)."""
    lease = acquire(store, run or new_run_id())
    try:
        yield lease
    finally:
        lease.release()


def new_run_id() -> str:
    """A name no other run has, sortable by time: 20260131T235959-1a2b3c."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + uuid.uuid4().hex[:6]


def holder_of(store: str | os.PathLike[str]) -> Holder | None:
    """The driver a store's lease names, alive or not; None if there is no lease."""
    return _read(Path(store) / LEDGER_DIRECTORY / LEASE)


def seconds_since_beat(path: Path) -> float | None:
    """Age of a lease's last heartbeat by the file system's own clock; None if there is no lease."""
    probe = path.with_name(f"clock.{uuid.uuid4().hex}.partial")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def _gone(
    path: Path,
    holder: Holder | None,
    me: Holder,
    stale_s: float,
    heartbeat_s: float,
    slurm_state: Callable[[str], str | None] | None,
) -> bool:
    if holder is not None:
        if why_gone(holder, me, slurm_state) is not None:
            return True
        if (holder.boot, holder.namespace) == (me.boot, me.namespace):
            return False  # its process is there, however long it may have been stopped
    with explained(path):
        age = seconds_since_beat(path)
        if age is None:
            return True
        if age < stale_s:
            return False
        seen = path.stat().st_mtime if path.exists() else None
        time.sleep(2.2 * heartbeat_s)
        return not path.exists() or path.stat().st_mtime == seen


def _replace(path: Path, found: str, me: Holder) -> bool:
    """Put our lease in the place of a dead one; of several who try, one succeeds.

    The claim, again made with O_EXCL, is held while the dead lease is read once more and replaced by rename.
    Someone who stalls here longer than the claim lives is caught by reading back, and by `Lease.check`.
    """
    claim = path.with_name(CLAIM)
    if not _create(claim, me.to_json()):
        _remove_dead_claim(claim, me)
        return False
    try:
        if _token(path) != found:
            return False
        write_json(path, me.to_json())
        return _token(path) == me.run
    finally:
        claim.unlink(missing_ok=True)


def _remove_dead_claim(claim: Path, me: Holder) -> None:
    """Remove the claim of a process that died within the milliseconds it held it."""
    owner, age = _read(claim), seconds_since_beat(claim)
    if age is not None and ((owner and why_gone(owner, me)) or age > _CLAIM_STALE_S):
        claim.unlink(missing_ok=True)


def _create(path: Path, value: dict[str, Any]) -> bool:
    with explained(path):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            with open(handle, "w") as file:
                file.write(json.dumps(value, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)  # a full disk must not leave a lease without a name
            raise
    return True


def _read(path: Path) -> Holder | None:
    """The holder a lease names; None if there is no lease, or one without a readable name (just being made)."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        return Holder.from_json(json.loads(path.read_text()))
    return None


def _token(path: Path) -> str | None:
    """What tells one lease from the next: its run, "" if it cannot be read, None if there is no lease."""
    holder = _read(path)
    if holder is not None:
        return holder.run
    return "" if path.exists() else None


def _held(path: Path, holder: Holder | None) -> StoreHeldError:
    age = seconds_since_beat(path)
    beat = f", last heartbeat {age:.0f} s ago" if age is not None else ""
    who = str(holder) if holder is not None else "a run that did not write its name"
    stop = f"stop it (`{holder.stop_command}`)" if holder is not None else "stop it"
    return StoreHeldError(
        f"store {path.parent.parent} belongs to {who}{beat}. Two drivers must not write one store: wait for it, "
        f"{stop}, or use another --store. A driver that died is replaced by running the same command again: at "
        f"once on its own machine or by Slurm's word, else {STALE_S:.0f} s after its last heartbeat."
    )
