"""One `taba run` on one store: the lease, the watch, and signals, from the first write to the last."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from taba_core.errors import WorkError
from taba_core.store.address import place_of
from taba_core.store.files import LEDGER_DIRECTORY, PARTIAL_SUFFIX
from taba_core.store.local_place import LocalPlace
from taba_core.store.place import Place
from workflows.lease import new_run_id
from workflows.object_lease import acquire_place
from workflows.watch import Watcher
from workflows.watch.runlog import LOGS

if TYPE_CHECKING:
    from cluster.executor import Outcome

# Variable: the file through which a scheduler asks every run of an allocation to stop.
DRAIN_FILE = "TABA_DRAIN_FILE"
_STOP_SIGNALS = ("SIGTERM", "SIGUSR1")


@contextmanager
def driving(
    store: Path | Place, observe: Callable[[Outcome, int], None] | None = None, run: str | None = None
) -> Iterator[Watcher]:
    """Own a store for the time of a block, with everything that watches a run.

    A stop signal within the block raises KeyboardInterrupt; while units run, the executor takes it instead and
    lets them finish first. Either way the block is left in order, and the lease is released.

    Raises:
      StoreHeldError: another driver owns the store. WorkError: the file system refused.
    """
    logging.getLogger("cluster").addHandler(logging.NullHandler())  # the watcher says the same, and more
    place = place_of(store)
    lease = acquire_place(place, run or new_run_id())
    command = "taba " + " ".join(sys.argv[1:])
    try:
        with _logs_directory(place) as logs:
            _clear_partials(logs / LEDGER_DIRECTORY)
            with _stop_signals(), Watcher(place, lease, command, observe, logs) as watcher:
                yield watcher
    finally:
        lease.release()


def stop_if_asked() -> None:
    """Stop as by Ctrl-C where the drain file is there; executors look for it, but only while units run."""
    drain_file = os.environ.get(DRAIN_FILE)
    if drain_file and os.path.exists(drain_file):
        raise KeyboardInterrupt(f"stopped by the file {drain_file}")


@contextmanager
def _logs_directory(store: Place) -> Iterator[Path]:
    """Where the log of events is written: in the store, or beside it and sent there at the end if it is remote."""
    if isinstance(store, LocalPlace):
        yield store.path
        return
    with tempfile.TemporaryDirectory(prefix="taba-run-") as scratch:
        (Path(scratch) / LEDGER_DIRECTORY).mkdir()
        try:
            yield Path(scratch)
        finally:
            kept = LocalPlace(Path(scratch) / LEDGER_DIRECTORY / LOGS)
            with contextlib.suppress(WorkError, OSError):
                for name in kept.walk():
                    (store / LEDGER_DIRECTORY / LOGS / name).write_atomic((kept / name).read_bytes())


def _clear_partials(ledger: Path) -> None:
    """Files a killed driver was just writing (a status, a lease); results clear their own."""
    for left in ledger.glob(f"*.json.*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            left.unlink()


@contextmanager
def _stop_signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    for name in _STOP_SIGNALS:
        if hasattr(signal, name):
            number = getattr(signal, name)
            before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")
