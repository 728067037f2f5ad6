"""One driver per store: a lease that names the driver, lives by its heartbeat, and fences late writers.

`_ledger/lease.json` is made only where there is none, so of any number of starters one wins. The driver touches it
every few seconds and reads it before every line it appends to a ledger: whoever finds another name in it stops at
once, without writing. A lease whose driver is gone (`holder.why_gone`) is replaced at once; where that cannot be told,
when it has not been touched for `STALE_S`. It is replaced only if it is still the one that was found dead
(`Place.exchange`). No locks are used: network file systems and object storage do not give them reliably.

Clocks are never compared: the age of a lease is the difference of two times given by the storage, that of the lease
and that of a file written now, and a lease that looks old is watched for two heartbeats before it is replaced, because
machines may still disagree where the client of a file system stamps the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from taba_core.errors import TabaError, WorkError
from taba_core.store.address import place_of
from taba_core.store.claim import seconds_since_written
from taba_core.store.files import LEDGER_DIRECTORY
from taba_core.store.holder import Holder, JobEnded, why_gone
from taba_core.store.place import Place, json_bytes

LEASE = "lease.json"
HEARTBEAT_S = 5.0
STALE_S = 120.0
_TURNS = 100
_TURNS_TO_NAME = 20
_TURN_S = 0.05


class StoreHeldError(WorkError):
    """Another driver owns the store, or took it over. Exit code 75 (EX_TEMPFAIL of sysexits.h: try again later)."""

    exit_code = 75


class Lease:
    """A lease that this process has won. `beat` is for a background thread; `check` for the driver before it writes.

    Attributes:
      file: the lease.
      holder: this process, as the lease names it.
    """

    def __init__(self, file: Place, holder: Holder) -> None:
        self.file, self.holder = file, holder

    def check(self) -> None:
        """Raise unless this process still owns the store; costs one small read.

        Raises:
          StoreHeldError: another driver has taken over. WorkError: the store, or its lease, is gone.
        """
        current = _holder_in(_content(self.file))
        if current is not None and current.run == self.holder.run:
            return
        store = self.file.parent.parent
        if current is not None:
            raise StoreHeldError(
                f"store {store} was taken over by {current}: this run stops without writing. It must have given "
                f"no sign of life for {STALE_S:.0f} s. Nothing is lost; leave the store to the other run."
            )
        if not store.children() and not store.sizes():
            raise WorkError(
                f"store {store} has vanished: {self.file.parent} is not there any more. It was moved, removed or "
                "unmounted during the run; put it back and run the same command again: it continues."
            )
        raise WorkError(
            f"the lease {self.file} of this run was removed, so another driver may have started. This run stops "
            "without writing; run the same command again: it continues."
        )

    def beat(self) -> None:
        """Say that the driver lives. Does nothing when the lease is lost, or the storage does not answer now."""
        with contextlib.suppress(OSError, TabaError):
            self.file.touch(self._content)

    def release(self) -> None:
        """Let the next driver in; does nothing when the lease is not ours any more."""
        with contextlib.suppress(OSError, TabaError):
            if _content(self.file) == self._content:
                self.file.remove()

    @property
    def _content(self) -> bytes:
        return json_bytes(self.holder.to_json())


def acquire(
    store: str | os.PathLike[str] | Place,
    run: str,
    *,
    stale_s: float = STALE_S,
    heartbeat_s: float = HEARTBEAT_S,
    job_ended: JobEnded | None = None,
) -> Lease:
    """Become the driver of a store.

    Args:
      run: unique id of this run.
      stale_s: age of the last heartbeat after which a driver counts as dead where nothing else can tell.
      heartbeat_s: interval of heartbeats.
      job_ended: asks the scheduler whether the job of a driver has ended.
    Raises:
      StoreHeldError: another driver owns it. WorkError: the storage refused.
    """
    file, me = place_of(store) / LEDGER_DIRECTORY / LEASE, Holder.this_process(run)
    file.parent.make()
    mine = json_bytes(me.to_json())
    for turn in range(_TURNS):  # ends: in each turn somebody made progress, or a claim is being removed
        if file.create_exclusive(mine):
            return _alive(file, me, mine)
        found = _content(file)
        if found is None:
            continue
        holder = _holder_in(found)
        if holder is None and turn < _TURNS_TO_NAME:
            time.sleep(_TURN_S)  # it is just being made
            continue
        if not _is_over(file, holder, me, stale_s, heartbeat_s, job_ended):
            raise _held(file, holder)
        if file.exchange(found, mine):
            return _alive(file, me, mine)
        time.sleep(_TURN_S)
    raise _held(file, holder_of(store))


@contextmanager
def hold(
    store: str | os.PathLike[str] | Place, run: str | None = None, *, job_ended: JobEnded | None = None
) -> Iterator[Lease]:
    """The lease of a store for the time of a block, for whatever changes a store; see `acquire`."""
    lease = acquire(store, run or new_run_id(), job_ended=job_ended)
    try:
        yield lease
    finally:
        lease.release()


def new_run_id() -> str:
    """A name no other run has, sortable by time: 20260131T235959-1a2b3c."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + uuid.uuid4().hex[:6]


def holder_of(store: str | os.PathLike[str] | Place) -> Holder | None:
    """The driver a store's lease names, alive or not; None if there is no lease, or one without a readable name."""
    return _holder_in(_content(place_of(store) / LEDGER_DIRECTORY / LEASE))


def is_held(store: Place, job_ended: JobEnded | None = None) -> bool:
    """Whether a lease names a driver that is not provably gone."""
    holder = holder_of(store)
    return holder is not None and why_gone(holder, Holder.this_process("reader"), job_ended) is None


def _alive(file: Place, me: Holder, mine: bytes) -> Lease:
    """A lease just won, after a first heartbeat: storage that cannot keep it alive shows that before work starts."""
    try:
        file.touch(mine)
    except BaseException:
        file.remove()
        raise
    return Lease(file, me)


def _is_over(
    file: Place,
    holder: Holder | None,
    me: Holder,
    stale_s: float,
    heartbeat_s: float,
    job_ended: JobEnded | None,
) -> bool:
    """Whether a lease may be replaced: its driver is provably gone, or its heartbeat has stood still long enough."""
    if holder is not None:
        if why_gone(holder, me, job_ended) is not None:
            return True
        if holder.shares_kernel(me):
            return False  # its process is there, however long it may have been stopped
    age = seconds_since_written(file)
    if age is None:
        return True
    if age < stale_s:
        return False
    seen = file.modified()
    time.sleep(2.2 * heartbeat_s)
    return file.modified() in (None, seen)


def _content(file: Place) -> bytes | None:
    """What a lease holds; None if there is none."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise WorkError(
            f"the lease {file} cannot be read: {error.strerror}. See to the file system, then run the same command "
            "again: it continues."
        ) from error


def _holder_in(content: bytes | None) -> Holder | None:
    """The driver a lease names; None if there is no lease, or one without a readable name (just being made)."""
    with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
        return None if content is None else Holder.from_json(json.loads(content))
    return None


def _held(file: Place, holder: Holder | None) -> StoreHeldError:
    age = None
    with contextlib.suppress(OSError, TabaError):
        age = seconds_since_written(file)
    beat = f", last heartbeat {age:.0f} s ago" if age is not None else ""
    who = str(holder) if holder is not None else "a run that did not write its name"
    stop = f"stop it (`{holder.stop_command}`)" if holder is not None else "stop it"
    return StoreHeldError(
        f"store {file.parent.parent} belongs to {who}{beat}. Two drivers must not write one store: wait for it, "
        f"{stop}, or use another --store. A driver that died is replaced by running the same command again: at "
        f"once on its own machine or by Slurm's word, else {STALE_S:.0f} s after its last heartbeat."
    )
