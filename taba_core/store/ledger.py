"""Receipts of finished shards: an append-only journal per artifact, written by the driver alone.

One writer means no locks, which network file systems do not give reliably. A line is written after the
shard's file is on disk, so a receipt never promises what a crash can take back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from taba_core.store.place import Place


@dataclass(frozen=True)
class FileRecord:
    """One shard file: its name in the array's directory, size in bytes, CRC-32 of its content."""

    file: str
    bytes: int
    crc: int


@dataclass(frozen=True)
class Receipt:
    """What a worker reports about a written shard; plain JSON, a few hundred bytes.

    `seconds` is the time of the write; `worker` is host:pid; `info` is free for the caller (device, ...).
    """

    shard: int
    variables: Mapping[str, FileRecord]
    seconds: float = 0.0
    worker: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Receipt:
        """Inverse of `to_json`; unknown fields are ignored."""
        return cls(
            shard=int(value["shard"]),
            variables={name: FileRecord(**record) for name, record in value["variables"].items()},
            seconds=float(value.get("seconds", 0.0)),
            worker=str(value.get("worker", "")),
            info=dict(value.get("info", {})),
        )


Records = dict[tuple[int, str], FileRecord]


@dataclass(frozen=True)
class Ledger:
    """The receipts of one artifact."""

    place: Place

    def record(self, receipt: Receipt) -> None:
        """Append a receipt and sync it. Driver only.

        Raises:
          WorkError: the operating system refused.
        """
        self.place.append_line(json.dumps({"event": "receipt", **receipt.to_json()}))

    def forget(self, shard: int, variables: Iterable[str], reason: str) -> None:
        """Append that a shard's variables are not to be trusted any more. Driver only."""
        line = {"event": "forget", "shard": shard, "variables": sorted(variables), "reason": reason}
        self.place.append_line(json.dumps(line))

    def records(self) -> Records:
        """The valid record of each (shard, variable): the latest receipt unless forgotten since."""
        records: Records = {}
        for line in self._lines():
            if line["event"] == "receipt":
                receipt = Receipt.from_json(line)
                records |= {(receipt.shard, name): record for name, record in receipt.variables.items()}
            elif line["event"] == "forget":
                for name in line["variables"]:
                    records.pop((line["shard"], name), None)
        return records

    def receipts(self) -> list[Receipt]:
        """Every receipt ever written, oldest first (retries included)."""
        return [Receipt.from_json(line) for line in self._lines() if line["event"] == "receipt"]

    def _lines(self) -> list[dict[str, Any]]:
        # A line cut short by a crash carries no promise: its shard is adopted or written again.
        lines = (_parsed(text) for text in self.place.lines())
        return [line for line in lines if line is not None]


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "event" in line else None
