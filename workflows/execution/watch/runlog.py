"""The log of a run: one JSON object a line for every event, in the store beside the ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taba_core.errors import WorkError
from taba_core.store.files import LEDGER_DIRECTORY, explained

LOGS = "logs"


def log_path(store: Path, run: str) -> Path:
    """File of a run's log."""
    return store / LEDGER_DIRECTORY / LOGS / f"{run}.jsonl"


class RunLog:
    """Appends events; a line is handed to the system at once, so a killed driver loses none."""

    def __init__(self, store: Path, run: str) -> None:
        self.path = log_path(store, run)
        with explained(self.path):
            self.path.parent.mkdir(exist_ok=True)  # not its parents: a store that vanished must stay away
            self._file = self.path.open("a", buffering=1)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; fields that are empty are left out.

        Raises:
          WorkError: the file system refused.
        """
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        entry |= {name: value for name, value in fields.items() if value not in ("", None, 0, {}, [], ())}
        with explained(self.path):
            self._file.write(json.dumps(entry, default=str) + "\n")

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise WorkError(f"cannot write {self.path}: {error}.") from None
