"""One driver per store on object storage: the lease of `workflows.ownership.lease`, kept in an object.

`_ledger/lease.json` is made by a conditional PUT (If-None-Match), which storage of S3's kind grants to one of
several starters; storage that ignores the condition keeps the last one, which the first notices at its next
`check`, before it writes a line to a ledger. A heartbeat writes the object again. A lease whose driver is gone is
replaced at once where that can be proven, else when the storage says that it is older than `STALE_S`: the ages
compared are those of two objects, both by the storage's clock.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from taba_core.errors import WorkError
from taba_core.store.files import LEDGER_DIRECTORY
from taba_core.store.local_place import LocalPlace
from taba_core.store.place import Place, json_bytes
from workflows.ownership.holder import Holder, why_gone
from workflows.ownership.lease import LEASE, STALE_S, Lease, StoreHeldError, acquire, new_run_id

_TURNS = 5


class ObjectLease:
    """A held lease; the methods are those of `Lease`."""

    def __init__(self, place: Place, holder: Holder) -> None:
        self.place, self.holder = place, holder

    def check(self) -> None:
        """Raise unless this process still owns the store; costs one small read.

        Raises:
          StoreHeldError: another driver has taken over. WorkError: the lease is gone.
        """
        current = _read(self.place)
        if current is None:
            raise WorkError(
                f"the lease {self.place} of this run was removed, so another driver may have started. This run "
                "stops without writing; run the same command again: it continues."
            )
        if current.run != self.holder.run:
            raise StoreHeldError(
                f"store {self.place.parent.parent} was taken over by {current}: this run stops without writing. "
                "Nothing is lost; leave the store to the other run."
            )

    def beat(self) -> None:
        """Say that the driver lives. Does nothing when the lease is lost, or the storage does not answer now."""
        with contextlib.suppress(OSError, WorkError):
            found = _read(self.place)
            if found is not None and found.run == self.holder.run:
                self.place.write_atomic(json_bytes(self.holder.to_json()))

    def release(self) -> None:
        """Let the next driver in; does nothing when the lease is not ours any more."""
        with contextlib.suppress(OSError, WorkError):
            found = _read(self.place)
            if found is not None and found.run == self.holder.run:
                self.place.remove()


def acquire_place(store: Place, run: str, *, stale_s: float = STALE_S) -> Lease | ObjectLease:
    """Become the driver of a store, wherever it lies.

    Raises:
      StoreHeldError: another driver owns it. WorkError: the storage refused.
    """
    if isinstance(store, LocalPlace):
        return acquire(store.path, run, stale_s=stale_s)
    place, me = store / LEDGER_DIRECTORY / LEASE, Holder.this_process(run)
    found = None
    for _ in range(_TURNS):
        if place.create_exclusive(json_bytes(me.to_json())):
            return ObjectLease(place, me)
        found = _read(place)
        gone = found is not None and why_gone(found, me) is not None
        if gone or (found is not None and _age(place) > stale_s):
            still = _read(place)
            if still is not None and found is not None and still.run == found.run:
                place.remove()
        elif found is not None:
            break
    raise StoreHeldError(
        f"store {store} belongs to {found or 'a run that did not write its name'}. Two drivers must not write one "
        "store: wait for it, stop it, or use another --store. A driver that died is replaced by running the same "
        f"command again: at once on its own machine, else {stale_s:.0f} s after its last heartbeat."
    )


@contextmanager
def hold_place(store: Place) -> Iterator[Lease | ObjectLease]:
    """The lease of a store, wherever it lies, for the time of a block."""
    lease = acquire_place(store, new_run_id())
    try:
        yield lease
    finally:
        lease.release()


def is_held(store: Place) -> bool:
    """Whether a lease names a driver that is not provably gone."""
    holder = _read(store / LEDGER_DIRECTORY / LEASE)
    return holder is not None and why_gone(holder, Holder.this_process("reader")) is None


def _age(place: Place) -> float:
    """Seconds since the last heartbeat, by the storage's clock."""
    probe = place.parent / f"clock.{uuid.uuid4().hex}.partial"
    probe.write_atomic(b"")
    try:
        return (probe.modified() or time.time()) - (place.modified() or 0.0)
    finally:
        probe.remove()


def _read(place: Place) -> Holder | None:
    """The holder a lease names; None if there is no lease, or one without a readable name."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, AttributeError, KeyError):
        return Holder.from_json(json.loads(place.read_bytes()))
    return None
