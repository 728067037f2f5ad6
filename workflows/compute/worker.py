"""One unit of work: read a shard's sources, run the denoiser, write the shard, return a receipt.

It runs inside a worker process (a Ray actor, a thread, or the driver itself), keeps models warm between units, and
knows nothing of who runs it.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Here, once, before any thread: two threads that meet in zarr's first import leave it broken ("no attribute 'core'").
import zarr.codecs
import zarr.storage  # noqa: F401

from cluster.pool.executor import Finish, StopRun
from taba_core.artifacts.base import Artifact, from_attrs
from taba_core.diffusion.finite import checked_together
from taba_core.errors import UsageError, WorkError
from taba_core.store import Store
from workflows.compute.arrays import AnyArray, Arrays, all_in_memory, in_memory
from workflows.compute.batch import Batch, function_of
from workflows.compute.workbench import Workbench

PATH_VARIABLES = ("x_t", "eps_t")

# Going on is pointless when the disk is full or read-only: every other unit would fail the same way.
_FATAL = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


@dataclass(frozen=True)
class TaskPart:
    """One artifact of a unit.

    Attributes:
      attrs: its attributes.
      variables: what is stored of it.
      keeps_path: whether another part needs the whole sampling path, stored or not.
    """

    attrs: Mapping[str, Any]
    variables: tuple[str, ...]
    keeps_path: bool = False


@dataclass(frozen=True)
class ShardTask:
    """The payload of a unit: small, picklable, complete.

    Attributes:
      store: where the store is.
      parts: the artifacts whose shard is computed, in order; what a part reads of an earlier one is in memory.
      shard: which shard of all of them.
    """

    store: str
    parts: tuple[TaskPart, ...]
    shard: int


class ShardWorker(Workbench):
    """Runs shard tasks; one per worker process or thread. Models stay loaded between tasks."""

    def run(self, task: ShardTask) -> Finish:
        """Compute one shard, and leave its writing to the caller: the next one may compute meanwhile.

        Returns:
          What writes the shard of every part and returns its receipts by artifact key (files, bytes, checksums,
          seconds), JSON-able.
        Raises:
          StopRun: the disk refuses (full, read-only, quota), here or when writing: the run must end, nothing is
          lost.
        """
        writes = []
        with _stopping():
            store = Store.open(task.store)
            self.begin(store)
            for part in task.parts:
                started, self.notes = time.perf_counter(), {}
                artifact = from_attrs(dict(part.attrs))
                group = store.open_artifact(artifact)
                start, stop = group.shard_range(task.shard)
                batches = self._batches(artifact, start, stop, part.variables, keeps_path=part.keeps_path)
                self.wait()
                seconds = round(time.perf_counter() - started, 4)
                info = {"compute_seconds": seconds, "device": self.device, **self.notes}
                writes.append((group, batches, part.variables, info))
            self.begin(None)

        def write() -> dict[str, Any]:
            with _stopping():
                return {
                    group.artifact.key: group.write_shard(task.shard, _joined(batches, names), info).to_json()
                    for group, batches, names, info in writes
                }

        return Finish(write)

    def compute(self, artifact: Artifact, start: int, stop: int, variables: tuple[str, ...]) -> Arrays:
        """Variables of samples [start, stop) of an artifact, computed batch by batch, in main memory."""
        return _joined(self._batches(artifact, start, stop, variables), variables)

    def _batches(
        self,
        artifact: Artifact,
        start: int,
        stop: int,
        variables: tuple[str, ...],
        *,
        keeps_path: bool = False,
    ) -> list[dict[str, AnyArray]]:
        """The variables of every batch: states may still be on the device, and rows of statistics still to be made.

        All that is made stays in memory until the unit ends, for the parts that read it; of a generation also the
        path where `keeps_path` is set.
        """
        size, function = artifact.samples.batch_size, function_of(type(artifact))
        path = tuple(name for name in PATH_VARIABLES if keeps_path and name in artifact.variables())
        wanted = tuple(dict.fromkeys((*variables, *path)))
        firsts = range(start, stop, size)
        # Not inference_mode: some methods differentiate through the network, and no tensor made in that mode
        # (weights, prepared noise levels) may take part.
        together = checked_together() if self.runs_ahead else contextlib.nullcontext()
        with torch.no_grad(), together:
            for first in firsts:
                batch = Batch(self, artifact, first, min(first + size, stop), wanted)
                self.remember(artifact, first, function(batch))
        made = [self.made(artifact, first) for first in firsts]
        return [{name: batch[name] for name in variables} for batch in made]


def _joined(batches: list[dict[str, AnyArray]], names: tuple[str, ...]) -> Arrays:
    if len(batches) == 1:
        return all_in_memory(batches[0])
    return {name: np.concatenate([in_memory(batch[name]) for batch in batches]) for name in names}


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Errors that every other unit would meet too end the run; the rest is tried again."""
    try:
        yield
    except UsageError as error:
        raise StopRun(str(error)) from None  # asked for what cannot be: trying again would not help
    except WorkError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FATAL:
            raise StopRun(str(error)) from None
        raise
