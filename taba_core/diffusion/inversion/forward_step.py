"""The forward step method: solve S(x) = x_{l-1} by x <- x - rho (S(x) - x_{l-1}), each image by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.inversion.method import Fallback
from taba_core.diffusion.inversion.problem import per_image_rms

# Axes: B samples in a batch, R rows of a batch, C channels, H rows, W columns.

# S(x) of the given rows of the batch: ((R, C, H, W), rows (R,)) -> (R, C, H, W).
StepBack = Callable[[Tensor, Tensor], Tensor]

WARM_UP = 20  # iterations over which rho rises to its value
PATIENCE = 20  # iterations without improvement before rho is halved
IMPROVEMENT = 1e-4  # relative


@dataclass(frozen=True)
class ForwardStep:
    """When to stop, and how large the steps are.

    Attributes:
      rho: step size.
      tolerance: an image stops at rms(S(x) - x_{l-1}) <= tolerance.
      max_iterations: evaluations at most.
      scheduled: rho warms up and is halved on a plateau; False leaves it as it is.
    """

    rho: float
    tolerance: Annotated[float, Field(ge=0)]
    max_iterations: int
    scheduled: bool = True

    def solve(self, step_back: StepBack, x_prev: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x with S(x) = x_prev, from the first guess x.

        Where the residual grows twice in a row, the image goes back to its best iterate with half the step size
        (`Fallback.DAMPED`); one that never gets below the tolerance ends at its best iterate
        (`Fallback.BEST_ITERATE`).

        Returns:
          x (B, C, H, W); rms(S(x) - x_prev) of it (B,), float64; fallback codes (B,).
        """
        run = _Run(self, x_prev, x)
        for iteration in range(self.max_iterations):
            rows = run.active.nonzero()[:, 0]
            if not len(rows):
                break
            run.advance(iteration, rows, step_back(run.x[rows], rows) - x_prev[rows])
        run.code[run.active] = int(Fallback.BEST_ITERATE)
        return run.best, run.least, run.code


class _Run:
    """The state of one solve: per image its iterate, its best one, its step size."""

    def __init__(self, method: ForwardStep, x_prev: Tensor, x: Tensor) -> None:
        def full(value: float) -> Tensor:
            return torch.full((len(x),), value, dtype=torch.float64, device=x.device)

        self._method = method
        self.x, self.best, self._best_gap = x.clone(), x.clone(), torch.zeros_like(x)
        self.active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self.code = torch.zeros(len(x), dtype=torch.int8, device=x.device)
        self.least, self._last, self._plateau = full(math.inf), full(math.inf), full(math.inf)
        self._rho, self._growing, self._idle = full(method.rho), full(0), full(0)
        # Below this the residual is rounding, and neither its growth nor its size says anything.
        self._floor = 16 * torch.finfo(x.dtype).eps * per_image_rms(x_prev)

    def advance(self, iteration: int, rows: Tensor, gap: Tensor) -> None:
        """Judge the iterates of the rows by their gaps S(x) - x_prev, and move those that go on."""
        r = per_image_rms(gap)
        better = r < self.least[rows]
        kept = rows[better]
        self.least[kept], self.best[kept], self._best_gap[kept] = r[better], self.x[kept], gap[better]
        grew = (r > self._last[rows]) & (r > self._floor[rows])
        self._growing[rows] = torch.where(grew, self._growing[rows] + 1, 0)
        self._last[rows] = r
        self.active[rows[r <= self._method.tolerance]] = False
        back = self._growing[rows] >= 2
        self._go_back(rows[back])
        self._wait(rows, r)
        ahead = rows[~back]
        warm = min(1.0, (iteration + 1) / WARM_UP) if self._method.scheduled else 1.0
        self.x[ahead] = self.x[ahead] - self._scaled(warm, ahead) * gap[~back]

    def _go_back(self, rows: Tensor) -> None:
        self._rho[rows] /= 2
        self._growing[rows] = 0
        self._last[rows] = self.least[rows]
        self.code[rows] = int(Fallback.DAMPED)
        self.x[rows] = self.best[rows] - self._scaled(1.0, rows) * self._best_gap[rows]

    def _wait(self, rows: Tensor, r: Tensor) -> None:
        """Halve rho after `PATIENCE` iterations in which the squared residual did not improve."""
        improved = r.square() < self._plateau[rows] * (1 - IMPROVEMENT)
        self._plateau[rows] = torch.where(improved, r.square(), self._plateau[rows])
        self._idle[rows] = torch.where(improved, 0, self._idle[rows] + 1)
        if self._method.scheduled:
            tired = rows[self._idle[rows] > PATIENCE]
            self._rho[tired] /= 2
            self._idle[tired] = 0

    def _scaled(self, factor: float, rows: Tensor) -> Tensor:
        return (factor * self._rho[rows]).to(self.x.dtype).view(-1, *[1] * (self.x.ndim - 1))
