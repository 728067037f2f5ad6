"""Finding what is wrong with an artifact's files, and making it right by computing it again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from taba_core.errors import StoreError
from taba_core.store.files import PARTIAL_SUFFIX, explained, sync_directory
from taba_core.store.ledger import FileRecord, Receipt
from taba_core.store.shards import ShardedArray

if TYPE_CHECKING:
    from taba_core.store.group import ArtifactGroup

ProblemKind = Literal["missing", "size", "no receipt", "checksum", "orphan"]


@dataclass(frozen=True)
class Problem:
    """One thing wrong. `missing` alone is unfinished work, not damage."""

    artifact: str
    kind: ProblemKind
    variable: str
    shard: int | None
    path: Path
    detail: str

    def __str__(self) -> str:
        where = f"{self.variable} shard {self.shard}" if self.shard is not None else self.variable
        return f"{self.artifact} {where}: {self.kind}: {self.detail}"


def verify(group: ArtifactGroup, *, deep: bool = False, forget: bool = False) -> list[Problem]:
    """Compare the files of an artifact with their receipts.

    Args:
      deep: read every file and compare its checksum with its receipt (else sizes only: one scan a variable).
      forget: drop the receipts and remove the files of damaged shards (`size`, `checksum`), so that they read
        as NaN and the next run computes them again.
    Returns:
      Problems by variable and shard: `missing` (no file), `size` (truncated, empty or too long), `no receipt`
      (whole file, ledger does not know it: `adopt` settles it), `checksum` (bits changed on disk), `orphan`
      (left by an interrupted write, harmless).
    """
    problems = [problem for name in group.variables for problem in _of_array(group, name, deep)]
    if forget:
        for problem in problems:
            if problem.kind in ("size", "checksum") and problem.shard is not None:
                _forget(group, problem)
    return problems


def adopt(group: ArtifactGroup) -> list[Receipt]:
    """Record whole shards that have no receipt.

    A file of the expected size is read completely; every byte of it is covered by the checksum of a chunk or
    of the index. What fails is left as it is: it counts as missing and is computed again.
    """
    records = group.ledger.records()
    adopted = []
    for name in group.variables:
        array = group.array(name)
        for shard, size in sorted(array.sizes().items()):
            if (shard, name) in records or size != array.layout.shard_bytes or not _readable(array, shard):
                continue
            file = array.file(shard)
            with explained(file):
                _sync(file)
            record = FileRecord(file.name, size, array.crc_of_file(shard))
            receipt = Receipt(shard, {name: record}, info={"adopted": True})
            group.record(receipt)
            adopted.append(receipt)
    return adopted


def remove_orphans(group: ArtifactGroup) -> list[Path]:
    """Delete the `.partial` files in an artifact's directories and return their paths."""
    orphans = [path for name in group.variables for path in _orphans(group.path / name)]
    for path in orphans:
        with explained(path):
            path.unlink(missing_ok=True)
    return orphans


def _of_array(group: ArtifactGroup, name: str, deep: bool) -> Iterator[Problem]:
    array = group.array(name)
    sizes, records, expected = array.sizes(), group.ledger.records(), array.layout.shard_bytes
    for shard in range(array.layout.num_shards):
        found = _of_shard(array, shard, sizes.get(shard), records.get((shard, name)), expected, deep)
        if found is not None:
            kind, detail = found
            yield Problem(group.name, kind, name, shard, array.file(shard), detail)
    for path in _orphans(array.path):
        yield Problem(group.name, "orphan", name, None, path, f"{path.name} is left of an interrupted write")


def _of_shard(
    array: ShardedArray, shard: int, size: int | None, record: FileRecord | None, expected: int, deep: bool
) -> tuple[ProblemKind, str] | None:
    if size is None:
        return "missing", "no file" if record is None else "no file, although its receipt says it was written"
    if size != expected:
        return "size", f"{size} bytes, not {expected}"
    if record is None:
        return "no receipt", "the file has the expected size and the ledger does not know it"
    if deep and (crc := array.crc_of_file(shard)) != record.crc:
        return "checksum", f"CRC-32 {crc:08x}, not {record.crc:08x} as written"
    return None


def _forget(group: ArtifactGroup, problem: Problem) -> None:
    assert problem.shard is not None
    group.ledger.forget(problem.shard, [problem.variable], problem.detail)
    with explained(problem.path):
        problem.path.unlink(missing_ok=True)


def _readable(array: ShardedArray, shard: int) -> bool:
    start, stop = array.layout.samples(shard)
    with contextlib.suppress(StoreError):
        array.check(shard, array.read(start, stop))
        return True
    return False


def _sync(file: Path) -> None:
    import os

    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    sync_directory(file.parent)


def _orphans(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{PARTIAL_SUFFIX}"))
