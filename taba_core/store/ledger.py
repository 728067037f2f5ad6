"""Receipts of finished shards: an append-only journal per artifact, written by the driver alone.

One writer means no locks, which network file systems do not give reliably. A line is written after the
shard's file is on disk, so a receipt never promises what a crash can take back.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
        # By hand: `asdict` copies every value of every receipt of a run.
        return {
            **vars(self),
            "variables": {name: dict(vars(record)) for name, record in self.variables.items()},
        }

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

    def record(self, *receipts: Receipt) -> None:
        """Append receipts and sync them together. Driver only.

        Raises:
          WorkError: the operating system refused.
        """
        self.place.append_lines(
            [json.dumps({"event": "receipt", **receipt.to_json()}) for receipt in receipts]
        )

    def forget(self, shard: int, variables: Iterable[str], reason: str) -> None:
        """Append that a shard's variables are not to be trusted any more. Driver only."""
        line = {"event": "forget", "shard": shard, "variables": sorted(variables), "reason": reason}
        self.place.append_lines([json.dumps(line)])

    def records(self) -> Records:
        """The valid record of each (shard, variable): the latest receipt unless forgotten since."""
        records: Records = {}
        for shard, name, record in self._entries():
            if record is None:
                records.pop((shard, name), None)
            else:
                records[shard, name] = record
        return records

    def sizes(self, variables: Iterable[str], num_shards: int) -> dict[str, array[int]]:
        """Bytes of each shard's file as its valid receipt says, by variable; -1 without one. Eight bytes a shard."""
        sizes = {name: array("q", [-1]) * num_shards for name in variables}
        for shard, name, record in self._entries():
            if name in sizes and 0 <= shard < num_shards:
                sizes[name][shard] = -1 if record is None else record.bytes
        return sizes

    def receipts(self) -> list[Receipt]:
        """Every receipt ever written, oldest first (retries included)."""
        return [Receipt.from_json(line) for line in self._lines() if line["event"] == "receipt"]

    def _entries(self) -> Iterator[tuple[int, str, FileRecord | None]]:
        """What each line says of a (shard, variable), in order; None = not to be trusted any more."""
        for line in self._lines():
            if line["event"] == "receipt":
                receipt = Receipt.from_json(line)
                for name, record in receipt.variables.items():
                    yield receipt.shard, name, record
            elif line["event"] == "forget":
                for name in line["variables"]:
                    yield line["shard"], name, None

    def _lines(self) -> Iterator[dict[str, Any]]:
        # A line cut short by a crash carries no promise: its shard is adopted or written again.
        lines = (_parsed(text) for text in self.place.lines())
        return (line for line in lines if line is not None)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "event" in line else None
