"""Random numbers of a training step as a function of (seed, stream, step), never of a process.

Row b of a step's draw belongs to row b of the global batch. A draw is always made for the whole global batch and a
worker keeps its own rows, so the batch does not depend on how many workers share it. The generator is torch's own on
the device, seeded anew at every step: the numbers are the same on every device of one kind, and differ between a CPU
and a GPU.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def step_seed(seed: int, stream: str, step: int) -> int:
    """The 63-bit seed of one step's draws of one stream."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class StepDraws:
    """Source of a run's numbers.

    Attributes:
      seed: of the training.
      batch_size: rows of the global batch.
      device: where the numbers are drawn.
      worker, num_workers: this worker keeps rows worker, worker + num_workers, ... of the global batch.
    """

    seed: int
    batch_size: int
    device: torch.device
    worker: int = 0
    num_workers: int = 1

    def uniform(self, step: int, stream: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform numbers in [0, 1), float64, one row of `shape` for each row of this worker."""
        whole = torch.rand(
            (self.batch_size, *shape),
            generator=self._generator(step, stream),
            device=self.device,
            dtype=torch.float64,
        )
        return whole[self.worker :: self.num_workers]

    def normal(self, step: int, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float32, one row of `shape` for each row of this worker."""
        whole = torch.randn(
            (self.batch_size, *shape), generator=self._generator(step, stream), device=self.device
        )
        return whole[self.worker :: self.num_workers]

    def integers(self, step: int, stream: str, high: int) -> Tensor:
        """Uniform integers 0 to high - 1, int64, one for each row of this worker."""
        return (self.uniform(step, stream) * high).long().clamp_(max=high - 1)

    def _generator(self, step: int, stream: str) -> torch.Generator:
        generator = torch.Generator(self.device)
        generator.manual_seed(step_seed(self.seed, stream, step))
        return generator
