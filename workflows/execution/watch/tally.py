"""The counts of a run, kept from its events: units by artifact, workers by node, failures, pace."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.pool.events import Event
    from cluster.pool.executor import Outcome

MAX_LISTED = 100  # failures and losses kept by name; the log has all
_PACE_S, _PACE_POINTS = 10.0, 60  # the pace is that of the last ten minutes
_MIN_SHARE = 0.02  # an estimate from less would be wild: the first units also load the model


@dataclass
class Count:
    """Units of one artifact."""

    name: str
    units: int
    done: int = 0
    failed: int = 0
    in_flight: int = 0


@dataclass
class Tally:
    """What `taba status` and the live table show; safe to read from another thread through `snapshot`."""

    stage: str = "starting"
    artifacts: dict[str, Count] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    workers: dict[str, str] = field(default_factory=dict)
    workers_lost: int = 0
    retries: int = 0
    bytes_written: int = 0
    executor: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, int] = {}
        self._weight = self._done_weight = 0.0
        self._pace: deque[tuple[float, float, int]] = deque(maxlen=_PACE_POINTS)

    def expect(self, counts: Mapping[str, tuple[str, int]], weight: float) -> None:
        """Set the units to come, by artifact key, and their weight; what came out before is kept."""
        with self._lock:
            for key, (name, units) in counts.items():
                count = self.artifacts.setdefault(key, Count(name, 0))
                count.units = count.done + count.failed + units
            for count in self.artifacts.values():
                count.in_flight = 0
            self._running.clear()
            self.workers.clear()
            self._weight = self._done_weight + weight

    def event(self, event: Event) -> None:
        """Count one event."""
        with self._lock:
            if event.kind == "unit-started":
                self._start_pace()
                self._running[event.unit] = event.attempt
                self._count(event.unit).in_flight += 1
            elif event.kind in ("unit-finished", "unit-retry", "unit-failed"):
                self._stopped(event.unit)
                self.retries += event.kind == "unit-retry"
            elif event.kind == "worker-ready":
                self.workers[event.worker] = event.node
            elif event.kind == "worker-lost":
                self.workers.pop(event.worker, None)
                self.workers_lost += 1
                _note(self.losses, {"worker": event.worker, "node": event.node, "cause": event.detail})

    def outcome(self, outcome: Outcome) -> None:
        """Count one outcome."""
        with self._lock:
            unit, count = outcome.unit, self._count(outcome.unit.id)
            self._stopped(unit.id)
            self._done_weight += unit.weight
            if outcome.error is None:
                count.done += 1
                files = [f for part in (outcome.result or {}).values() for f in part["variables"].values()]
                self.bytes_written += sum(file["bytes"] for file in files)
            else:
                count.failed += 1
                _note(
                    self.failures,
                    {
                        "unit": unit.id, "name": unit.label, "attempts": outcome.attempts,
                        "error": outcome.error.strip(), "worker": outcome.worker, "node": outcome.node,
                    },
                )  # fmt: skip
            self._pace_point()

    def snapshot(self) -> dict[str, Any]:
        """All of it as plain JSON values; `eta_s` is None while it cannot be told."""
        with self._lock:
            counts = list(self.artifacts.values())
            rate, eta = self._rate_and_eta()
            return {
                "stage": self.stage,
                "units": {n: sum(getattr(c, n) for c in counts) for n in ("units", "done", "failed", "in_flight")},
                "artifacts": [vars(count).copy() for count in counts],
                "units_per_s": rate,
                "eta_s": eta,
                "workers": dict(sorted(Counter(self.workers.values()).items())),
                "workers_lost": self.workers_lost,
                "retries": self.retries,
                "bytes_written": self.bytes_written,
                "failures": list(self.failures),
                "losses": self.losses[-5:],
                "executor": self.executor,
            }  # fmt: skip

    def _count(self, unit: str) -> Count:
        key = unit.rsplit("/", 1)[0]
        return self.artifacts.setdefault(key, Count(key, 0))

    def _stopped(self, unit: str) -> None:
        if self._running.pop(unit, None) is not None:
            self._count(unit).in_flight -= 1

    def _start_pace(self) -> None:
        if not self._pace:
            self._pace.append((time.monotonic(), self._done_weight, 0))

    def _pace_point(self) -> None:
        now, done = time.monotonic(), sum(count.done for count in self.artifacts.values())
        if not self._pace or now - self._pace[-1][0] >= _PACE_S:
            self._pace.append((now, self._done_weight, done))

    def _rate_and_eta(self) -> tuple[float, float | None]:
        if not self._pace:
            return 0.0, None
        began, weight, units = self._pace[0]
        seconds = max(time.monotonic() - began, 1e-3)
        done = sum(count.done for count in self.artifacts.values())
        rate, pace = (done - units) / seconds, (self._done_weight - weight) / seconds
        left = self._weight - self._done_weight
        known = pace > 0 and self._done_weight >= _MIN_SHARE * self._weight
        return round(rate, 4), round(left / pace, 1) if known else None


def _note(listed: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    if len(listed) < MAX_LISTED:
        listed.append(entry)
