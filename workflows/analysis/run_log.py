"""What every run wrote about itself in a store: its command, versions, code, machine, times and settings."""

from __future__ import annotations

import json
from typing import Any

from taba_core.store import Store
from taba_core.store.files import LEDGER_DIRECTORY

RUN_LOG = "runs.jsonl"


def run_log(store: Store) -> list[dict[str, Any]]:
    """What `taba run` wrote about itself, oldest first."""
    entries = []
    for line in (store.place / LEDGER_DIRECTORY / RUN_LOG).lines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue  # a line cut short by a crash tells nothing and breaks nothing
    return entries


def last_run_of(store: Store, study: str, model: str) -> dict[str, Any]:
    """What the last run that computed a study on a model wrote; {} where none is known."""
    asked = (run for run in run_log(store) if run.get("model") == model and study in run.get("studies", ()))
    return next(reversed(list(asked)), {})
