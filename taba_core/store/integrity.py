"""Finding what is wrong with an artifact's files, and making it right by computing it again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from taba_core.errors import StoreError, WorkError
from taba_core.store.ledger import FileRecord, Ledger, Receipt, Records
from taba_core.store.place import Place
from taba_core.store.shards import META, ShardedArray

DefectKind = Literal[
    "missing", "size", "no receipt", "checksum", "orphan", "unknown file", "coordinate", "result"
]


@dataclass(frozen=True)
class Defect:
    """One thing wrong. `missing` alone is unfinished work, not damage."""

    artifact: str
    kind: DefectKind
    variable: str
    shard: int | None
    file: Place
    detail: str

    def __str__(self) -> str:
        where = f"{self.variable} shard {self.shard}" if self.shard is not None else self.variable
        return f"{' '.join(part for part in (self.artifact, where) if part)}: {self.kind}: {self.detail}"


class Held(Protocol):
    """What is looked at: an artifact's arrays and receipts."""

    @property
    def name(self) -> str:
        """Name of the group."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables the store holds."""

    @property
    def ledger(self) -> Ledger:
        """The artifact's receipts."""

    def array(self, variable: str) -> ShardedArray:
        """The array of a variable."""


def verify(held: Held, *, deep: bool = False, forget: bool = False) -> list[Defect]:
    """Compare the files of an artifact with their receipts.

    Args:
      deep: read every file and compare its checksum with its receipt (else sizes only: one scan a variable).
      forget: drop the receipts and remove the files of damaged shards (`size`, `checksum`), so that they read
        as NaN and the next run computes them again.
    Returns:
      Problems by variable and shard: `missing` (no file), `size` (truncated, empty or too long), `no receipt`
      (whole file, ledger does not know it: `adopt` settles it), `checksum` (bits changed in storage), `orphan`
      (left by an interrupted write, harmless), `unknown file` (taba did not write it; it is left alone).
    """
    records = held.ledger.records()
    problems = [problem for name in held.variables for problem in _of_array(held, name, records, deep)]
    if forget:
        for problem in problems:
            if problem.kind in ("size", "checksum") and problem.shard is not None:
                held.ledger.forget(problem.shard, [problem.variable], problem.detail)
                problem.file.remove()
    return problems


def adopt(held: Held) -> list[Receipt]:
    """Record whole shards that have no receipt.

    A file of the expected size is read completely; every byte of it is covered by the checksum of a chunk or
    of the index. What fails is left as it is: it counts as missing and is computed again.
    """
    records = held.ledger.records()
    adopted = []
    for name in held.variables:
        array = held.array(name)
        for shard, size in array.sizes():
            if (shard, name) in records or size != array.layout.shard_bytes or not _readable(array, shard):
                continue
            file = array.file(shard)
            file.confirm()
            receipt = Receipt(
                shard, {name: FileRecord(file.name, size, file.crc32())}, info={"adopted": True}
            )
            held.ledger.record(receipt)
            adopted.append(receipt)
    return adopted


def orphans(held: Held) -> dict[Place, int]:
    """What interrupted writes left in an artifact's arrays: place and bytes."""
    arrays = [held.array(name).place for name in held.variables]
    return {place / left: size for place in arrays for left, size in place.interrupted().items()}


def remove_orphans(held: Held) -> list[Place]:
    """Delete what interrupted writes left in an artifact's arrays, and return it."""
    found = list(orphans(held))
    for left in found:
        left.parent.remove_interrupted(left.name)
    return found


def _of_array(held: Held, name: str, records: Records, deep: bool) -> Iterator[Defect]:
    array = held.array(name)
    sizes, left = array.place.sizes(), array.place.interrupted()
    expected = array.layout.shard_bytes
    for shard in range(array.layout.num_shards):
        file = array.file(shard)
        if shard >= array.num_asked and file.name not in sizes:
            continue
        found = _of_shard(file, sizes.pop(file.name, None), records.get((shard, name)), expected, deep)
        if found is not None:
            yield Defect(held.name, found[0], name, shard, file, found[1])
    for orphan in left:
        sizes.pop(orphan, None)
        place = array.place / orphan
        yield Defect(held.name, "orphan", name, None, place, f"{orphan} is left of an interrupted write")
    for unknown in sorted(sizes.keys() - {META}):
        place = array.place / unknown
        yield Defect(held.name, "unknown file", name, None, place, f"{unknown} is not of taba's making")


def _of_shard(
    file: Place, size: int | None, record: FileRecord | None, expected: int, deep: bool
) -> tuple[DefectKind, str] | None:
    if size is None:
        return "missing", "no file" if record is None else "no file, although its receipt says it was written"
    if size != expected:
        return "size", f"{size} bytes, not {expected}"
    if record is None:
        return "no receipt", "the file has the expected size and the ledger does not know it"
    if not deep:
        return None
    try:
        crc = file.crc32()
    except (OSError, WorkError) as error:
        return "checksum", f"cannot be read ({error})"
    return None if crc == record.crc else ("checksum", f"CRC-32 {crc:08x}, not {record.crc:08x} as written")


def _readable(array: ShardedArray, shard: int) -> bool:
    start, stop = array.layout.samples(shard)
    with contextlib.suppress(StoreError, WorkError):
        array.check(shard, array.read(start, stop))
        return True
    return False
