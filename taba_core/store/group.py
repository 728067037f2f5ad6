"""One artifact in the store: which shards it has, writing one, reading them back."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.layout import Extent
from taba_core.errors import StoreError, UsageError
from taba_core.store import integrity
from taba_core.store.files import LEDGER_DIRECTORY as LEDGER_DIRECTORY
from taba_core.store.integrity import Defect
from taba_core.store.ledger import FileRecord, Ledger, Receipt
from taba_core.store.local_place import local_path
from taba_core.store.missing import MissingShards
from taba_core.store.place import Place, read_json
from taba_core.store.shards import META, ShardedArray


@dataclass(frozen=True)
class ArtifactGroup:
    """An artifact's group; holds places and the spec only, so it can be sent to workers.

    Workers call `write_shard` and the readers; `record`, `adopt`, `verify` and `remove_orphans` belong to the
    driver, which is the ledger's only writer.
    """

    store: Place
    artifact: Artifact

    @property
    def name(self) -> str:
        """Name of the group in the store."""
        return self.artifact.name

    @property
    def place(self) -> Place:
        """Where the group is."""
        return self.store / self.name

    @property
    def path(self) -> Path:
        """Directory of the group.

        Raises:
          UsageError: the store is remote.
        """
        return local_path(self.place)

    @property
    def num_shards(self) -> int:
        """Shards (units of work) of the artifact."""
        return self.extent.num_shards

    @cached_property
    def extent(self) -> Extent:
        """How many samples the group has room for, and samples of a shard, as they were when this was first asked.

        Raises:
          StoreError: the group does not say; taba did not write it.
        """
        attrs = read_json(self.place / META).get("attributes", {})
        try:
            return Extent(int(attrs["num_samples"]), int(attrs["samples_per_shard"]))
        except (KeyError, TypeError, ValueError):
            raise StoreError(
                f"group {self.place} does not say how many samples it holds; remove it."
            ) from None

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables the store holds, in the schema's order."""
        names = self.artifact.variables()
        held = self.place.read_existing(f"{name}/{META}" for name in names)
        return tuple(name for name in names if f"{name}/{META}" in held)

    @cached_property
    def ledger(self) -> Ledger:
        """The artifact's receipts."""
        return Ledger(self.store / LEDGER_DIRECTORY / f"{self.name}.jsonl")

    def array(self, variable: str) -> ShardedArray:
        """The array of a variable.

        Raises:
          UsageError: the kind has no such variable. StoreError: this store does not hold it.
        """
        return ShardedArray.open(self.place / variable, self.artifact.variable(variable))

    def shard_range(self, shard: int) -> tuple[int, int]:
        """Sample ids [start, stop) of a shard.

        Raises:
          UsageError: no such shard.
        """
        if not 0 <= shard < self.num_shards:
            raise UsageError(f"shard {shard} of {self.name}: shards are 0 to {self.num_shards - 1}.")
        return self.extent.ids(shard)

    def missing(
        self,
        variables: Iterable[str] | None = None,
        first_shards: Mapping[str, int] = MappingProxyType({}),
    ) -> MissingShards:
        """Shards not complete, each with its variables that are not. Empty when all is done.

        Complete means: the file has exactly the expected size, and the ledger holds a receipt for it.

        Args:
          variables: those that are wanted; all that the store holds, as far as they were asked, if None.
          first_shards: how many shards are wanted of variables of which not all are, or more than there is room for
            yet.
        Raises:
          UsageError: the kind has no such variable.
        """
        names = list(self.variables if variables is None else variables)
        for name in names:
            self.artifact.variable(name)
        if variables is None:
            first_shards = {name: self.array(name).num_asked for name in names}
        end = {name: first_shards.get(name, self.num_shards) for name in names}
        shards = max(self.num_shards, *end.values()) if end else 0
        done = self._complete(names, shards)
        return MissingShards(
            (shard, tuple(n for n in names if shard < end[n] and not done[n][shard]))
            for shard in range(shards)
        )

    def write_shard(
        self, shard: int, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any] | None = None
    ) -> Receipt:
        """Write a whole shard of some variables; durable on return. Called by workers.

        Every block is checked before the first one is written. Writing the same shard again replaces it.

        Args:
          arrays: block per variable, (samples of the shard, ...), exact shape and type.
          info: plain JSON to keep in the receipt (device, versions, seconds of the computation).
        Raises:
          UsageError: unknown variable, wrong shape or type, no arrays.
          WorkError: values that are not finite, or the file system refused (no partial file is left; the
          cause is the OSError). StoreError: the store does not hold a variable.
        """
        if not arrays:
            raise UsageError(f"shard {shard} of {self.name}: no arrays to write.")
        began = time.perf_counter()
        targets = {name: self.array(name) for name in arrays}
        for name, target in targets.items():
            target.check(shard, arrays[name])
        written: dict[str, FileRecord] = {n: t.put(shard, arrays[n]) for n, t in targets.items()}
        return Receipt(
            shard=shard,
            variables=written,
            seconds=time.perf_counter() - began,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            info=dict(info or {}),
        )

    def record(self, *receipts: Receipt) -> None:
        """Put workers' receipts into the ledger, with one sync. Driver only."""
        self.ledger.record(*receipts)

    def read_shard(self, shard: int, variables: Iterable[str]) -> dict[str, NDArray[Any]]:
        """All samples and steps of a shard, by variable.

        Raises:
          UsageError: no such shard or variable. StoreError: a file is missing or damaged.
        """
        return self.read_samples(*self.shard_range(shard), variables)

    def read_samples(
        self, start: int, stop: int, variables: Iterable[str], steps: Sequence[int] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Samples [start, stop) by variable.

        Of per-step variables all steps, or those labelled `steps` (1..T), in that order.

        Raises:
          UsageError: samples, steps or variables that do not exist. StoreError: a file is missing or damaged.
        """
        return {name: self.array(name).read(start, stop, steps) for name in variables}

    def adopt(self) -> list[Receipt]:
        """Give receipts to whole shards without one (the driver ended before it wrote them). Driver only."""
        self.ledger.place.compact()
        return integrity.adopt(self)

    def verify(self, deep: bool = False, forget: bool = False) -> list[Defect]:
        """Everything wrong with the artifact; see `taba_core.store.integrity.verify`. Driver only."""
        return integrity.verify(self, deep=deep, forget=forget)

    def remove_orphans(self) -> list[Place]:
        """Delete files that interrupted writes left behind. Driver only, while no worker writes."""
        return integrity.remove_orphans(self)

    def _complete(self, names: Sequence[str], shards: int) -> dict[str, bytearray]:
        """By variable one byte for each of so many shards: 1 where file and receipt agree."""
        held = [name for name in names if name in set(self.variables)]
        receipted = self.ledger.sizes(held, shards)
        done = {name: bytearray(shards) for name in names}
        for name in held:
            array = self.array(name)
            expected = array.layout.shard_bytes
            for shard, size in array.sizes():
                done[name][shard] = size == expected == receipted[name][shard]
        return done
