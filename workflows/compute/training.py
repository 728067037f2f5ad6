"""What one rank of a training does: it trains, and the first one writes into the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taba_core.artifacts.training import Training
from taba_core.freed_memory import keep_freed_memory
from taba_core.store.place import json_bytes
from taba_core.store.trainings import TrainingFolder
from taba_core.training.checkpoint import write_whole
from taba_core.training.kept import TrainingProcess, train_and_keep
from taba_core.training.ranks import Ranks


@dataclass(frozen=True)
class TrainTask:
    """A training, as plain data that travel to every rank.

    Attributes:
      root: directory of the store, which every node sees.
      attrs: attributes of the training.
    """

    root: str
    attrs: Mapping[str, Any]

    def __call__(self, rank: int, count: int, device: str, meeting: tuple[str, int] = ("", 0)) -> None:
        """Take part as this rank of so many, which meet at a host and port."""
        torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
        if device == "cpu":
            keep_freed_memory()
        spec = Training.model_validate(self.attrs["spec"])
        folder = TrainingFolder(Path(self.root), spec)
        ranks = Ranks(rank, count)
        ranks.join(*meeting, use_gpu=device == "cuda")
        train_and_keep(spec, _StoreKeeper(folder), TrainingProcess(torch.device(device), ranks))


@dataclass(frozen=True)
class _StoreKeeper:
    folder: TrainingFolder

    @property
    def state(self) -> Path:
        return self.folder.state

    def facts(self, step: int) -> Mapping[str, Any] | None:
        return self.folder.facts(step)

    def keep(self, step: int, write: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
        self.folder.keep(step, write, facts)

    def say(self, progress: Mapping[str, Any]) -> None:
        write_whole(self.folder.progress, lambda path: _write(path, progress))


def _write(path: Path, progress: Mapping[str, Any]) -> None:
    path.write_bytes(json_bytes(dict(progress)))
