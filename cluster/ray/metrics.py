"""Metrics of a run on the Prometheus port of the driver's Ray node; off unless asked for: that port has no lock.

They show up as `ray_taba_units_total`, `ray_taba_unit_seconds` and `ray_taba_bytes_written_total`.
"""

from __future__ import annotations

from typing import Any

from cluster.pool.executor import Outcome

_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class RunMetrics:
    """Counts outcomes with Ray's own metrics; made at the first one, when Ray is connected."""

    def __init__(self) -> None:
        self._units: Any = None

    def __call__(self, outcome: Outcome, bytes_written: int) -> None:
        """Count one outcome and the bytes its shard takes."""
        if self._units is None:
            self._make()
        state = "failed" if outcome.error else "done"
        self._units.inc(1, tags={"state": state, "node": outcome.node})
        self._seconds.observe(outcome.seconds, tags={"node": outcome.node})
        if bytes_written:
            self._bytes.inc(bytes_written, tags={"node": outcome.node})

    def _make(self) -> None:
        from ray.util.metrics import Counter, Histogram

        self._units = Counter("taba_units_total", "Units that came out.", tag_keys=("state", "node"))
        self._seconds = Histogram(
            "taba_unit_seconds", "Wall time of a unit.", boundaries=_SECONDS, tag_keys=("node",)
        )
        self._bytes = Counter("taba_bytes_written_total", "Bytes of shards.", tag_keys=("node",))
