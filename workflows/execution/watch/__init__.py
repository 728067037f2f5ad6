"""Watching a run: counts, a live table or log lines, `status.json`, and the log of every event."""

from __future__ import annotations

from workflows.execution.watch.watcher import Watch, Watcher

__all__ = ["Watch", "Watcher"]
