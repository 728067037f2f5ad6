"""Solving one sampling step for its input by iteration, with a guard for each image.

The step x_{l-1} = S(x_l) is solved for x_l as the fixed point of g(z) = P_l x_{l-1} + Q_l f(z, t_l), f what moves
between levels carry (`ends.Held`): the noise, or eps - x_0 of networks that give both ends. Held noise gives the
Jacobian (Q_l / sigma_l) (I - (alpha_l / sigma_l)^2 Cov[x_0 | z]), whose eigenvalues are close to 1 where the image is
plain (slow) and below -1 where the posterior has several modes (divergence by oscillation, which damping cures).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from taba_core.diffusion.grid import Transition
from taba_core.diffusion.inversion.method import Fallback, Step
from taba_core.diffusion.inversion.problem import Problem, per_image_rms

# Axes: B samples in a batch, R rows of a batch, C channels, H rows, W columns; k iterates remembered.

DAMPING = 0.5


@dataclass(frozen=True, eq=False)
class Iterate:
    """One evaluated iterate: z, g(z) and the prediction behind g, each (B, C, H, W)."""

    z: Tensor
    g: Tensor
    eps: Tensor

    @cached_property
    def residual(self) -> Tensor:
        """g(z) - z, (B, C H W), float64."""
        return (self.g - self.z).double().flatten(1)


# Weights (B, k) of the remembered g(z), oldest first, that make the next iterate.
Mix = Callable[[Sequence[Iterate]], Tensor]


def newest(history: Sequence[Iterate]) -> Tensor:
    """z <- g(z)."""
    weights = history[-1].z.new_zeros((len(history[-1].z), len(history)), dtype=torch.float64)
    weights[:, -1] = 1
    return weights


def solve(
    problem: Problem,
    x: Tensor,
    move: Transition,
    z: Tensor,
    num_evaluations: int,
    *,
    mix: Mix = newest,
    window: int = 1,
    tolerance: float = 0.0,
) -> Step:
    """Iterate x_l from z, `num_evaluations` times or until rms(g(z) - z) <= tolerance > 0, each image by itself.

    Guard: where rms(g(z) - z) grows twice in a row, the image goes back to its best iterate and on with
    z <- z + 0.5 (g(z) - z) (`Fallback.DAMPED`); where it still grows twice in a row, its best iterate is the
    answer (`Fallback.BEST_ITERATE`) and it is evaluated no more.

    Args:
      x: x_{l-1}, (B, C, H, W).
      z: first iterate, same shape.
      mix: how the next iterate is made of the last `window` ones.
    """
    guard = _Guard(z, tolerance)
    history: deque[Iterate] = deque(maxlen=window)
    for _ in range(num_evaluations):
        history.append(_evaluate(problem, x, move, z, guard.active, history[-1] if history else None))
        guard.judge(history[-1])
        z = guard.next(z, _mean(mix(history), [it.g for it in history]))
        if not guard.active.any():
            break
    plain = (guard.code == Fallback.NONE) if mix is newest else torch.zeros_like(guard.active)
    return Step(z, _where(plain, history[-1].eps, problem.implied(x, z, move).eps), fallback=guard.code)


class _Guard:
    """What each image's residuals have done so far, and what follows from it."""

    def __init__(self, z: Tensor, tolerance: float) -> None:
        self.active = torch.ones(len(z), dtype=torch.bool, device=z.device)
        self.code = torch.zeros(len(z), dtype=torch.int8, device=z.device)
        self._tolerance = tolerance
        self._growing = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        self._last = torch.full((len(z),), math.inf, dtype=torch.float64, device=z.device)
        self._least = self._last.clone()
        self._best = self._best_g = z

    def judge(self, it: Iterate) -> None:
        """Take note of an iterate's residuals and set the codes of images that diverge."""
        r = it.residual.square().mean(1).sqrt()
        # Rounding moves a converged residual up and down; that is no growth.
        floor = 16 * torch.finfo(it.z.dtype).eps * per_image_rms(it.z)
        self._growing = torch.where((r > self._last) & (r > floor), self._growing + 1, 0)
        better = r < self._least
        self._least = torch.where(better, r, self._least)
        self._best, self._best_g = _where(better, it.z, self._best), _where(better, it.g, self._best_g)
        diverging = self.active & (self._growing >= 2)
        self._back = diverging & (self.code == Fallback.NONE)
        self._given_up = diverging & ~self._back
        self._last = torch.where(self._back, self._least, r)
        self._growing = torch.where(self._back, 0, self._growing)
        self.code[self._back] = int(Fallback.DAMPED)
        self.code[self._given_up] = int(Fallback.BEST_ITERATE)
        self._done = self.active & (r <= self._tolerance) & (self._tolerance > 0)
        self._it = it

    def next(self, z: Tensor, mixed: Tensor) -> Tensor:
        """The next iterate: `mixed`, or what the guard says; images that are done keep theirs."""
        if (self.code != Fallback.NONE).any():
            damped = self.code == Fallback.DAMPED
            mixed = _where(damped, _halfway(self._it.z, self._it.g), mixed)
            mixed = _where(self._back, _halfway(self._best, self._best_g), mixed)
            mixed = _where(self._given_up, self._best, mixed)
        if not self.active.all():
            mixed = _where(self.active, mixed, z)
        self.active = self.active & ~self._given_up & ~self._done
        return mixed


def _halfway(z: Tensor, g: Tensor) -> Tensor:
    return z + DAMPING * (g - z)


def _evaluate(
    problem: Problem, x: Tensor, move: Transition, z: Tensor, active: Tensor, last: Iterate | None
) -> Iterate:
    """z and g(z) of the active images; of the others what they were."""
    if last is None or bool(active.all()):
        return Iterate(z, *problem.move(x, problem.predict(z, move.asked_beyond), move))
    rows = active.nonzero()[:, 0]
    g, eps = problem.move(x[rows], problem.predict(z[rows], move.asked_beyond, rows=rows), move)
    old = (last.z, last.g, last.eps)
    return Iterate(*(a.index_copy(0, rows, b) for a, b in zip(old, (z[rows], g, eps), strict=True)))


def _mean(weights: Tensor, values: list[Tensor]) -> Tensor:
    if len(values) == 1:
        return values[0]
    shape = (-1, *[1] * (values[0].ndim - 1))
    first, *others = (w.view(shape).to(v.dtype) * v for w, v in zip(weights.unbind(1), values, strict=True))
    for part in others:
        first += part
    return first


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (yes.ndim - 1)), yes, no)
