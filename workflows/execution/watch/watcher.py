"""Everything that looks at a run, in one place: the engine tells it, a thread keeps files and display fresh."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from taba_core.errors import WorkError
from taba_core.store.address import place_of
from taba_core.store.lease import HEARTBEAT_S, Lease
from taba_core.store.local_place import local_path
from taba_core.store.place import Place
from workflows.execution.watch.live import display
from workflows.execution.watch.runlog import RunLog
from workflows.execution.watch.status_file import WRITE_S, write_status
from workflows.execution.watch.tally import Tally

if TYPE_CHECKING:
    from cluster.pool.events import Event
    from cluster.pool.executor import Outcome
    from workflows.planning.units import JointUnits

_TICK_S = 0.5


class Watch:
    """What the engine tells about a run. This one looks at nothing; for runs inside a program.

    Attributes:
      logs: where the executor's own logs belong if something went wrong; None for nowhere.
      saw_losses: whether a worker was lost or a unit given up.
    """

    logs: Path | None = None
    saw_losses = False

    def check(self) -> None:
        """The caller owns the store."""

    def stage(self, name: str) -> None:
        """Nothing is shown."""

    def expect(self, units: JointUnits) -> None:
        """Nothing is counted."""

    def event(self, event: Event) -> None:
        """Nothing is counted."""

    def outcome(self, outcome: Outcome) -> None:
        """Nothing is counted."""

    def note(self, text: str) -> None:
        """Nothing is shown."""

    def executor(self, description: str) -> None:
        """Nothing is shown."""


class Watcher(Watch):
    """Counts, shows, logs, beats. A context: leaving it writes the last status, whatever ended the run.

    Args:
      store: the store.
      logs: directory for the log of events; that of the store unless it is remote.
      lease: of this run; its heartbeat is kept by the same thread that writes the status.
      command: what was typed, for the status.
      observe: called with every outcome and the bytes it wrote, for example metrics.
    """

    def __init__(
        self,
        store: Path | Place,
        lease: Lease,
        command: str,
        observe: Callable[[Outcome, int], None] | None = None,
        logs: Path | None = None,
    ) -> None:
        self._store, self._lease, self._command, self._observe = store, lease, command, observe
        self._tally = Tally()
        self._log = RunLog(logs or local_path(place_of(store)), lease.holder.run)
        self.logs = self._log.path.with_suffix("") / "ray"
        self._state, self._error = "running", ""
        self._started = _now()
        self._show = display(self._tally.snapshot)
        self._showing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._pulse, name="taba-watch", daemon=True)

    def __enter__(self) -> Watcher:
        self._log.write(
            "run-started",
            run=self._lease.holder.run,
            command=self._command,
            driver=self._lease.holder.to_json(),
        )
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._stop_showing()
        self._state = "finished" if kind is None else "drained" if kind is KeyboardInterrupt else "failed"
        self._error = str(error or (kind.__name__ if kind else ""))
        try:
            self._lease.check()
        except WorkError:
            return  # the store is another driver's, or gone: not a byte more
        self._write()
        try:
            self._log.write(f"run-{self._state}", error=self._error)
            self._log.close()
        except WorkError:
            if kind is None:  # else the error that ended the run is the one to show
                raise

    def check(self) -> None:
        """Raise unless the lease is still ours; see `Lease.check`."""
        self._lease.check()

    def stage(self, name: str) -> None:
        """Say what begins now."""
        self._tally.stage = name
        self._log.write("stage", detail=name)
        if name != "compute":
            self._stop_showing()

    def expect(self, units: JointUnits) -> None:
        """Take in the units to come, and begin to show them."""
        self._tally.expect(units.counts(), units.weight)
        if not self._showing:
            self._showing = True
            self._show.start()

    def event(self, event: Event) -> None:
        """Take in an event; also the place where a lost lease is noticed between outcomes."""
        self.saw_losses |= event.kind in ("worker-lost", "unit-failed")
        self._tally.event(event)
        fields = {name: value for name, value in vars(event).items() if name != "kind"}
        if event.kind not in ("unit-finished", "unit-failed"):  # those are logged with their outcomes
            self._log.write(event.kind, **fields)
        if event.kind in ("unit-retry", "worker-lost", "node-lost", "node-banned"):
            if not (event.kind == "unit-retry" and " lost: " in event.detail):  # the loss itself is said
                self._show.say(_event_text(event))
            self.check()

    def outcome(self, outcome: Outcome) -> None:
        """Take in an outcome."""
        before = self._tally.bytes_written
        self._tally.outcome(outcome)
        self._log.write(
            "unit-finished" if outcome.error is None else "unit-failed",
            unit=outcome.unit.id,
            attempt=outcome.attempts,
            worker=outcome.worker,
            node=outcome.node,
            gpu=outcome.gpu,
            seconds=round(outcome.seconds, 4),
            detail=outcome.error or "",
            trace=outcome.trace,
            causes=outcome.causes,
        )
        if outcome.error is not None:
            self._show.say(f"failed: {outcome.unit.label}: {_last_line(outcome.error)}")
        if self._observe is not None:
            self._observe(outcome, self._tally.bytes_written - before)

    def note(self, text: str) -> None:
        """Log and show a line."""
        self._log.write("note", detail=text)
        self._show.say(text)

    def executor(self, description: str) -> None:
        """Say where work runs."""
        self._tally.executor = description

    def _pulse(self) -> None:
        beats = writes = 0.0
        while not self._ended.wait(_TICK_S):
            beats, writes = beats + _TICK_S, writes + _TICK_S
            if beats >= HEARTBEAT_S:
                beats = 0.0
                self._lease.beat()
            if writes >= WRITE_S:
                writes = 0.0
                with contextlib.suppress(WorkError):  # the engine meets the same, and ends the run
                    self._lease.check()
                    self._write()
            if self._showing:
                with contextlib.suppress(
                    OSError, ValueError
                ):  # a closed or full log must not stop the heartbeat
                    self._show.tick()

    def _write(self) -> None:
        write_status(
            self._store,
            {
                "state": self._state,
                "run": self._lease.holder.run,
                "command": self._command,
                "started": self._started,
                "updated": _now(),
                "driver": self._lease.holder.to_json(),
                "error": self._error,
                **self._tally.snapshot(),
            },
        )

    def _stop_showing(self) -> None:
        if self._showing:
            self._showing = False
            self._show.stop()


def _event_text(event: Event) -> str:
    where = " ".join(part for part in (event.unit, event.worker, event.node) if part)
    return f"{event.kind.replace('-', ' ')} ({where}): {_last_line(event.detail)[:200]}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
