"""The processes that share one training: which of them this is, and how they average what each has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training.

    Several talk through torch's process group (gloo on CPUs, nccl on GPUs), which they must have joined.

    Attributes:
      rank: number of this process, from 0.
      count: number of processes.
    """

    rank: int = 0
    count: int = 1

    def join(self, host: str, port: int, *, use_gpu: bool) -> None:
        """Make torch's process group with the other ranks, which meet at this address; nothing for one alone."""
        if self.count > 1 and host and not dist.is_initialized():
            meeting = f"tcp://{host}:{port}"
            dist.init_process_group(
                "nccl" if use_gpu else "gloo", init_method=meeting, rank=self.rank, world_size=self.count
            )

    @property
    def first(self) -> bool:
        """Whether this process writes what all of them make."""
        return self.rank == 0

    def shared(self, module: nn.Module) -> nn.Module:
        """The module with gradients that are averaged over all ranks in its backward pass."""
        if self.count == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        # Buffers are constant tables of the schedule: there is nothing to send at every step.
        return DistributedDataParallel(module, broadcast_buffers=False)

    def mean(self, value: Tensor) -> float:
        """The mean over the ranks of a scalar that each of them has."""
        if self.count == 1:
            return float(value)
        total = value.detach().clone().to(torch.float64 if not value.is_cuda else value.dtype)
        dist.all_reduce(total)
        return float(total) / self.count

    def stream(self, name: str) -> str:
        """The name of a stream of random numbers that each rank draws for its own rows."""
        return name if self.count == 1 else f"{name}/{self.rank}"


ALONE = Ranks()
