"""What an inversion costs in seconds, apart from what is done beside it."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from taba_core.diffusion.denoiser import WrappedDenoiser, predict_ends
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.level import Level


class TimedDenoiser(WrappedDenoiser):
    """A denoiser that counts its evaluations and leaves the preparation of a level out of the time.

    A closed-form model prepares each level at its first use, which is no cost of the method that comes first.

    Args:
      finish: waits until the device has done what it was given.
    """

    def __init__(self, denoiser: Any, finish: Callable[[], None]) -> None:
        super().__init__(denoiser)
        self._finish = finish
        self._prepare = getattr(denoiser, "prepare", None)
        self._preparing, self._evaluations = 0.0, 0
        self._started = time.perf_counter()

    def eps(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """The denoiser's prediction of the noise."""
        self._note(len(x_t), t)
        return super().eps(x_t, t, cond)

    def predict(self, x: Tensor, level: Level, cond: Mapping[str, Tensor]) -> Ends:
        """The denoiser's prediction of both ends."""
        self._note(len(x), level.time)
        return predict_ends(self.denoiser, x, level, cond)

    def _note(self, batch: int, t: float | None) -> None:
        if self._prepare is not None:
            begun = time.perf_counter()
            self._prepare(t)
            self._preparing += time.perf_counter() - begun
        self._evaluations += batch * int(getattr(self.denoiser, "evaluations_per_image", 1))

    def seconds(self, evaluations: int) -> float:
        """Seconds since this was made, without preparation and without evaluations beyond the given number.

        Evaluations that only measure residuals cost what the others cost.
        """
        self._finish()
        spent = time.perf_counter() - self._started - self._preparing
        return spent * evaluations / max(self._evaluations, evaluations, 1)


@functools.cache
def processor(device: str) -> str:
    """Name of what computes on a device, as times are stated with."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"one core of {next(named, platform.processor() or platform.machine())}"
